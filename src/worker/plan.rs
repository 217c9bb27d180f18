use std::{collections::VecDeque, num::NonZeroU32, time::Duration};

use queue_core::{ClaimRequest, Result, Timestamp};
use tokio::time::Instant;

use crate::{
    fresh::{Fresh, Handed},
    jitter::jittered,
    time::StoreClock,
};

/// The longest sleep of an idle worker: wake-ups may be lost.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
/// The shortest pause after an empty answer.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause after empty answers that promised jobs.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The pause after a claim that failed.
const AFTER_TROUBLE: Duration = Duration::from_millis(250);

/// When to ask for jobs, and with which requests: at once after a hint, else when the next one
/// falls due.
pub(super) struct Plan {
    not_before: Instant,
    wake_at: Instant,
    hurried: bool,
    /// The requests of this round that are still to be made. One whose answer was lost is made again
    /// with its token, so that what it took is found.
    round: VecDeque<ClaimRequest>,
    /// Whether the first request of the round was made, and its answer lost.
    unanswered: bool,
    /// Whether a claim of this round came back full: there is more where that came from.
    more: bool,
    earliest: Option<Timestamp>,
    /// The pause after an empty answer; it doubles while such answers promise jobs.
    pause: Duration,
}

impl Plan {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Plan {
            not_before: now,
            wake_at: now,
            hurried: false,
            round: VecDeque::new(),
            unanswered: false,
            more: false,
            earliest: None,
            pause: SHORTEST_PAUSE,
        }
    }

    /// Something may be due: asks as soon as the pause after the last answer is over.
    pub(super) fn hurry(&mut self) {
        self.hurried = true;
        self.pause = SHORTEST_PAUSE;
    }

    pub(super) const fn is_hurried(&self) -> bool {
        self.hurried
    }

    /// A request whose answer was lost.
    pub(super) fn unanswered(&mut self) -> Option<ClaimRequest> {
        if self.unanswered { self.round.pop_front() } else { None }
    }

    pub(super) fn ask_at(&self) -> Instant {
        if self.hurried { self.not_before } else { self.wake_at.max(self.not_before) }
    }

    pub(super) fn next_request(
        &mut self,
        free: Option<NonZeroU32>,
        requests: impl FnOnce(NonZeroU32) -> Vec<ClaimRequest>,
    ) -> Option<ClaimRequest> {
        let free = free?;
        if self.round.is_empty() {
            self.hurried = false;
            self.more = false;
            self.earliest = None;
            self.round = requests(free).into();
        }
        let mut request = self.round.pop_front()?;
        // Slots may have been taken since the round began.
        request.limit = request.limit.min(free);
        Some(request)
    }

    /// Plans on from an answer, and gives out its jobs.
    pub(super) fn take_in(
        &mut self,
        request: &ClaimRequest,
        claimed: Result<Handed>,
        clock: &StoreClock,
    ) -> Vec<Fresh> {
        let now = Instant::now();
        let claimed = match claimed {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::warn!(%error, "claiming failed; trying again");
                self.round.push_front(request.clone());
                self.unanswered = true;
                self.not_before = now + jittered(AFTER_TROUBLE);
                if broken!(TroubleEndsTheWorker) {
                    self.not_before = now + LONGEST_SLEEP * 1_000;
                }
                if broken!(TroubleIsRetriedAtOnce) {
                    self.not_before = now;
                }
                self.wake_at = self.not_before;
                return Vec::new();
            }
        };
        self.unanswered = false;
        let empty = claimed.jobs.is_empty();
        self.more |= u32::try_from(claimed.jobs.len()).is_ok_and(|n| n >= request.limit.get());
        self.earliest = [self.earliest, claimed.next_due].into_iter().flatten().min();
        let earliest = self.earliest.filter(|_| !broken!(IgnoresNextDue));
        let sleep = earliest.map_or(LONGEST_SLEEP, |due| clock.until(due));
        self.not_before = if empty { now + self.pause } else { now };
        // The store said that there is something, and gave nothing: its clock may be behind.
        self.pause = match empty && sleep.is_zero() {
            true => (self.pause * 2).min(LONGEST_PAUSE),
            false => SHORTEST_PAUSE,
        };
        self.wake_at = match self.more || !self.round.is_empty() {
            true => now,
            false => now + sleep.min(LONGEST_SLEEP),
        };
        claimed.jobs
    }
}
