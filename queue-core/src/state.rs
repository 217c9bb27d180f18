use std::{fmt, ops, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The five stored states of a job.
///
/// "Scheduled", "ready" and "retrying" are not states: they follow from `run_at`, `attempt` and the store's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not running: due, not yet due, or waiting for a retry.
    Waiting,
    /// Held by a worker, or by one that died and whose lease has not been reaped.
    Running,
    /// Ended well. Final.
    Completed,
    /// Ended badly. Final.
    Failed,
    /// Ended on request. Final.
    Cancelled,
}

impl State {
    /// All states, in the order of their codes.
    pub const ALL: [State; 5] =
        [Self::Waiting, Self::Running, Self::Completed, Self::Failed, Self::Cancelled];

    /// A small number for storage: 0 to 4, and it stays so.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The state with this code.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Waiting),
            1 => Some(Self::Running),
            2 => Some(Self::Completed),
            3 => Some(Self::Failed),
            4 => Some(Self::Cancelled),
            _ => None,
        }
    }

    /// Whether nothing leads out of this state.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The states that a job in this state may enter next: the one transition table.
    ///
    /// | from | to |
    /// |---|---|
    /// | `Waiting` | `Running` (claim), `Cancelled` |
    /// | `Running` | `Completed`, `Failed`, `Cancelled`, `Waiting` (retry, release, lost lease) |
    /// | `Completed`, `Failed`, `Cancelled` | none |
    pub const fn next(self) -> States {
        match self {
            Self::Waiting => States::of(&[Self::Running, Self::Cancelled]),
            Self::Running => {
                States::of(&[Self::Waiting, Self::Completed, Self::Failed, Self::Cancelled])
            }
            Self::Completed | Self::Failed | Self::Cancelled => States::NONE,
        }
    }

    /// The name in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for State {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            Error::invalid(format!(
                "{text:?} is not a state; the states are waiting, running, completed, failed, cancelled"
            ))
        })
    }
}

/// A set of states.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub struct States(u8);

impl From<u8> for States {
    fn from(bits: u8) -> Self {
        States::from_bits(bits)
    }
}

impl From<States> for u8 {
    fn from(states: States) -> Self {
        states.bits()
    }
}

impl States {
    /// No state.
    pub const NONE: States = States(0);
    /// Waiting and running.
    pub const LIVE: States = States::of(&[State::Waiting, State::Running]);
    /// Completed, failed and cancelled.
    pub const FINAL: States = States::of(&[State::Completed, State::Failed, State::Cancelled]);
    /// Every state.
    pub const ALL: States = States(0b1_1111);

    /// The set of these states.
    pub const fn of(states: &[State]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < states.len() {
            bits |= 1 << states[i].code();
            i += 1;
        }
        States(bits)
    }

    /// Whether the state is in the set.
    pub const fn contains(self, state: State) -> bool {
        self.0 & (1 << state.code()) != 0
    }

    /// Whether every state of `other` is in the set.
    pub const fn contains_all(self, other: States) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The states in the set, in the order of [`State::ALL`].
    pub fn iter(self) -> impl Iterator<Item = State> {
        State::ALL.into_iter().filter(move |state| self.contains(*state))
    }

    /// A small number for storage: the bit `1 << code` for each state.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set with these bits, unknown ones dropped.
    pub const fn from_bits(bits: u8) -> Self {
        States(bits & Self::ALL.0)
    }
}

impl ops::BitOr for States {
    type Output = States;

    fn bitor(self, other: States) -> States {
        States(self.0 | other.0)
    }
}

impl From<State> for States {
    fn from(state: State) -> Self {
        States::of(&[state])
    }
}

impl FromIterator<State> for States {
    fn from_iter<I: IntoIterator<Item = State>>(states: I) -> Self {
        states.into_iter().fold(States::NONE, |set, state| set | state.into())
    }
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_round_trip() {
        for state in State::ALL {
            assert_eq!(State::from_code(state.code()), Some(state));
            assert_eq!(state.as_str().parse::<State>().unwrap(), state);
        }
        assert_eq!(State::from_code(5), None);
        assert!("done".parse::<State>().unwrap_err().to_string().contains("the states are"));
    }

    #[test]
    fn exactly_the_final_states_lead_nowhere() {
        for state in State::ALL {
            assert_eq!(state.next().is_empty(), state.is_final(), "{state}");
        }
    }
}
