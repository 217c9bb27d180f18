use std::{future::Future, sync::Arc};

use tokio::{sync::Barrier, task::JoinSet};

use crate::Checked;

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
