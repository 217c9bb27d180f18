//! `redb:path/to/jobs.redb`.

use std::sync::Arc;

use queue_core::{Clock, Error, ErrorKind, JobStore, Result, StoreRegistry, percent_decode};

use crate::{NAME, store::RedbStore};

/// Has `redb:path` open a [`RedbStore`], which makes the file if it is not there. A path with `%`, `?` or `#` in its name
/// writes them as `%25`, `%3F` and `%23`.
pub fn register(registry: &mut StoreRegistry) {
    registry.register(NAME, |url| async move {
        let path = path(&url)?;
        let opened = tokio::task::spawn_blocking(|| RedbStore::open(path, Clock::system())).await;
        let store = opened.map_err(|error| {
            Error::new(ErrorKind::Backend, "the store could not be opened").with_source(error)
        })?;
        Ok(Arc::new(store?) as Arc<dyn JobStore>)
    });
}

fn path(url: &str) -> Result<String> {
    let rest = url.strip_prefix("redb:").unwrap_or(url);
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let refused = |why: &str| {
        let message = format!("{url:?} {why}; a redb URL is redb:path/to/jobs.redb");
        Err(Error::new(ErrorKind::Config, message).with_store(NAME))
    };
    if rest.contains(['?', '#']) {
        return refused("has parameters, and there are none");
    }
    match percent_decode(rest) {
        Some(path) if !path.is_empty() => Ok(path),
        Some(_) => refused("names no file"),
        None => refused("has a percent sign that encodes nothing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_file() {
        assert_eq!(path("redb:a/b.redb").unwrap(), "a/b.redb");
        assert_eq!(path("redb:///a/b.redb").unwrap(), "/a/b.redb");
        assert_eq!(path("redb:50%25.redb").unwrap(), "50%.redb");
    }

    #[test]
    fn a_url_that_names_no_file_is_refused_with_what_would_work() {
        for url in ["redb:", "redb://", "redb:a?sync=off", "redb:a#b", "redb:50%"] {
            let error = path(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(error.to_string().contains("redb:path/to/jobs.redb"), "{error}");
        }
    }
}
