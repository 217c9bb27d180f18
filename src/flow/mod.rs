//! Workflows as data.
//!
//! A [`Flow`] lists steps; each runs a task that the worker knows by name. Steps whose needs are
//! met run at once, finished ones are restored, retries and log entries are those of any workflow,
//! because each step is a step of the engine.
//!
//! A step's input is JSON whose strings may hold places such as `{{ input.path }}` or
//! `{{ steps.ID.output.path }}` ([`Template`]); the steps that it names so are needs of it. A
//! [`Condition`] decides whether a step runs or is skipped. There is no further language on
//! purpose: what needs one is a task.
//!
//! What passes through a template is data, not text: the keys of objects come out sorted, and
//! numbers beyond 64 bits as floating point.
//!
//! ```
//! use queue::flow::{Flow, Step};
//! use serde_json::json;
//!
//! let flow = Flow::new([
//!     Step::new("sum", "sha256").input(json!({"path": "{{ input.path }}"})),
//!     Step::new("record", "json")
//!         .input(json!({"path": "{{ input.path }}", "sum": "{{ steps.sum.output }}"})),
//! ]);
//! flow.plan(["sha256", "json"])?;
//!
//! let error = flow.plan(["json"]).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "step \"sum\" runs the task \"sha256\", which is not known; known are json"
//! );
//! # Ok::<(), queue::flow::FlowError>(())
//! ```

mod condition;
mod definition;
mod error;
mod execute;
mod handler;
mod path;
mod plan;
mod template;

pub use condition::Condition;
pub use definition::{Flow, Step};
pub use error::{FlowError, TemplateError};
pub use handler::{EchoTask, FlowWorkflow};
pub use path::Path;
pub use plan::Plan;
pub use template::Template;
