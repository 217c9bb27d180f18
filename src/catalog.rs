use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    sync::Arc,
};

use queue_core::{Payload, name::check_name};

use crate::{
    BuildError, DynTask, DynWorkflow, TaskOptions,
    callback::{AnyCallback, Callbacks, On},
};

/// What a worker can run, by name.
#[derive(Default)]
pub(crate) struct Catalog(BTreeMap<Cow<'static, str>, Registered>);

/// A handler with the options of its kind.
#[derive(Clone)]
pub(crate) struct Registered {
    pub(crate) run: Run,
    pub(crate) options: TaskOptions,
    pub(crate) callbacks: Arc<Callbacks>,
}

#[derive(Clone)]
pub(crate) enum Run {
    Task(Arc<dyn DynTask>),
    Workflow(Arc<dyn DynWorkflow>),
}

impl Run {
    /// Whether the handler takes this input.
    pub(crate) fn check_input(&self, input: &Payload) -> Result<(), queue_core::Error> {
        match self {
            Run::Task(task) => task.check_input(input),
            Run::Workflow(workflow) => workflow.check_input(input),
        }
    }
}

impl Catalog {
    pub(crate) fn add(&mut self, run: Run) -> Result<(), BuildError> {
        let (name, options) = match &run {
            Run::Task(task) => (task.name().to_owned(), task.options()),
            Run::Workflow(workflow) => (workflow.name().to_owned(), workflow.options()),
        };
        check_name("task name", &name)?;
        match self.0.entry(Cow::Owned(name)) {
            Entry::Occupied(there) => Err(BuildError::Duplicate { name: there.key().to_string() }),
            Entry::Vacant(free) => {
                free.insert(Registered { run, options, callbacks: Arc::default() });
                Ok(())
            }
        }
    }

    /// Adds a callback of a task or workflow that is there.
    pub(crate) fn add_callback(
        &mut self,
        name: &str,
        on: On,
        callback: Arc<dyn AnyCallback>,
    ) -> Result<(), BuildError> {
        let Some(there) = self.0.get_mut(name) else {
            let missing = BuildError::CallbackWithoutHandler { name: name.to_owned() };
            return if broken!(CallbacksAreNotChecked) { Ok(()) } else { Err(missing) };
        };
        Arc::make_mut(&mut there.callbacks).add(on, callback);
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Registered> {
        self.0.get(name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &Cow<'static, str>> {
        self.0.keys()
    }

    /// The names, for a message that says what would work.
    pub(crate) fn known(&self) -> String {
        let names: Vec<&str> = self.0.keys().map(AsRef::as_ref).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
