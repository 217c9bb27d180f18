use thiserror::Error;

/// What is wrong with a template or a condition, or with filling it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A place is not closed.
    #[error("`{text}` opens a place that is not closed by `}}}}`")]
    Unclosed {
        /// The text from the opening braces on.
        text: String,
    },
    /// What stands between the braces is no path.
    #[error("`{text}` is not a path; a path is names and array positions joined by dots")]
    NotAPath {
        /// What stands there.
        text: String,
    },
    /// A condition has another form.
    #[error(
        "`{text}` is not a condition; the forms are `PATH == JSON`, `PATH != JSON`, \
         `exists PATH`, `not exists PATH`"
    )]
    NotACondition {
        /// The condition as it was given.
        text: String,
    },
    /// A path leads nowhere in the data.
    #[error("`{path}` leads nowhere: {} is {found}", place(reached))]
    Missing {
        /// The path.
        path: String,
        /// How far it leads.
        reached: String,
        /// What stands there.
        found: String,
    },
}

fn place(reached: &str) -> String {
    if reached.is_empty() { "the data".to_owned() } else { format!("`{reached}`") }
}

/// What is wrong with a flow.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FlowError {
    /// The flow has no step.
    #[error("it has no steps")]
    Empty,
    /// A step's id cannot be used in a path.
    #[error(
        "the step id {id:?} cannot be used; an id has 1 to 256 bytes, no dots, spaces, quotes, \
         braces or operators"
    )]
    BadId {
        /// The id.
        id: String,
    },
    /// Two steps have one id.
    #[error("two steps have the id {id:?}")]
    DuplicateId {
        /// The id.
        id: String,
    },
    /// A step names a task that there is not.
    #[error("step {step:?} runs the task {task:?}, which is not known; known are {known}")]
    UnknownTask {
        /// The step.
        step: String,
        /// The task it names.
        task: String,
        /// The tasks there are.
        known: String,
    },
    /// A step needs a step that there is not.
    #[error("{place} names the step {named:?}, which is not there; the steps are {known}")]
    UnknownStep {
        /// Where it is named.
        place: String,
        /// The step that is named.
        named: String,
        /// The steps there are.
        known: String,
    },
    /// A path begins with something that a flow does not have.
    #[error(
        "{place} uses `{path}`; a path in a flow begins with `input` or with `steps.ID.output`"
    )]
    UnknownPlace {
        /// Where it is used.
        place: String,
        /// The path.
        path: String,
    },
    /// Steps need each other in a circle.
    #[error("steps need each other in a circle: {}", steps.join(" needs "))]
    Cycle {
        /// The circle; the last step is the first.
        steps: Vec<String>,
    },
    /// A template or a condition is malformed.
    #[error("{place}: {error}")]
    Template {
        /// Where it stands.
        place: String,
        /// What is wrong with it.
        error: TemplateError,
    },
    /// Steps are left that can never run.
    #[error("these steps can never run, because what they need is not done: {}", steps.join(", "))]
    Blocked {
        /// The steps.
        steps: Vec<String>,
    },
}
