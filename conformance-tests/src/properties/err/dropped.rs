use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use queue_core::Effect;

use super::{
    Reference, check_effect, check_repeat, is_write,
    scenes::{Scene, scenes},
};
use crate::{Case, Checked, Stop};

/// How often a call is dropped at most, each time a step later.
const STEPS: usize = 24;
/// And at instants that are none of its steps.
const MICROS: [u64; 4] = [40, 150, 600, 2_500];

/// How long a call that was dropped may take to arrive before it counts as one that never will.
const ARRIVAL: Duration = Duration::from_millis(40);

/// A call that is dropped when it was polled so often. `None` then.
struct Steps<F> {
    call: Pin<Box<F>>,
    left: usize,
}

impl<F: Future> Future for Steps<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.left.checked_sub(1) {
            None => Poll::Ready(None),
            Some(left) => {
                self.left = left;
                self.call.as_mut().poll(context).map(Some)
            }
        }
    }
}

pub(super) async fn whole_or_not_at_all(case: &Case<'_>) -> Checked {
    let (store, reference) = (case.store(), Reference::of(case)?);
    let (mut dropped, mut happened) = (0, 0);
    let names: Vec<&str> = scenes(case, "names")?.iter().map(|scene| scene.name).collect();
    for (index, name) in names.into_iter().enumerate() {
        let mut is_through = false;
        for step in 0..STEPS + MICROS.len() {
            let tag = format!("dropped {step}");
            let scene: Scene = match scenes(case, &tag)?.into_iter().nth(index) {
                Some(scene) if is_write(&scene.op) => scene,
                _ => break,
            };
            if is_through && step < STEPS {
                continue;
            }
            let scenes = std::slice::from_ref(&scene);
            let expected = reference.prepare(case, store, scenes).await?.remove(0);
            let call = scene.op.run(&**store);
            let answered = match step.checked_sub(STEPS) {
                None => Steps { call: Box::pin(call), left: step }.await,
                Some(late) => {
                    tokio::time::timeout(Duration::from_micros(MICROS[late]), call).await.ok()
                }
            };
            match answered {
                Some(answer) => {
                    is_through = true;
                    answer?;
                }
                None => {
                    dropped += 1;
                    // What nobody waits for any more may still be on its way.
                    let given = Instant::now();
                    loop {
                        let has =
                            check_effect(&reference, store, &scene, &expected, Effect::Unknown)
                                .await;
                        if has.map_err(|stop| at(stop, name, step))? {
                            happened += 1;
                            break;
                        }
                        // Before its first step a call has not begun.
                        if step == 0 || given.elapsed() > ARRIVAL {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
            }
            let repeated = check_repeat(&reference, store, &scene, &expected).await;
            repeated.map_err(|stop| at(stop, name, step))?;
        }
    }
    case.note(format!("{dropped} calls dropped, of which {happened} had happened"));
    Ok(())
}

fn at(stop: Stop, name: &str, step: usize) -> Stop {
    let place = match step.checked_sub(STEPS) {
        None => format!("after {step} steps"),
        Some(late) => format!("after {} us", MICROS[late]),
    };
    match stop {
        Stop::Fail(why) => Stop::fail(format!("`{name}` was dropped {place}: {why}")),
        other => other,
    }
}
