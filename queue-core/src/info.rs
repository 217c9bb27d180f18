use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, NewJob, Payload, Record, Result};

/// Who a store is and what it promises beyond correctness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StoreInfo {
    /// A short name, for example `memory`.
    pub name: Cow<'static, str>,
    /// What it promises.
    pub capabilities: Capabilities,
}

impl StoreInfo {
    /// A store with this name and these capabilities.
    pub fn new(name: impl Into<Cow<'static, str>>, capabilities: Capabilities) -> Self {
        StoreInfo { name: name.into(), capabilities }
    }
}

/// What may differ between stores. Correctness is not among it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether what was acknowledged survives the loss of power.
    pub durable: bool,
    /// Who can share one store.
    pub reach: Reach,
    /// How far the wake-ups reach; `None` when the stream stays silent and workers poll.
    pub wakeups: Option<Reach>,
    /// How long after its `run_at` a job may become claimable.
    pub schedule_slack: Duration,
    /// The largest payload (input, output, error, body of a log entry) in bytes.
    pub max_payload_bytes: u64,
    /// The largest job, with its log, in bytes; `None` when only the disk limits it.
    pub max_job_bytes: Option<u64>,
}

impl Capabilities {
    /// The largest payload unless a store says otherwise: 16 MiB.
    pub const MAX_PAYLOAD_BYTES: u64 = 16 * 1024 * 1024;

    /// The least that a store can promise: nothing is durable, one process, no wake-ups.
    pub const fn new(reach: Reach) -> Self {
        Capabilities {
            durable: false,
            reach,
            wakeups: None,
            schedule_slack: Duration::ZERO,
            max_payload_bytes: Self::MAX_PAYLOAD_BYTES,
            max_job_bytes: None,
        }
    }

    /// Checks new jobs, sizes included. Stores call it before they store anything.
    ///
    /// # Errors
    /// `Invalid` or `TooLarge`, saying which job and why.
    pub fn check_new(&self, jobs: &[NewJob]) -> Result<()> {
        for job in jobs {
            job.check()?;
            if job.input.len() as u64 > self.max_payload_bytes {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    format!(
                        "the input of job {} has {} bytes; this store takes {}",
                        job.id,
                        job.input.len(),
                        self.max_payload_bytes
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Checks a record, its size included. Stores call it first.
    ///
    /// # Errors
    /// `Invalid` for a malformed key, `TooLarge` for a body larger than a payload may be.
    pub fn check_record(&self, record: &Record) -> Result<()> {
        record.check()?;
        let bytes = record.body.as_ref().map_or(0, Payload::len) as u64;
        match bytes > self.max_payload_bytes {
            false => Ok(()),
            true => Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "the record {:?} has {bytes} bytes; this store takes {}",
                    record.key, self.max_payload_bytes
                ),
            )),
        }
    }
}

/// How far something reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// One process.
    Process,
    /// The processes of one machine.
    Host,
    /// Any machine.
    Network,
}
