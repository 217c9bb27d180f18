//! Stores whose wake-ups do not come, or come to nothing.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures::{FutureExt, StreamExt, stream};
use queue_core::{
    Claimed, Wakeup,
    spec::{Answer, Op},
};

use super::{Flaw, Mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new("wake-ups-never-come", "wake-ups are promised, and none comes", &["WAK-1"], || {
        Flaw::none().hearing(|_| stream::pending().boxed())
    }),
    Mutant::new("wake-ups-only-of-queues", "a lane that is freed wakes nobody", &["WAK-1"], || {
        Flaw::none()
            .hearing(|hints| hints.filter(|hint| std::future::ready(hint.queue.is_some())).boxed())
    }),
    Mutant::new(
        "claims-wait-for-wake-ups",
        "jobs are looked for only after a wake-up was heard",
        &["WAK-2"],
        || {
            let heard = Arc::new(AtomicBool::new(false));
            let hears = heard.clone();
            let flaw = Flaw::none().hearing(move |hints| {
                let hears = hears.clone();
                hints.inspect(move |_| hears.store(true, Ordering::SeqCst)).boxed()
            });
            flaw.around(move |way, op| {
                let is_deaf = !heard.load(Ordering::SeqCst);
                async move {
                    match op {
                        Op::Claim(_) if is_deaf => Ok(Answer::Claimed(Claimed::default())),
                        op => op.run(&*way.broken).await,
                    }
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "stream-ends-with-its-connection",
        "after an error no wake-up comes any more",
        &["WAK-3"],
        || {
            let broken = Arc::new(AtomicBool::new(false));
            let ends = broken.clone();
            let flaw = Flaw::none().hearing(move |hints| {
                let ends = ends.clone();
                hints.take_while(move |_| std::future::ready(!ends.load(Ordering::SeqCst))).boxed()
            });
            flaw.around(move |way, op| {
                let broken = broken.clone();
                async move {
                    let answer = op.run(&*way.broken).await;
                    broken.fetch_or(answer.is_err(), Ordering::SeqCst);
                    answer
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "wake-ups-without-a-promise",
        "no wake-ups are promised, and yet some come",
        &["WAK-4"],
        || Flaw::none().mute().hearing(|_| stream::repeat(Wakeup::anywhere()).boxed()),
    ),
    Mutant::new(
        "mute-and-blind",
        "without wake-ups nothing says when to ask again",
        &["WAK-4"],
        || {
            Flaw::none().mute().claim(|world, request, now| {
                let mut claimed = world.claim(request, now)?;
                claimed.next_due = None;
                Ok(claimed)
            })
        },
    ),
];
