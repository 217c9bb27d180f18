//! What all processes know of a schedule: a record beside its statistics.

use std::{collections::BTreeMap, time::Duration};

use queue_core::{Outcome, Payload, Record, Result, ScheduleStat, Timestamp, Version};
use serde::{Deserialize, Serialize};

use super::{cron::Calendar, planned::Planned};
use crate::{Queue, io::answering, jitter::repeated, time::StoreClock};

/// What both prefixes begin with: one listing reads all.
const RECORDS: &str = "schedule";
const KNOWN: &str = "schedule/";
const ERROR: &str = "schedule-error/";
/// How often a change is tried while others change the same record.
const TRIES: u32 = 20;

/// The record of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// Slots up to then are not fired: when it was first seen, or last resumed, by the store's clock.
    pub(super) since: Timestamp,
    pub(super) paused: bool,
    /// What it is; nothing while only its name is known.
    #[serde(default)]
    pub(super) about: Option<About>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    kind: String,
    queue: String,
    cron: String,
    zone: String,
}

impl About {
    pub(super) fn of(planned: &Planned) -> Self {
        About {
            kind: planned.job.kind.to_string(),
            queue: planned.job.queue.to_string(),
            cron: planned.calendar.expression().to_owned(),
            zone: planned.calendar.zone().to_owned(),
        }
    }
}

/// The error of an `after` hook: the store records errors with the slots that are yet to be fired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct AfterError {
    slot: Timestamp,
    error: String,
}

/// What the store has of all schedules.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) clock: StoreClock,
    pub(super) now: Timestamp,
    stats: BTreeMap<String, ScheduleStat>,
    known: BTreeMap<String, (Known, Version)>,
    errors: BTreeMap<String, AfterError>,
}

/// A schedule, as all processes see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ScheduleInfo {
    /// Its name.
    pub name: String,
    /// The task or workflow that it enqueues; `None` while no scheduler has seen it.
    pub kind: Option<String>,
    /// The queue into which it enqueues.
    pub queue: Option<String>,
    /// The cron expression.
    pub cron: Option<String>,
    /// The time zone in which the expression is read.
    pub zone: Option<String>,
    /// Whether it is paused.
    pub paused: bool,
    /// When it was first seen, or last resumed.
    pub since: Option<Timestamp>,
    /// The last slot fired or passed over.
    pub last_slot: Option<Timestamp>,
    /// The last job enqueued.
    pub last_job: Option<queue_core::JobId>,
    /// How many slots enqueued a job.
    pub fired: u64,
    /// How many slots were passed over, each for a reason of its own. Missed slots that one catch-up stands for are not counted.
    pub skipped: u64,
    /// The last error; it stays until a slot is fired without one.
    pub last_error: Option<String>,
    /// The next slot after now; `None` while it is paused.
    pub next: Option<Timestamp>,
}

impl Seen {
    /// Two trips besides the clock's, at once.
    pub(super) async fn read(queue: &Queue) -> Result<Self> {
        Self::read_within(Duration::MAX, queue).await
    }

    /// As [`read`](Self::read), each call for at most so long.
    pub(super) async fn read_within(patience: Duration, queue: &Queue) -> Result<Self> {
        let io = queue.io();
        let clock = repeated(|| answering(patience, StoreClock::read(io))).await?;
        let now = clock.now();
        let read = || {
            let call = io.call(|store| async move {
                futures::future::try_join(store.schedules(), store.records(RECORDS)).await
            });
            answering(patience, call)
        };
        let (stats, records) = repeated(read).await?;
        let mut seen = Seen {
            clock,
            now,
            stats: BTreeMap::new(),
            known: BTreeMap::new(),
            errors: BTreeMap::new(),
        };
        seen.stats.extend(stats.into_iter().map(|stat| (stat.schedule.clone(), stat)));
        for record in records {
            let Some(body) = &record.body else { continue };
            if let (Some(name), Ok(known)) = (record.key.strip_prefix(KNOWN), body.to()) {
                seen.known.insert(name.to_owned(), (known, record.version));
            } else if let (Some(name), Ok(error)) = (record.key.strip_prefix(ERROR), body.to()) {
                seen.errors.insert(name.to_owned(), error);
            }
        }
        Ok(seen)
    }

    pub(super) fn stat(&self, name: &str) -> Option<&ScheduleStat> {
        self.stats.get(name)
    }

    pub(super) fn known(&self, name: &str) -> Option<&(Known, Version)> {
        self.known.get(name)
    }

    pub(super) fn is_paused(&self, name: &str) -> bool {
        self.known(name).is_some_and(|(known, _)| known.paused)
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        self.stats.keys().chain(self.known.keys().filter(|name| !self.stats.contains_key(*name)))
    }

