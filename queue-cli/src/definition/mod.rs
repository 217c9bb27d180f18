//! Run files: what they may say.

mod check;
mod read;

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

pub(crate) use check::Checked;
pub(crate) use read::read;

use queue::{QueueName, flow::Flow};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

/// A run file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunFile {
    #[serde(default)]
    pub(crate) run: RunSettings,
    /// Values for `{{ params.NAME }}` in jobs and output, which `--set` can change.
    #[serde(default)]
    pub(crate) params: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) tasks: BTreeMap<String, TaskDefinition>,
    #[serde(default)]
    pub(crate) workflows: BTreeMap<String, Flow>,
    #[serde(default)]
    pub(crate) jobs: Vec<JobsDefinition>,
    pub(crate) output: Option<OutputDefinition>,
}

/// How the jobs of a file run.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunSettings {
    pub(crate) concurrency: Option<NonZeroU32>,
    /// How long a job is held without a sign of life; 5 s unless said.
    #[serde(default, deserialize_with = "duration")]
    pub(crate) lease: Option<Duration>,
    /// The first part of the name of the queue; the file's name unless said.
    pub(crate) queue: Option<QueueName>,
}

/// A task: a program, or something built in.
///
/// What is not said is not written: a job's id follows from this text, and a version that knows
/// more fields must find the jobs of an earlier one.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TaskDefinition {
    /// The program and its arguments, templates over the task's input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) argv: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) builtin: Option<Builtin>,
    #[serde(default, deserialize_with = "duration", skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retries: Option<u32>,
    /// The wait before the first retry; it doubles with each failure.
    #[serde(default, deserialize_with = "duration", skip_serializing_if = "Option::is_none")]
    pub(crate) backoff: Option<Duration>,
    /// How many bytes the program may print.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_output: Option<usize>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) env: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Builtin {
    /// The output is the input.
    Echo,
}

/// Jobs to run: one, or one for each file or value.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobsDefinition {
    pub(crate) workflow: Option<String>,
    pub(crate) task: Option<String>,
    pub(crate) for_each: Option<ForEach>,
    /// A template over `item` and `params`; the item itself unless said.
    pub(crate) input: Option<Value>,
    #[serde(default)]
    pub(crate) priority: i16,
}

/// What there is to be a job for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForEach {
    /// The regular files below `root` whose path from there matches.
    pub(crate) glob: Option<String>,
    /// A template over `params`; the directory of the run file unless said.
    pub(crate) root: Option<String>,
    #[serde(default)]
    pub(crate) exclude: Vec<String>,
    /// These values.
    pub(crate) values: Option<Vec<Value>>,
}

/// Where the outputs of all jobs go.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutputDefinition {
    /// A template over `params`.
    pub(crate) path: String,
}

/// Reads a duration such as `30s`, `1m 30s` or `500ms`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match humantime::parse_duration(&text) {
        Ok(duration) if duration.is_zero() => Err(de::Error::custom("a duration of zero")),
        Ok(duration) => Ok(Some(duration)),
        Err(error) => Err(de::Error::custom(format!(
            "{text:?} is not a duration such as \"30s\" or \"500ms\": {error}"
        ))),
    }
}
