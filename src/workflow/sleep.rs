use std::time::Duration;

use futures::{FutureExt, future::BoxFuture};
use queue_core::{JobPatch, NewEntry, Timestamp};

use super::{
    entry::{SLEEP, StepEntry, StepState},
    gate::Node,
    wf::Wf,
};
use crate::TaskResult;

impl Wf {
    /// Sleeps for so long, durably.
    ///
    /// The end of the sleep is fixed in the job's log when the sleep first begins, by the store's clock; whoever runs
    /// the job later keeps to it. It does not end before. Its id must be unique among the sleeps of a run, and the same in each run.
    ///
    /// When nothing is left to do but to sleep, the job is given back until the end of its first sleep: it holds no
    /// slot and no lane, uses no attempt, and can be cancelled at once. It costs one write to begin (the one that gives the job back)
    /// and one claim to go on; the workflow then runs from the top. While steps run beside it, the job is held, and the sleep ends in the same run.
    ///
    /// - Waking the job early ([`BulkChange::Wake`](queue_core::BulkChange::Wake)) only makes it look: it sleeps on, and the log does not grow.
    /// - When a step beside it fails and is to be retried, the date of the retry alone decides when the job
    ///   comes back: a sleep that is over by then has ended late, one that is not goes on. So neither does a retry come before its
    ///   backoff, nor is it put off by a sleep that stands beside it as a time limit.
    /// - A sleep inside another step makes that step run again, from its beginning, when the sleep is over.
    ///
    /// # Errors
    /// An id that is malformed, or was used for another sleep in this run; final.
    pub fn sleep(
        &self,
        id: impl Into<String>,
        duration: Duration,
    ) -> BoxFuture<'_, TaskResult<()>> {
        let id = id.into();
        self.sleep_to(id, move |now| now.plus(duration)).boxed()
    }

    /// Sleeps until this instant of the store's clock, durably; else as [`sleep`](Self::sleep). The instant that was
    /// given when the sleep first began stands.
    ///
    /// # Errors
    /// As [`sleep`](Self::sleep).
    pub fn sleep_until(
        &self,
        id: impl Into<String>,
        at: Timestamp,
    ) -> BoxFuture<'_, TaskResult<()>> {
        let id = id.into();
        self.sleep_to(id, move |_| at).boxed()
    }

    async fn sleep_to(
        &self,
        id: String,
        until: impl FnOnce(Timestamp) -> Timestamp + Send,
    ) -> TaskResult<()> {
        self.open(SLEEP, &id)?;
        let past = self.0.history.of(SLEEP, &id);
        if past.is_some_and(|past| past.complete) {
            return Ok(());
        }
        let (gate, about) = (&self.0.gate, &self.0.about);
        let parent = Node::current();
        let parent_id = parent.as_ref().map(|node| node.id.clone());
        let _child = gate.nest(parent);
        let past = past.filter(|_| !broken!(SleepBeginsAnew));
        let begun = past.and_then(|past| Some((past.started_at, past.until?)));
        let now = about.now();
        let (started_at, until) = begun.unwrap_or_else(|| (now, until(now)));
        let entry = |state| {
            let entry = StepEntry {
                step: id.clone(),
                task: SLEEP.to_owned(),
                parent: parent_id.clone(),
                state,
                attempt: 1,
                input: None,
                output: None,
                error: None,
                until: Some(until),
                started_at,
                finished_at: about.now(),
            };
            entry.to_entry(about.max_bytes)
        };
        if until > now {
            let first =
                (begun.is_none() || broken!(LooksGrowTheLog)).then(|| entry(StepState::Sleeping));
            let is_stopping = || about.active.token.is_cancelled();
            gate.sleep(until, is_stopping, self.asleep(until, first)).await;
        }
        // It needs no write of its own: without this entry, the clock says the same.
        about.active.append_later(entry(StepState::Completed));
        if broken!(SleepsAreWrittenAtOnce) {
            self.record().await;
        }
        Ok(())
    }

    /// Waits for the end of a sleep, which `begun` records.
    async fn asleep(&self, until: Timestamp, begun: Option<NewEntry>) {
        let (gate, about) = (&self.0.gate, &self.0.about);
        let over = about.active.clock.sleep_until(until);
        tokio::pin!(over);
        if let Some(begun) = begun {
            // If nothing else is to be done, it rides with the write that gives the job back.
            about.active.append_later(begun);
            loop {
                let changed = gate.change();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if !gate.is_idle() {
                    break;
                }
                tokio::select! {
                    () = &mut over => return,
                    () = changed => {}
                }
            }
            // Steps run: a crash meanwhile must not make the sleep begin anew.
            if !broken!(SleepIsRecordedAtTheRelease) {
                self.record().await;
            }
        }
        if broken!(SleepEndsInAnotherRun) {
            std::future::pending::<()>().await;
        }
        over.await;
    }

    /// Writes what was put aside.
    pub(super) async fn record(&self) {
        let about = &self.0.about;
        if let Err(error) = about.active.write(&about.committer, JobPatch::default()).await {
            tracing::error!(job = %about.active.id, %error, "the beginning of a sleep was not stored; the job is given up");
            about.active.lose();
        }
    }
}