    /// `about` is what the caller knows better than the record.
    pub(super) fn info(&self, name: &str, about: Option<About>) -> ScheduleInfo {
        let known = self.known(name).map(|(known, _)| known);
        let about = about.or_else(|| known.and_then(|known| known.about.clone()));
        let paused = self.is_paused(name);
        let next = about
            .as_ref()
            .filter(|_| !paused)
            .and_then(|about| Calendar::read(&about.cron, &about.zone).ok()?.next(self.now));
        let stat = self.stat(name);
        let last_slot = stat.map(|stat| stat.last_slot);
        // An error of the last slot; the next one to be fired takes its place.
        let after = self.errors.get(name).filter(|error| Some(error.slot) == last_slot);
        let (kind, queue, cron, zone) = match about {
            Some(About { kind, queue, cron, zone }) => {
                (Some(kind), Some(queue), Some(cron), Some(zone))
            }
            None => (None, None, None, None),
        };
        ScheduleInfo {
            name: name.to_owned(),
            kind,
            queue,
            cron,
            zone,
            paused,
            since: known.map(|known| known.since),
            last_slot,
            last_job: stat.and_then(|stat| stat.last_job),
            fired: stat.map_or(0, |stat| stat.fired),
            skipped: stat.map_or(0, |stat| stat.skipped),
            last_error: after
                .map(|after| after.error.clone())
                .or_else(|| stat.and_then(|stat| stat.last_error.clone())),
            next,
        }
    }
}

/// Keeps the error of an `after` hook as the schedule's last.
pub(super) async fn keep_error(
    queue: &Queue,
    name: &str,
    slot: Timestamp,
    error: &str,
) -> Result<()> {
    let error = queue_core::name::clean_message(error);
    put(queue, format!("{ERROR}{name}"), &AfterError { slot, error }, None).await.map(drop)
}

/// Puts what is known of a schedule, if nobody else did since it was read. Whether it was put.
pub(super) async fn put_known(
    queue: &Queue,
    name: &str,
    known: &Known,
    expect: Version,
) -> Result<bool> {
    let key = format!("{KNOWN}{name}");
    match put(queue, key.clone(), known, Some(expect)).await? {
        // It was there once and was removed by somebody: its version goes on.
        Outcome::Conflict { actual } if expect == Version(0) => {
            let there = read(queue, name).await?;
            match there {
                Some(_) => Ok(false),
                None => {
                    Ok(matches!(put(queue, key, known, Some(actual)).await?, Outcome::Applied(_)))
                }
            }
        }
        outcome => Ok(matches!(outcome, Outcome::Applied(_))),
    }
}

async fn put<T: Serialize>(
    queue: &Queue,
    key: String,
    body: &T,
    expect: Option<Version>,
) -> Result<Outcome> {
    let record = Record::new(key, Payload::from_value(body)?);
    queue.io().call(move |store| async move { store.put_record(&record, expect).await }).await
}

async fn read(queue: &Queue, name: &str) -> Result<Option<(Known, Version)>> {
    Ok(Seen::read(queue).await?.known.remove(name))
}

impl Queue {
    /// What is known of every schedule that a worker has handled, by name. Three trips.
    ///
    /// # Errors
    /// Trouble with the store.
    pub async fn schedules(&self) -> Result<Vec<ScheduleInfo>> {
        let seen = Seen::read(self).await?;
        let mut infos: Vec<ScheduleInfo> = seen.names().map(|name| seen.info(name, None)).collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(infos)
    }

    /// Pauses a schedule, for all processes: none of its slots is fired from now on but one that is being fired at this moment. The name
    /// need not be known yet. A paused schedule stays so when it is paused again. Four trips, more if others change it too.
    ///
    /// # Errors
    /// `Invalid` for a name that no schedule can have; `Contention` if others change it all the time; trouble with the store.
    pub async fn pause_schedule(&self, name: &str) -> Result<()> {
        self.change_known(name, |known, now| match known {
            Some(known) if known.paused => None,
            Some(known) => Some(Known { paused: true, ..known }),
            None => Some(Known { since: now, paused: true, about: None }),
        })
        .await
    }

    /// Resumes a paused schedule, which goes on with its first slot after now: what fell into the pause is not
    /// caught up with. Does nothing to one that is not paused. Four trips, more if others change it too.
    ///
    /// # Errors
    /// As [`pause_schedule`](Self::pause_schedule).
    pub async fn resume_schedule(&self, name: &str) -> Result<()> {
        self.change_known(name, |known, now| {
            let paused = known.filter(|known| known.paused)?;
            Some(Known { since: now, paused: false, ..paused })
        })
        .await
    }

    async fn change_known(
        &self,
        name: &str,
        change: impl Fn(Option<Known>, Timestamp) -> Option<Known>,
    ) -> Result<()> {
        for _ in 0..TRIES {
            let seen = Seen::read(self).await?;
            let (known, version) = seen.known(name).cloned().unzip();
            let Some(changed) = change(known, seen.now) else { return Ok(()) };
            if put_known(self, name, &changed, version.unwrap_or_default()).await? {
                return Ok(());
            }
        }
        Err(queue_core::Error::new(
            queue_core::ErrorKind::Contention,
            format!("the schedule {name:?} is changed by others all the time"),
        ))
    }
}
