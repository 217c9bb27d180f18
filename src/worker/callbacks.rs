use std::{borrow::Cow, sync::Arc};

use super::WorkerBuilder;
use crate::{
    Callback, DynCallback, Failure, Registration, Role, Success, Task,
    callback::{AnyCallback, On, Told, Typed, Untyped},
};

/// Callbacks: they are told how the attempts of a task or workflow ended, after the store has recorded it.
///
/// The steps of a workflow that are tasks call their task's callbacks too, as the jobs of the task itself do. Several
/// callbacks of one task are called one after the other, in the order in which they were registered.
///
/// What a callback does decides nothing: if it fails or panics, that is traced, and a line is appended to the job's log
/// if the job is still there. The job holds its slot meanwhile, and a worker that stops drops what still runs after its
/// grace time. A callback is called at most once for each attempt: not at all if the worker dies after the record and
/// before the call. What must not be lost belongs into a step, or into a job that the handler enqueues.
impl WorkerBuilder {
    /// Tells this function of each completion of a task or workflow: after the store has recorded it, and before a step's
    /// output is returned to its workflow. A step that is restored is not told again.
    ///
    /// ```
    /// # use queue::{State, Success, Task, TaskResult, Worker, Queue};
    /// # #[derive(serde::Serialize, serde::Deserialize, Task)] #[task(name = "mail", output = u32)] struct Mail { to: String }
    /// # async fn send(_: Mail) -> TaskResult<u32> { Ok(1) }
    /// # #[derive(Clone)] struct Audit; impl Audit { async fn note(&self, _: &str, _: u32) {} }
    /// async fn sent(done: Success<Mail>, State(audit): State<Audit>) -> TaskResult<()> {
    ///     audit.note(&done.input.to, done.output).await;
    ///     Ok(())
    /// }
    /// # fn build(queue: Queue) -> Result<Worker, queue::BuildError> {
    /// Worker::new(queue).state(Audit).task(send).on_success(sent).build()
    /// # }
    /// ```
    #[must_use]
    pub fn on_success<T, C, Args>(self, callback: C) -> Self
    where
        T: Task,
        C: Callback<Args, Told = Success<T>>,
        Args: 'static,
    {
        self.callback(On::Success, callback)
    }

    /// Tells this function of each failed attempt of a task or workflow; the error says whether it was the last one. It
    /// is called after the write that ends the run, which records all failures of the run.
    ///
    /// A cancellation is no failure, whether from inside or from outside: of a run that ends in one, no failure is told.
    /// Nor is that of an input that does not fit the task's type, or of a job that the store fails because its workers vanished.
    #[must_use]
    pub fn on_fail<T, C, Args>(self, callback: C) -> Self
    where
        T: Task,
        C: Callback<Args, Told = Failure<T>>,
        Args: 'static,
    {
        self.callback(On::Fail, callback)
    }

    /// Tells this of both ends of a task or workflow whose types are known only at run time, by its name.
    #[must_use]
    pub fn dyn_callback(
        mut self,
        name: impl Into<Cow<'static, str>>,
        callback: impl DynCallback,
    ) -> Self {
        self.callbacks.push((name.into(), On::Both, Arc::new(Untyped(callback))));
        self
    }

    fn callback<C: Callback<Args>, Args: 'static>(mut self, on: On, callback: C) -> Self {
        let name = <C::Told as Told>::Task::NAME;
        self.checks.push(Box::new(move |states| {
            C::check(&Registration::new(name, Role::Callback, states))
        }));
        let callback: Arc<dyn AnyCallback> = Arc::new(Typed::<C, Args>::new(callback));
        self.callbacks.push((name.into(), on, callback));
        self
    }
}
