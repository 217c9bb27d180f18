//! Database servers for tests: those that the environment names, with something of its own there for every test, and
//! servers of a test's own, which it may stop as it likes.
//!
//! Everything here panics where it fails, with what to do about it: it is for tests.

mod mongo;
mod postgres;
mod private;

pub use mongo::Database;
pub use postgres::{Role, without_tls};
pub use private::Private;

/// The URL of a server that a variable of the environment names.
///
/// # Panics
/// When it is not set: the message says how to get one.
pub fn server(variable: &str) -> String {
    find(variable).unwrap_or_else(|missing| panic!("{missing}"))
}

/// The URL of a server that a variable of the environment names.
///
/// # Errors
/// It is not set: the message says how to get one.
pub fn find(variable: &str) -> Result<String, String> {
    std::env::var(variable).map_err(|_| {
        format!("{variable} is not set: run ./scripts/test, which starts the servers, or set it to the URL of one")
    })
}

/// A name that nothing else has.
fn unique_name() -> String {
    format!("queue_test_{}", uuid::Uuid::now_v7().simple())
}

/// Runs work to its end, also from a destructor and inside another runtime.
fn block_on<T: Send + 'static, F: Future<Output = T>>(
    work: impl FnOnce() -> F + Send + 'static,
) -> std::thread::Result<T> {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(work())
    })
    .join()
}

/// The parts of a URL: scheme, user and password with their `@`, hosts, database, parameters without their `?`.
fn parts(url: &str) -> [&str; 5] {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (place, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = place.split_at(place.rfind('@').map_or(0, |at| at + 1));
    [scheme, user, hosts, database, query]
}

/// A URL with one parameter more.
pub fn with_parameter(url: &str, parameter: &str) -> String {
    let glue = if url.contains('?') { '&' } else { '?' };
    format!("{url}{glue}{parameter}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        assert_eq!(parts("a://u:p@h:1,i:2/d?x=1"), ["a", "u:p@", "h:1,i:2", "d", "x=1"]);
        assert_eq!(parts("a://h"), ["a", "", "h", "", ""]);
        assert_eq!(with_parameter("a://h?x=1", "y=2"), "a://h?x=1&y=2");
    }

    #[test]
    fn a_missing_server_is_named_with_what_to_do() {
        let missing = find("QUEUE_NO_SUCH_URL").unwrap_err();
        assert!(missing.contains("QUEUE_NO_SUCH_URL") && missing.contains("./scripts/test"));
    }
}
