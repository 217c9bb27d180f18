use std::{
    any::{Any, TypeId, type_name},
    collections::HashMap,
    sync::Arc,
};

use crate::{BuildError, JobCtx, Wf};

/// What a handler takes besides its input: [`State`], [`JobCtx`], and in workflows [`Wf`].
#[diagnostic::on_unimplemented(
    message = "a handler cannot take `{Self}`",
    note = "handlers take their input first and then `State<T>`, `JobCtx` or (workflows) `Wf`"
)]
pub trait FromJob: Sized + Send {
    /// Checks, when the worker is built, that the argument can be had.
    ///
    /// # Errors
    /// What is missing.
    fn check(registration: &Registration<'_>) -> Result<(), BuildError>;

    /// Takes the argument.
    fn from_job(ctx: &JobCtx) -> Option<Self>;
}

/// A handler that is about to be registered.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Registration<'a> {
    /// The name of its task or workflow.
    pub name: &'a str,
    /// Whether it is the handler of a task or of a workflow, or a callback.
    pub role: Role,
    /// What the worker was given.
    pub states: &'a States,
}

impl<'a> Registration<'a> {
    pub(crate) const fn new(name: &'a str, role: Role, states: &'a States) -> Self {
        Registration { name, role, states }
    }
}

/// What a function is registered as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// One step.
    Task,
    /// A function that calls steps.
    Workflow,
    /// A callback of a task or workflow.
    Callback,
}

/// A value that the worker was given with `.state(..)`; a clone of it.
#[derive(Clone, Copy, Debug)]
pub struct State<T>(pub T);

impl<T: Clone + Send + Sync + 'static> FromJob for State<T> {
    fn check(registration: &Registration<'_>) -> Result<(), BuildError> {
        match registration.states.get::<T>() {
            Some(_) => Ok(()),
            None => Err(BuildError::MissingState {
                name: registration.name.to_owned(),
                state: type_name::<T>(),
            }),
        }
    }

    fn from_job(ctx: &JobCtx) -> Option<Self> {
        ctx.states().get::<T>().cloned().map(State)
    }
}

impl FromJob for JobCtx {
    fn check(_: &Registration<'_>) -> Result<(), BuildError> {
        Ok(())
    }

    fn from_job(ctx: &JobCtx) -> Option<Self> {
        Some(ctx.clone())
    }
}

impl FromJob for Wf {
    fn check(registration: &Registration<'_>) -> Result<(), BuildError> {
        match registration.role {
            Role::Workflow => Ok(()),
            Role::Task => Err(BuildError::NotAWorkflow { name: registration.name.to_owned() }),
            Role::Callback => {
                Err(BuildError::WorkflowInCallback { name: registration.name.to_owned() })
            }
        }
    }

    fn from_job(ctx: &JobCtx) -> Option<Self> {
        ctx.workflow()
    }
}

/// The values that a worker was given, one of each type.
#[derive(Clone, Debug, Default)]
pub struct States(HashMap<TypeId, Arc<dyn Any + Send + Sync>>);

impl States {
    pub(crate) fn insert<T: Send + Sync + 'static>(&mut self, state: T) {
        self.0.insert(TypeId::of::<T>(), Arc::new(state));
    }

    /// The value of this type.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.0.get(&TypeId::of::<T>())?.downcast_ref()
    }
}
