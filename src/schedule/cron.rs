//! When a schedule is due: a cron expression read in a time zone.

use std::fmt;

use chrono::{DateTime, SubsecRound, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use queue_core::Timestamp;

use super::ScheduleFault;

/// A cron expression in a time zone. Its slots are whole seconds.
#[derive(Clone)]
pub(super) struct Calendar {
    cron: Cron,
    expression: String,
    zone: Tz,
}

impl Calendar {
    /// Reads an expression of 5 or 6 fields, or a nickname such as `@daily`, and the name of a zone.
    pub(super) fn read(expression: &str, zone: &str) -> Result<Self, ScheduleFault> {
        let zone = read_zone(zone)?;
        let refused = |why: String| ScheduleFault::Cron { expression: expression.to_owned(), why };
        let fields: Vec<&str> = expression.split_whitespace().collect();
        if !matches!(fields.len(), 5 | 6) && !expression.trim().starts_with('@') {
            return Err(refused(format!("it has {} fields", fields.len())));
        }
        let parser =
            CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(expression).map_err(|error| refused(error.to_string()))?;
        let calendar = Calendar { cron, expression: fields.join(" "), zone };
        // Whether it ever fires does not depend on today; 40 years have every combination of day and weekday.
        match calendar.next(Timestamp::EPOCH) {
            Some(_) => Ok(calendar),
            None => Err(ScheduleFault::NeverFires { expression: calendar.expression }),
        }
    }

    /// The expression, its fields apart by one space.
    pub(super) fn expression(&self) -> &str {
        &self.expression
    }

    pub(super) fn zone(&self) -> &'static str {
        self.zone.name()
    }

    /// The first slot after an instant.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let slot = self.cron.find_next_occurrence(&self.local(after)?, false).ok()?;
        let slot = stamp(&slot)?;
        (slot > after).then_some(slot)
    }

    /// The last slot at or before an instant.
    fn last(&self, at: Timestamp) -> Option<Timestamp> {
        let slot = self.cron.find_previous_occurrence(&self.local(at)?, true).ok()?;
        let slot = stamp(&slot)?;
        (slot <= at).then_some(slot)
    }

    /// The newest slots after `floor`, up to `now` inclusive, and no more than `most`; in order. The work is by `most`, not by how
    /// long ago `floor` is: it looks back from `now`.
    pub(super) fn newest(&self, floor: Timestamp, now: Timestamp, most: usize) -> Vec<Timestamp> {
        let mut slots = Vec::new();
        let mut at = now;
        while slots.len() < most {
            let Some(slot) = self.last(at).filter(|slot| *slot > floor) else { break };
            slots.push(slot);
            at = slot.minus(std::time::Duration::from_micros(1));
        }
        slots.reverse();
        slots
    }

    /// The whole second in which an instant lies, in the zone: the search knows no fractions.
    fn local(&self, at: Timestamp) -> Option<DateTime<Tz>> {
        let utc = DateTime::<Utc>::from_timestamp_micros(at.as_micros())?;
        Some(utc.trunc_subsecs(0).with_timezone(&self.zone))
    }
}

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.expression, self.zone.name())
    }
}

fn stamp(slot: &DateTime<Tz>) -> Option<Timestamp> {
    Timestamp::from_micros(slot.timestamp_micros()).ok()
}

fn read_zone(name: &str) -> Result<Tz, ScheduleFault> {
    name.parse().map_err(|_| {
        let wanted = name.trim().to_ascii_lowercase().replace(' ', "_");
        let city = |known: &str| known.rsplit('/').next().unwrap_or(known).to_ascii_lowercase();
        let near = TZ_VARIANTS.iter().map(|zone| zone.name()).find(|known| {
            known.to_ascii_lowercase() == wanted || (!wanted.is_empty() && city(known) == wanted)
        });
        ScheduleFault::Zone { zone: name.to_owned(), near: near.unwrap_or("Europe/Berlin") }
    })
}
