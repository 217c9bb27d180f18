use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Error, Result, Timestamp};

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident, $noun:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh, time-ordered id (UUIDv7). Ids minted by one process ascend.
            #[allow(clippy::new_without_default)]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// Wraps an id that the caller minted.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The id as a UUID.
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                text.parse().map(Self).map_err(|error| {
                    Error::invalid(format!(concat!("{:?} is not a ", $noun, " id: {}"), text, error))
                })
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }
    };
}

uuid_newtype! {
    /// Names a job. Minted by the caller, so that an insert whose answer was lost can be repeated.
    JobId, "job"
}

uuid_newtype! {
    /// Names a log entry within its job. Minted by the caller: appending the same id again is a no-op.
    EntryId, "log entry"
}

/// The namespace of the ids of scheduled jobs.
const SCHEDULED: Uuid = Uuid::from_u128(0x6f0c_58a1_9b1e_5d0a_8d3e_5b0f_9a6c_2e71);
/// The namespace of the ids of jobs retried by hand.
const RETRIED: Uuid = Uuid::from_u128(0x1d0e_7b52_42a9_5c6f_a7b4_90c1_3f5d_8e26);

impl JobId {
    /// The id of the job that a schedule enqueues for one slot: UUIDv5 (RFC 9562, section 5.5) of
    /// the schedule's name and the slot, so that any number of schedulers make one job.
    pub fn for_slot(schedule: &str, slot: Timestamp) -> Self {
        let name = format!("{schedule}\0{}", slot.as_micros());
        Self(Uuid::new_v5(&SCHEDULED, name.as_bytes()))
    }

    /// The id of the job that retries a finished one by hand: UUIDv5 of the old id and its fence,
    /// so that two clicks make one job.
    pub fn for_retry(old: JobId, fence: Fence) -> Self {
        let name = format!("{old}\0{}\0{}", fence.count, fence.nonce);
        Self(Uuid::new_v5(&RETRIED, name.as_bytes()))
    }
}

/// The position of an entry in its job's log: 1 for the first, without gaps, given by the store.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Counts the changes of a job (or a record) that an optimistic editor must not overwrite.
///
/// A new job has version 1. Every change of its state, labels, priority, queue, due time or cancel mark
/// adds one; log appends, heartbeats and a holder's progress do not, because they commute with
/// edits.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Proof of holding a job: the claim's count and the claim request's own token.
///
/// `count` goes up by one at every claim of the job. `nonce` is the token of the claim request, so
/// that a fence never repeats even where a failover loses the commit that raised the count. Every write by a worker
/// carries the fence it was given; a store refuses a stale one. (Fencing tokens: M. Kleppmann, "How
/// to do distributed locking", 2016.)
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Fence {
    /// How often the job has been claimed; 0 before the first claim.
    pub count: u64,
    /// The token of the claim that holds, or last held, the job; nil before the first claim.
    pub nonce: Uuid,
}

impl Fence {
    /// The fence given to the `count`-th claim of a job, by the request with this token.
    pub const fn new(count: u64, nonce: Uuid) -> Self {
        Fence { count, nonce }
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.count, self.nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_minted_by_one_process_ascend() {
        let ids: Vec<JobId> = (0..1_000).map(|_| JobId::new()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn a_slot_has_one_id_and_every_other_slot_another() {
        let slot = Timestamp::EPOCH;
        let next = Timestamp::from_micros(1).unwrap();
        assert_eq!(JobId::for_slot("nightly", slot), JobId::for_slot("nightly", slot));
        assert_ne!(JobId::for_slot("nightly", slot), JobId::for_slot("nightly", next));
        assert_ne!(JobId::for_slot("nightly", slot), JobId::for_slot("hourly", slot));
    }

    #[test]
    fn a_malformed_id_is_named_in_the_error() {
        let error = "abc".parse::<JobId>().unwrap_err();
        assert!(error.to_string().contains("\"abc\" is not a job id"), "{error}");
    }
}
