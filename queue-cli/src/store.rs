//! Opening stores.

use std::path::{Path, PathBuf};

use queue::Queue;

use crate::failure::Failure;

/// Where `list` and `show` look unless they are told.
pub(crate) const DEFAULT: &str = "sqlite:queue.db";

/// Opens a store that `run` may create.
pub(crate) async fn open(url: &str) -> Result<Queue, Failure> {
    Queue::connect(url).await.map_err(|error| {
        let failure = Failure::from(error);
        match url.contains(':') {
            true => failure,
            false => Failure::new(format!("{}; did you mean sqlite:{url}?", failure.message())),
        }
    })
}

/// Opens a store to look at: a file that is not there is not created.
pub(crate) async fn open_existing(url: &str) -> Result<Queue, Failure> {
    match sqlite_path(url) {
        Some(path) if !path.exists() => Err(Failure::new(format!(
            "there is no database {}; name one with --db",
            path.display()
        ))),
        _ => open(url).await,
    }
}

/// The file that a SQLite URL names, if that can be told without decoding.
pub(crate) fn sqlite_path(url: &str) -> Option<PathBuf> {
    let rest = url.strip_prefix("sqlite:")?;
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let path = rest.split('?').next().unwrap_or(rest);
    (!path.is_empty() && !path.contains('%')).then(|| PathBuf::from(path))
}

/// The URL of the database beside a run file.
pub(crate) fn beside(dir: &Path) -> Result<String, Failure> {
    let path = dir.join("queue.db");
    let text = path.to_str().ok_or_else(|| {
        Failure::new(format!(
            "the name of the directory {} is not UTF-8; say where the jobs are stored with --db",
            dir.display()
        ))
    })?;
    let encoded = text.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
    Ok(format!("sqlite:{encoded}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_url_is_found() {
        for url in ["sqlite:a/b.db", "sqlite://a/b.db", "sqlite:a/b.db?synchronous=full"] {
            assert_eq!(sqlite_path(url), Some(PathBuf::from("a/b.db")), "{url}");
        }
        assert_eq!(sqlite_path("memory:"), None);
        assert_eq!(sqlite_path("sqlite:"), None);
    }

    #[test]
    fn a_directory_with_odd_characters_makes_a_url() {
        assert_eq!(beside(Path::new("/a b/50%?")).unwrap(), "sqlite:/a b/50%25%3F/queue.db");
    }
}
