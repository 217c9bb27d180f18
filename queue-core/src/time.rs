use std::{fmt, str::FromStr, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Error, Result};

/// An instant with microsecond precision, between the years 1 and 9999 (UTC).
///
/// Displayed, parsed and serialised as RFC 3339 with six fractional digits, for example
/// `2026-03-01T12:00:00.000000Z`. Arithmetic saturates at [`Timestamp::MIN`] and
/// [`Timestamp::MAX`]: a delay of a million years means "never", not an overflow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// `0001-01-01T00:00:00Z`.
    pub const MIN: Timestamp = Timestamp(-62_135_596_800_000_000);
    /// The last microsecond of the year 9999.
    pub const MAX: Timestamp = Timestamp(253_402_300_799_999_999);
    /// `1970-01-01T00:00:00Z`.
    pub const EPOCH: Timestamp = Timestamp(0);

    /// The instant that many microseconds after (or before) the Unix epoch.
    ///
    /// # Errors
    /// `Invalid` outside the years 1 to 9999.
    pub fn from_micros(micros: i64) -> Result<Self> {
        if (Self::MIN.0..=Self::MAX.0).contains(&micros) {
            Ok(Timestamp(micros))
        } else {
            Err(Error::invalid(format!(
                "{micros} microseconds from the Unix epoch is outside the years 1 to 9999"
            )))
        }
    }

    /// As [`Timestamp::from_micros`], with instants out of range moved to the nearest end.
    pub fn from_micros_saturating(micros: i64) -> Self {
        Timestamp(micros.clamp(Self::MIN.0, Self::MAX.0))
    }

    /// Microseconds since the Unix epoch; negative before it.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The instant `delay` later, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn plus(self, delay: Duration) -> Self {
        let micros = i64::try_from(delay.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros_saturating(self.0.saturating_add(micros))
    }

    /// The instant `delay` earlier, at least [`Timestamp::MIN`].
    #[must_use]
    pub fn minus(self, delay: Duration) -> Self {
        let micros = i64::try_from(delay.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros_saturating(self.0.saturating_sub(micros))
    }

    /// How long it is from `self` until `later`; zero when `later` is not later.
    pub fn until(self, later: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::<Utc>::from_timestamp_micros(self.0) {
            Some(at) => f.write_str(&at.to_rfc3339_opts(SecondsFormat::Micros, true)),
            None => write!(f, "{}us", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let at = DateTime::parse_from_rfc3339(text).map_err(|error| {
            Error::invalid(format!("{text:?} is not an RFC 3339 timestamp: {error}"))
        })?;
        Self::from_micros(at.timestamp_micros())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// When a job falls due.
///
/// `Now` and `After` are resolved by the *store's* clock, so a client whose clock is wrong can
/// neither hurry nor delay a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// At the moment at which the store executes the call.
    Now,
    /// At this instant; one that has passed makes the job due at once, with that place in the order.
    At(Timestamp),
    /// This long after the moment at which the store executes the call.
    After(Duration),
}

impl When {
    /// The instant meant, for a store whose clock shows `now`.
    pub fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            When::Now => now,
            When::At(at) => at,
            When::After(delay) => now.plus(delay),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_with_microseconds() {
        for micros in [0, 1, -1, 1_772_366_400_123_456, Timestamp::MIN.0, Timestamp::MAX.0] {
            let at = Timestamp::from_micros(micros).unwrap();
            assert_eq!(at.to_string().parse::<Timestamp>().unwrap(), at);
        }
        assert_eq!(Timestamp::EPOCH.to_string(), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Timestamp::EPOCH.plus(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::EPOCH.minus(Duration::MAX), Timestamp::MIN);
        assert_eq!(Timestamp::MAX.until(Timestamp::MIN), Duration::ZERO);
    }

    #[test]
    fn instants_outside_the_calendar_are_refused() {
        assert!(Timestamp::from_micros(Timestamp::MAX.0 + 1).is_err());
        assert!(Timestamp::from_micros(Timestamp::MIN.0 - 1).is_err());
    }
}
