use queue_core::{
    Capabilities, Effect, Error, ErrorKind, Result, Timestamp,
    spec::{Answer, Latitude, Op, Spec, Verdict, World},
};
use serde::{Deserialize, Serialize};

/// An operation, when it was executed, and what the store answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    now: Timestamp,
    op: Op,
    answer: Answered,
}

/// An answer that can be written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answered {
    Ok(Answer),
    Error { kind: String, effect_unknown: bool, message: String },
}

impl Answered {
    pub(super) fn of(answer: &Result<Answer>) -> Self {
        match answer {
            Ok(answer) => Answered::Ok(answer.clone()),
            Err(error) => Answered::Error {
                kind: error.kind().to_string(),
                effect_unknown: error.effect() == Effect::Unknown,
                message: error.message().to_owned(),
            },
        }
    }

    /// The answer as the store gave it; an outer error says that what was written makes no sense.
    pub(super) fn answer(&self) -> Result<Result<Answer>, String> {
        match self {
            Answered::Ok(answer) => Ok(Ok(answer.clone())),
            Answered::Error { kind, effect_unknown, message } => {
                let known = ErrorKind::ALL.into_iter().find(|known| known.to_string() == *kind);
                let known = known.ok_or_else(|| format!("there is no error kind {kind:?}"))?;
                let effect = if *effect_unknown { Effect::Unknown } else { Effect::None };
                Ok(Err(Error::new(known, message.clone()).with_effect(effect)))
            }
        }
    }
}

impl Line {
    pub(super) fn new(now: Timestamp, op: &Op, answer: &Result<Answer>) -> Self {
        Line { now, op: op.clone(), answer: Answered::of(answer) }
    }

    /// The line as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| format!("cannot be written: {error}"))
    }
}

/// Checks a saved history, one operation a line, against the specification of a store with these limits.
///
/// # Errors
/// The first line that the specification does not allow, or that cannot be read.
pub fn check_history(text: &str, limits: Capabilities) -> Result<(), String> {
    let mut spec = Spec::new(World::new(limits));
    for (number, text) in text.lines().enumerate() {
        let at = |why: String| format!("line {}: {why}", number + 1);
        let line: Line = serde_json::from_str(text).map_err(|error| at(error.to_string()))?;
        let answer = line.answer.answer().map_err(at)?;
        if let Verdict::Reject(why) = spec.check(&line.op, line.now, &answer, Latitude::Alone) {
            return Err(at(why));
        }
    }
    Ok(())
}
