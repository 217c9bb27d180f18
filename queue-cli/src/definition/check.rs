//! From what a file says to what a worker can run.

use std::{collections::BTreeMap, path::Path};

use queue::{
    Backoff, TaskOptions, WorkerBuilder,
    core::name::check_name,
    flow::{EchoTask, Flow, FlowWorkflow},
    program::{Program, ProgramTask},
};

use super::{Builtin, JobsDefinition, TaskDefinition};
use crate::failure::Failure;

/// The tasks and workflows of a file, checked.
pub(crate) struct Checked {
    tasks: Vec<Runnable>,
    workflows: Vec<FlowWorkflow>,
}

enum Runnable {
    Program(ProgramTask),
    Echo(EchoTask),
}

impl Checked {
    /// Checks tasks and workflows; programs run in `dir`.
    pub(crate) fn new(
        tasks: &BTreeMap<String, TaskDefinition>,
        workflows: &BTreeMap<String, Flow>,
        dir: &Path,
    ) -> Result<Self, Failure> {
        let runnable = |(name, task): (&String, &TaskDefinition)| {
            check_name("task name", name)
                .map_err(Failure::from)
                .and_then(|()| Runnable::new(name, task, dir))
        };
        let runnables = tasks.iter().map(runnable).collect::<Result<_, _>>()?;
        let known = || tasks.keys().map(String::as_str);
        let workflow = |(name, flow): (&String, &Flow)| {
            check_name("workflow name", name)?;
            if tasks.contains_key(name) {
                return Err(Failure::new(format!(
                    "{name:?} is the name of a task and of a workflow; give them different names"
                )));
            }
            FlowWorkflow::new(name, flow, known())
                .map_err(|error| Failure::new(format!("workflow {name:?}: {error}")))
        };
        let workflows = workflows.iter().map(workflow).collect::<Result<_, _>>()?;
        Ok(Checked { tasks: runnables, workflows })
    }

    /// Gives a worker everything to run.
    pub(crate) fn register(self, mut worker: WorkerBuilder) -> WorkerBuilder {
        for task in self.tasks {
            worker = match task {
                Runnable::Program(task) => worker.dyn_task(task),
                Runnable::Echo(task) => worker.dyn_task(task),
            };
        }
        self.workflows.into_iter().fold(worker, WorkerBuilder::dyn_workflow)
    }
}

impl Runnable {
    fn new(name: &str, task: &TaskDefinition, dir: &Path) -> Result<Self, Failure> {
        let fault = |message: String| Failure::new(format!("task {name:?}: {message}"));
        let mut options = TaskOptions::new();
        options.retries = task.retries;
        if let Some(delay) = task.backoff {
            options.backoff = Backoff::exponential(delay);
        }
        match (&task.argv, task.builtin) {
            (Some(argv), None) => {
                let mut program =
                    Program::new(argv).map_err(|error| fault(error.to_string()))?.current_dir(dir);
                if let Some(timeout) = task.timeout {
                    program = program.timeout(timeout);
                }
                if let Some(bytes) = task.max_output {
                    program = program.max_output(bytes);
                }
                for (name, value) in &task.env {
                    program = program.env(name, value);
                }
                Ok(Runnable::Program(ProgramTask::new(name, program).with_options(options)))
            }
            (None, Some(Builtin::Echo)) => {
                if task.timeout.is_some() || task.max_output.is_some() || !task.env.is_empty() {
                    return Err(fault(
                        "timeout, max_output and env are for programs, and this is a builtin"
                            .to_owned(),
                    ));
                }
                Ok(Runnable::Echo(EchoTask::new(name).with_options(options)))
            }
            _ => Err(fault("it needs either argv or builtin = \"echo\"".to_owned())),
        }
    }
}

impl JobsDefinition {
    /// The name of the task or workflow that these jobs run; `place` names the jobs in messages.
    pub(crate) fn kind<'a>(
        &'a self,
        place: &str,
        tasks: &BTreeMap<String, TaskDefinition>,
        workflows: &BTreeMap<String, Flow>,
    ) -> Result<&'a str, Failure> {
        match (&self.workflow, &self.task) {
            (Some(name), None) if workflows.contains_key(name) => Ok(name),
            (Some(name), None) => Err(unknown(place, "workflow", name, workflows.keys())),
            (None, Some(name)) if tasks.contains_key(name) => Ok(name),
            (None, Some(name)) => Err(unknown(place, "task", name, tasks.keys())),
            _ => Err(Failure::new(format!("{place} needs either a workflow or a task"))),
        }
    }
}

fn unknown<'a>(
    place: &str,
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'a String>,
) -> Failure {
    let known: Vec<&str> = known.map(String::as_str).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Failure::new(format!("{place} runs the {what} {name:?}, which is not known; known are {known}"))
}
