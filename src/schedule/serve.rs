//! Handling as a worker does it: by the store's clock, or when it is asked to.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::FutureExt;
use queue_core::{QueueName, Result, Timestamp};
use tokio::{
    runtime::Handle,
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Handled, Scheduler,
    known::Seen,
    pass::{Course, Round},
};
use crate::{io::surviving, jitter::jittered, time::StoreClock};

/// The longest sleep without a look at the store's clock.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// The pause after trouble with the store.
const AFTER_TROUBLE: Duration = Duration::from_millis(500);
/// How far workers that wait for one slot spread, after it: the first fires it, and the others see that it is fired.
const SPREAD: Duration = Duration::from_millis(20);

impl Scheduler {
    /// Handles what is due at its beginning, each schedule in its turn, until all of that is handled or the store failed. What
    /// becomes due meanwhile is left: with slow hooks there would be no end.
    pub(crate) async fn handle_once(&self, queues: Option<&[QueueName]>) -> Result<Handled> {
        let queues = queues.filter(|_| !broken!(HandlingIsOfAllQueues));
        if self.is_idle(queues) {
            return Ok(Handled::default());
        }
        let (mut all, mut begun) = (Handled::default(), None);
        loop {
            let mut seen = self.look().await?;
            seen.now = *begun.get_or_insert(seen.now);
            let Round { handled, more, again } = self.round(queues, seen, &Handle::current()).await;
            all.extend(handled);
            if again || !more {
                return Ok(all);
            }
        }
    }

    /// Handles each slot as it comes, until `over` is cancelled: on the thread for I/O, so that no handler holds it up. The hooks run
    /// where handlers do.
    pub(crate) fn start(self: &Arc<Self>, over: CancellationToken) -> Option<JoinHandle<()>> {
        let io = self.queue().io().handle().filter(|_| !self.is_idle(None))?;
        Some(io.spawn(serve(self.clone(), Handle::current(), over)))
    }
}

async fn serve(scheduler: Arc<Scheduler>, hooks: Handle, over: CancellationToken) {
    let mut courses = Courses::new(scheduler, hooks, over.clone());
    while !over.is_cancelled() {
        match surviving(courses.scheduler.look()).await {
            Ok(seen) => {
                let seen = Arc::new(seen);
                courses.begin(&seen);
                courses.until_a_look_is_due(&seen.clock).await;
            }
            Err(_) if broken!(SchedulerEndsWithTrouble) => break,
            Err(error) => {
                tracing::warn!(%error, "the schedules could not be read; trying again");
                over.run_until_cancelled(tokio::time::sleep(jittered(AFTER_TROUBLE))).await;
            }
        }
    }
    // What began is ended: a hook that was asked is also told.
    while courses.ended().await {}
}

/// What is being done for schedules. Each has one course at a time, in the order of its slots, and none waits for that of
/// another: one whose hook is slow misses slots, if any, of its own.
struct Courses {
    scheduler: Arc<Scheduler>,
    hooks: Handle,
    over: CancellationToken,
    running: JoinSet<Ended>,
    /// The schedules without a course, by their places, and when the next look at each is worth while. Paused ones count: they
    /// may be resumed by then.
    resting: BTreeMap<usize, Option<Timestamp>>,
    /// Whether one of them has something to do at once.
    more: bool,
}

/// A course that has ended.
struct Ended {
    place: usize,
    wake: Option<Timestamp>,
    more: bool,
}

impl Courses {
    fn new(scheduler: Arc<Scheduler>, hooks: Handle, over: CancellationToken) -> Self {
        let resting = (0..scheduler.planned().len()).map(|place| (place, None)).collect();
        Courses { scheduler, hooks, over, running: JoinSet::new(), resting, more: false }
    }

    /// Begins a course for each schedule that has none.
    fn begin(&mut self, seen: &Arc<Seen>) {
        self.more = false;
        for place in std::mem::take(&mut self.resting).into_keys() {
            let (scheduler, hooks) = (self.scheduler.clone(), self.hooks.clone());
            let (seen, over) = (seen.clone(), self.over.clone());
            self.running.spawn(async move {
                let planned = &scheduler.planned()[place];
                let course = async {
                    let Course { again, more, .. } = scheduler.handle(planned, &seen, &hooks).await;
                    Ok((again, more, planned.calendar.next(seen.now)))
                };
                let (again, more, wake) = surviving(course).await.unwrap_or((true, true, None));
                if again {
                    over.run_until_cancelled(tokio::time::sleep(jittered(AFTER_TROUBLE))).await;
                }
                Ended { place, wake, more: again || more }
            });
        }
    }

    /// Waits until there is something to do for a schedule without a course.
    async fn until_a_look_is_due(&mut self, clock: &StoreClock) {
        let latest = Instant::now() + LONGEST_SLEEP;
        let over = self.over.clone();
        while !self.more {
            let running = !self.running.is_empty();
            let held_up = running && broken!(ASlowScheduleHoldsUpTheOthers);
            let rests = !self.resting.is_empty() && !held_up;
            let wake = self.resting.values().flatten().min().copied();
            tokio::select! {
                () = over.cancelled() => return,
                _ = self.ended(), if running => {}
                () = rest(clock, wake, latest), if rests => return,
            }
        }
        // Those that have ended too need no look of their own.
        while self.ended().now_or_never() == Some(true) {}
    }

    /// Waits for the end of a course. Whether there was one.
    async fn ended(&mut self) -> bool {
        match self.running.join_next().await {
            Some(Ok(Ended { place, wake, more })) => {
                self.resting.insert(place, wake);
                self.more |= more;
                true
            }
            // The program ends: nothing else breaks one off.
            Some(Err(_)) => true,
            None => false,
        }
    }
}

/// Waits for a slot, a move of a manual clock, or until it is long enough.
async fn rest(clock: &StoreClock, wake: Option<Timestamp>, latest: Instant) {
    let seen = clock.now();
    let slot = async {
        match wake {
            Some(next) => clock.sleep_until(next).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = slot => tokio::time::sleep(jittered(SPREAD)).await,
        () = clock.moved_from(seen) => {}
        () = tokio::time::sleep_until(latest) => {}
    }
}
