//! The derive macro of `queue`. Use it as `queue::Task`.

mod backoff;
mod task;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Derives `queue::Task` for the type of a task's input.
///
/// `#[task(name = "send-email", output = Receipt, queue = "mail", retries = 3)]`: `name` is required,
/// `output` is `()` when it is not said. `backoff(exponential = "30s", cap = "1h", jitter = "full")` (or
/// `fixed = ".."`, or `jitter = "equal"`) says how long to wait before a retry; `restore = false`, or a function
/// `fn(&Self, &StepStatus) -> bool`, whether a completed step of it is restored.
/// `lane = Self::lane` and `unique = Self::key` name functions of the input (`&Self`) that
/// answer with a `Lane` or a `Unique`, or an `Option` of one: the lane in which its jobs run, the key that they hold.
#[proc_macro_derive(Task, attributes(task))]
pub fn derive_task(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    task::derive(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
