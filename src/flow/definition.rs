use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FlowError, Plan};

/// A workflow as data: what stands in a JSON or TOML file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Flow {
    /// The ceiling for the whole job, and the budget of tasks that say nothing; see
    /// [`TaskOptions::retries`](crate::TaskOptions::retries).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// The job's output, a [`Template`](super::Template) over `input` and `steps`. Without it, the
    /// output of the last step of the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// The steps. Their order matters only for steps that could start at once, and for the output.
    pub steps: Vec<Step>,
}

impl Flow {
    /// A flow of these steps.
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Flow { steps: steps.into_iter().collect(), ..Flow::default() }
    }

    /// Checks the flow and prepares it to run; `tasks` are the names that its steps may use.
    ///
    /// # Errors
    /// The first fault found: see [`FlowError`].
    pub fn plan<'a>(&self, tasks: impl IntoIterator<Item = &'a str>) -> Result<Plan, FlowError> {
        Plan::new(self, &tasks.into_iter().collect())
    }
}

/// One step of a [`Flow`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Step {
    /// Its name within the flow, by which paths and the job's log refer to it.
    pub id: String,
    /// The task that it runs.
    pub task: String,
    /// What the task is given: a [`Template`](super::Template) over `input` and `steps`. Without
    /// it, the job's input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// Steps that must be done before, besides those whose output it uses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// A [`Condition`](super::Condition); a step whose condition does not hold is skipped: its
    /// output is `null` and steps that need it run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// How often it is tried again; without it, what the task says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Whether the job ends well, with this step's output, once the step is done.
    #[serde(default, skip_serializing_if = "is_false")]
    pub completes_job: bool,
}

impl Step {
    /// A step that gives a task the job's input.
    pub fn new(id: impl Into<String>, task: impl Into<String>) -> Self {
        Step { id: id.into(), task: task.into(), ..Step::default() }
    }

    /// Gives the task this input.
    #[must_use]
    pub fn input(mut self, input: Value) -> Self {
        self.input = Some(input);
        self
    }

    /// Waits for these steps as well.
    #[must_use]
    pub fn needs<S: Into<String>>(mut self, steps: impl IntoIterator<Item = S>) -> Self {
        self.needs.extend(steps.into_iter().map(Into::into));
        self
    }

    /// Runs only if this condition holds.
    #[must_use]
    pub fn condition(mut self, condition: impl Into<String>) -> Self {
        self.condition = Some(condition.into());
        self
    }

    /// Is tried again so often.
    #[must_use]
    pub const fn retries(mut self, retries: u32) -> Self {
        self.retries = Some(retries);
        self
    }

    /// Ends the job once it is done.
    #[must_use]
    pub const fn completing_the_job(mut self) -> Self {
        self.completes_job = true;
        self
    }
}

/// For `skip_serializing_if`.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_false(value: &bool) -> bool {
    !*value
}
