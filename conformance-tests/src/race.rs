use std::{future::Future, sync::Arc};

use tokio::{sync::Barrier, task::JoinSet};

use crate::{Checked, Stop};

/// Runs `n` tasks that start together behind a barrier, and answers with their results by number.
///
/// # Errors
/// The first failure among them; a panic is one.
pub async fn race<T, F, Fut>(n: usize, racer: F) -> Checked<Vec<T>>
where
    T: Send + 'static,
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Checked<T>> + Send + 'static,
{
    let gate = Arc::new(Barrier::new(n));
    let mut running = JoinSet::new();
    for i in 0..n {
        let (gate, racer) = (gate.clone(), racer(i));
        running.spawn(async move {
            gate.wait().await;
            (i, racer.await)
        });
    }
    let mut results = Vec::with_capacity(n);
    while let Some(ended) = running.join_next().await {
        let (i, result) = ended?;
        results.push((i, result?));
    }
    results.sort_by_key(|(i, _)| *i);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// Runs two calls at once. Which of them gets ahead, and by how much, goes with the number of the round,
/// so that a few rounds see either order.
///
/// # Errors
/// The first failure of the two; a panic is one.
pub(crate) async fn duel<A, B>(
    round: usize,
    one: impl Future<Output = Checked<A>> + Send + 'static,
    other: impl Future<Output = Checked<B>> + Send + 'static,
) -> Checked<(A, B)>
where
    A: Send + 'static,
    B: Send + 'static,
{
    let gate = Arc::new(Barrier::new(2));
    let lag = 1 + round / 2 % 3;
    let lags = if round.is_multiple_of(2) { (0, lag) } else { (lag, 0) };
    let one = held_back(gate.clone(), lags.0, one);
    let other = held_back(gate, lags.1, other);
    // Aborted when the property is given up.
    let (mut first, mut second) = (JoinSet::new(), JoinSet::new());
    first.spawn(one);
    second.spawn(other);
    let (Some(first), Some(second)) = tokio::join!(first.join_next(), second.join_next()) else {
        return Err(Stop::inconclusive("a task of the suite vanished"));
    };
    Ok((first??, second??))
}

async fn held_back<F: Future>(gate: Arc<Barrier>, lag: usize, call: F) -> F::Output {
    gate.wait().await;
    for _ in 0..lag {
        tokio::task::yield_now().await;
    }
    call.await
}
