//! Inputs that are checked against a JSON schema.
//!
//! The type of a [`Task`](crate::Task) checks what the typed calls enqueue. Where jobs are enqueued as JSON, a [`Schema`] does: at
//! the producer, which needs no handler for it, by [`Queue::insert_checked`]; and at the worker, for what others enqueue, by
//! [`Schema::guarding`].

use std::{borrow::Cow, collections::BTreeMap, error::Error as StdError, fmt, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use jsonschema::{Retrieve, Uri, Validator};
use queue_core::{Error, Inserted, NewJob, Payload, Result};
use serde_json::Value;

use crate::{DynTask, JobCtx, Queue, TaskError, TaskOptions, TaskResult};

/// How many faults of an input a message names.
const SHOWN: usize = 5;

/// A JSON schema, of the draft that its `$schema` names or else 2020-12, ready to check inputs. Cheap to clone.
///
/// `format` is checked. Nothing is ever fetched: a `$ref` leads to a place in the schema itself, or it is refused.
///
/// ```
/// use queue::{Payload, schema::Schema};
/// use serde_json::json;
///
/// let schema = Schema::new(&json!({
///     "required": ["to"],
///     "properties": { "to": { "items": { "properties": { "email": { "format": "email" } } } } },
/// }))?;
/// let input = Payload::from_text(r#"{"to": [{"email": "nobody"}]}"#)?;
/// let error = schema.check(&input).unwrap_err();
/// assert!(error.message().contains("/to/0/email: "), "{error}");
/// # Ok::<(), queue::Error>(())
/// ```
#[derive(Clone)]
pub struct Schema(Arc<Validator>);

impl Schema {
    /// Reads a schema.
    ///
    /// # Errors
    /// `Invalid` for what is no schema, with the place of the fault.
    pub fn new(schema: &Value) -> Result<Self> {
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .with_retriever(Nowhere)
            .build(schema)
            .map_err(|error| {
                let place = place(error.instance_path().as_str());
                Error::invalid(format!("the schema cannot be used: {place}: {error}"))
            })?;
        Ok(Schema(Arc::new(validator)))
    }

    /// Checks an input.
    ///
    /// # Errors
    /// `Invalid`, with the place of each fault (up to five) as a JSON pointer. The content of the input is not shown.
    pub fn check(&self, input: &Payload) -> Result<()> {
        let value: Value = input.to()?;
        let mut faults: Vec<String> = self
            .0
            .iter_errors(&value)
            .take(SHOWN + 1)
            .map(|error| format!("{}: {}", place(error.instance_path().as_str()), error.masked()))
            .collect();
        if faults.is_empty() {
            return Ok(());
        }
        if faults.len() > SHOWN {
            faults[SHOWN] = "and more".to_owned();
        }
        Err(Error::invalid(format!("the input does not fit: {}", faults.join("; "))))
    }

    /// A task that runs only inputs that fit; any other fails its job for good, with the places of the faults.
    pub fn guarding<T: DynTask>(self, task: T) -> impl DynTask {
        Guarded { schema: self, task }
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").finish_non_exhaustive()
    }
}

/// A place in a document, by its JSON pointer.
fn place(pointer: &str) -> &str {
    if pointer.is_empty() { "at the top" } else { pointer }
}

/// Fetches nothing, whatever other users of the same crate have switched on.
struct Nowhere;

impl Retrieve for Nowhere {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn StdError + Send + Sync>> {
        Err(format!("a schema must not refer to other documents, and this one does to {uri}")
            .into())
    }
}

/// The schemas of the inputs of several tasks and workflows, by name. A kind that is not among them is not checked.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Schemas(BTreeMap<Cow<'static, str>, Schema>);

impl Schemas {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// With the schema of this task's or workflow's input, in place of an earlier one.
    pub fn with(mut self, kind: impl Into<Cow<'static, str>>, schema: Schema) -> Self {
        self.0.insert(kind.into(), schema);
        self
    }

    /// Checks the inputs of new jobs.
    ///
    /// # Errors
    /// `Invalid` for the first job whose input does not fit, with its kind and the places of the faults.
    pub fn check(&self, jobs: &[NewJob]) -> Result<()> {
        jobs.iter().try_for_each(|job| match self.0.get(&job.kind) {
            Some(schema) => schema.check(&job.input).map_err(|error| {
                Error::invalid(format!("job {} of {:?}: {}", job.id, job.kind, error.message()))
            }),
            None => Ok(()),
        })
    }
}

impl Queue {
    /// As [`insert`](Self::insert), if all inputs fit their schemas.
    ///
    /// # Errors
    /// As [`Schemas::check`], and then none is enqueued; as [`insert`](Self::insert).
    pub async fn insert_checked(
        &self,
        schemas: &Schemas,
        jobs: Vec<NewJob>,
    ) -> Result<Vec<Inserted>> {
        schemas.check(&jobs)?;
        self.insert(jobs).await
    }
}

/// A task behind a schema.
struct Guarded<T> {
    schema: Schema,
    task: T,
}

impl<T: DynTask> DynTask for Guarded<T> {
    fn name(&self) -> &str {
        self.task.name()
    }

    fn options(&self) -> TaskOptions {
        self.task.options()
    }

    fn check_input(&self, input: &Payload) -> queue_core::Result<()> {
        self.schema.check(input)?;
        self.task.check_input(input)
    }

    fn call(&self, ctx: JobCtx, input: Payload) -> BoxFuture<'static, TaskResult<Payload>> {
        match self.schema.check(&input) {
            Ok(()) => self.task.call(ctx, input),
            Err(error) => {
                let message = format!("{:?}: {}", self.task.name(), error.message());
                async move { Err(TaskError::fatal_named("input", message)) }.boxed()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use queue_core::{JobError, JobFilter, JobStore, MemoryStore, State};
    use serde_json::json;

    use super::*;
    use crate::{Pass, Worker};

    fn mail() -> Schema {
        let recipient = json!({
            "type": "object",
            "required": ["email"],
            "properties": { "email": { "type": "string", "format": "email" } },
        });
        Schema::new(&json!({
            "type": "object",
            "required": ["to"],
            "properties": { "to": { "type": "array", "items": recipient } },
        }))
        .unwrap()
    }

    fn job(input: &str) -> NewJob {
        NewJob::new("mail", Payload::from_text(input).unwrap())
    }

    fn queue() -> Queue {
        Queue::new(Arc::new(MemoryStore::new()) as Arc<dyn JobStore>).unwrap()
    }

    const FITS: &str = r#"{"to": [{"email": "ada@example.org"}]}"#;
    const DOES_NOT: &str = r#"{"to": [{"email": "ada@example.org"}, {"email": "s3cret"}, {}]}"#;

    #[test]
    fn each_fault_is_named_with_its_place_and_without_the_content() {
        assert!(mail().check(&job(FITS).input).is_ok());
        let error = mail().check(&job(DOES_NOT).input).unwrap_err();
        assert_eq!(error.kind(), queue_core::ErrorKind::Invalid);
        let message = error.message();
        assert!(message.contains("/to/1/email: ") && message.contains("/to/2: "), "{message}");
        assert!(message.contains("\"email\"") && !message.contains("s3cret"), "{message}");
        let error = mail().check(&Payload::null()).unwrap_err();
        assert!(error.message().contains("at the top: "), "{error}");
        let many = format!(r#"{{"to": [{}]}}"#, ["1"; 9].join(","));
        let message = mail().check(&job(&many).input).unwrap_err().to_string();
        assert!(message.contains("/to/4: ") && message.ends_with("and more"), "{message}");
        assert!(!message.contains("/to/5"), "{message}");
    }

    #[test]
    fn what_is_no_schema_and_what_refers_elsewhere_is_refused() {
        let error = Schema::new(&json!({"properties": {"a": {"type": 5}}})).unwrap_err();
        assert!(error.to_string().contains("/properties/a/type"), "{error}");
        for elsewhere in ["http://127.0.0.1:1/schema.json", "file:///etc/hostname"] {
            let error = Schema::new(&json!({"$ref": elsewhere})).unwrap_err();
            assert!(error.to_string().contains("other documents"), "{error}");
        }
        let own = json!({"$ref": "#/$defs/n", "$defs": {"n": {"type": "number"}}});
        assert!(Schema::new(&own).unwrap().check(&Payload::from_text("1").unwrap()).is_ok());
    }

    #[tokio::test]
    async fn a_producer_without_handlers_is_told_and_nothing_is_enqueued() {
        let (queue, schemas) = (queue(), Schemas::new().with("mail", mail()));
        let jobs = vec![job(FITS), job(DOES_NOT)];
        let bad = jobs[1].id.to_string();
        let error = queue.insert_checked(&schemas, jobs).await.unwrap_err().to_string();
        assert!(error.contains(&bad) && error.contains("\"mail\""), "{error}");
        assert!(error.contains("/to/1/email: "), "{error}");
        assert!(queue.tally(JobFilter::all()).await.unwrap().is_empty());
        let other = NewJob::new("other", Payload::null());
        let inserted = queue.insert_checked(&schemas, vec![job(FITS), other]).await.unwrap();
        assert_eq!(inserted.len(), 2);
    }

    struct Echo;

    impl DynTask for Echo {
        fn name(&self) -> &'static str {
            "mail"
        }

        fn options(&self) -> TaskOptions {
            TaskOptions::new().retries(5)
        }

        fn check_input(&self, input: &Payload) -> queue_core::Result<()> {
            match input.as_str().contains("nobody") {
                true => Err(queue_core::Error::invalid("mail to nobody")),
                false => Ok(()),
            }
        }

        fn call(&self, _: JobCtx, input: Payload) -> BoxFuture<'static, TaskResult<Payload>> {
            async move { Ok(input) }.boxed()
        }
    }

    #[test]
    fn a_schedule_of_a_guarded_task_is_refused_where_its_input_does_not_fit() {
        let built = |input: &str| {
            let input = Payload::from_text(input).unwrap();
            let schedule = crate::Schedule::cron_dyn("0 * * * *", "mail", input);
            let worker = Worker::new(queue()).dyn_task(mail().guarding(Echo));
            worker.scheduled(schedule).build().map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(built(FITS), Ok(()));
        assert!(built(DOES_NOT).unwrap_err().contains("/to/1/email: "));
        let refused = r#"{"to": [{"email": "nobody@example.org"}]}"#;
        assert!(built(refused).unwrap_err().contains("mail to nobody"), "the task's own check");
    }

    #[tokio::test]
    async fn a_worker_fails_what_does_not_fit_for_good_and_runs_the_rest() {
        let queue = queue();
        let jobs = vec![job(DOES_NOT), job(FITS)];
        let ids = [jobs[0].id, jobs[1].id];
        queue.insert(jobs).await.unwrap();
        let worker = Worker::new(queue.clone()).dyn_task(mail().guarding(Echo)).build().unwrap();
        worker.drain(Pass::new()).await.unwrap();
        let (bad, good) =
            (queue.job(ids[0]).await.unwrap().unwrap(), queue.job(ids[1]).await.unwrap().unwrap());
        assert_eq!((bad.state, bad.attempt), (State::Failed, 1));
        let error: JobError = bad.error.unwrap().to().unwrap();
        assert_eq!(error.name, "input");
        assert!(
            error.message.starts_with("\"mail\": the input does not fit: /to/1/email"),
            "{error}"
        );
        assert_eq!((good.state, good.output.unwrap().as_str()), (State::Completed, FITS));
    }
}
