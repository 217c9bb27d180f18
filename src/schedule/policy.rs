use std::num::NonZeroU32;

/// Whether a worker that serves handles its schedules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheduling {
    /// It does, each slot as it comes.
    #[default]
    Automatic,
    /// It only runs jobs. [`Worker::handle_schedules`](crate::Worker::handle_schedules) works all the same.
    Off,
}

/// What becomes of slots that nobody handled in their time.
///
/// A slot is missed when a later one has passed too, or when it is handled so late that the schedule's
/// [`late_after`](crate::Schedule::late_after) is over. Whatever the policy, a new schedule does not fire for slots before the
/// moment in which it was first seen by a scheduler, and a resumed one not for slots before the resumption.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missed {
    /// They are passed over.
    Skip,
    /// The last of them is fired, for all.
    #[default]
    CatchUpOnce,
    /// The last of them are fired, up to so many, in order; at most [`Missed::MOST`].
    CatchUpAll(NonZeroU32),
}

impl Missed {
    /// The most slots that are caught up with.
    pub const MOST: u32 = 1_000;

    /// All missed slots, up to so many; 0 is 1, and more than [`Missed::MOST`] is that.
    pub const fn up_to(slots: u32) -> Self {
        let slots = if slots > Self::MOST { Self::MOST } else { slots };
        match NonZeroU32::new(slots) {
            Some(slots) => Missed::CatchUpAll(slots),
            None => Missed::CatchUpAll(NonZeroU32::MIN),
        }
    }

    pub(super) fn most(self) -> usize {
        match self {
            _ if broken!(AllMissedSlotsFire) => Self::MOST as usize,
            Missed::Skip | Missed::CatchUpOnce => 1,
            Missed::CatchUpAll(slots) => slots.get().min(Self::MOST) as usize,
        }
    }
}

/// Whether a slot is fired while an earlier job is waiting or running. A slot that is not is counted as skipped.
///
/// A job has one unique key. A task with a key of its own ([`Task::unique`](crate::Task::unique)) keeps that key, which then
/// decides instead: the slot is skipped while any job holds it, whoever enqueued that job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overlap {
    /// Not while a *scheduled* job of the same kind and queue is, from this schedule or another. Exact under any number of
    /// schedulers: the scheduled job carries a [`Unique`](crate::Unique) key.
    #[default]
    SkipWhileScheduled,
    /// Nor while a job of this kind and queue is that was enqueued by hand. Exact among scheduled jobs. Those enqueued
    /// by hand are counted just before the slot is fired, by one more trip: one that is enqueued between the count and
    /// the firing is not seen. To have it exact, give the task a unique key.
    SkipWhileAny,
    /// It is fired in any case.
    Allow,
}
