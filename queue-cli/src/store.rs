//! Opening stores.

use std::path::{Path, PathBuf};

use queue::{Queue, StoreRegistry, core::percent_decode};

use crate::failure::Failure;

/// Where `list` and `show` look unless they are told.
pub(crate) const DEFAULT: &str = "sqlite:queue.db";

/// Opens a store that `run` may create.
pub(crate) async fn open(registry: &StoreRegistry, url: &str) -> Result<Queue, Failure> {
    Queue::connect_with(registry, url).await.map_err(|error| {
        let failure = Failure::from(error);
        match url.contains(':') {
            true => failure,
            false => Failure::new(format!("{}; did you mean sqlite:{url}?", failure.message())),
        }
    })
}

/// Opens a store to look at: a file that is not there is not created.
pub(crate) async fn open_existing(registry: &StoreRegistry, url: &str) -> Result<Queue, Failure> {
    match sqlite_path(url) {
        Some(path) if !path.exists() => Err(Failure::new(format!(
            "there is no database {}; name one with --db",
            path.display()
        ))),
        _ => open(registry, url).await,
    }
}

/// The file that a SQLite URL names.
fn sqlite_path(url: &str) -> Option<PathBuf> {
    path(url.strip_prefix("sqlite:")?)
}

/// The file that a URL may name: whatever follows the scheme, unless it is a host. A store of a scheme that this crate has
/// never heard of may live in a file as well, and is taken to encode its path as SQLite's URLs do.
pub(crate) fn file_path(url: &str) -> Option<PathBuf> {
    let (_, rest) = url.split_once(':')?;
    let has_host = rest.starts_with("//") && !rest.starts_with("///");
    sqlite_path(url).or_else(|| if has_host { None } else { path(rest) })
}

fn path(rest: &str) -> Option<PathBuf> {
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    // Cut off before it is decoded: a path may hold an encoded question mark.
    let path = percent_decode(rest.split('?').next().unwrap_or(rest))?;
    (!path.is_empty()).then(|| PathBuf::from(path))
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
        for url in ["memory:", "sqlite:", "sqlite:?synchronous=full", "sqlite:50%"] {
            assert_eq!(sqlite_path(url), None, "{url}");
        }
    }

    #[test]
    fn the_file_of_a_foreign_url_is_found_and_a_host_is_none() {
        for url in ["mine:a/b.db", "mine:a/b.db?x=y", "sqlite://a/b.db"] {
            assert_eq!(file_path(url), Some(PathBuf::from("a/b.db")), "{url}");
        }
        assert_eq!(file_path("mine:///a/b.db"), Some(PathBuf::from("/a/b.db")));
        for url in ["memory:", "postgres://host/database", "no-scheme"] {
            assert_eq!(file_path(url), None, "{url}");
        }
    }

    #[test]
    fn a_directory_with_odd_characters_makes_a_url() {
        let url = beside(Path::new("/a b/50%?#")).unwrap();
        assert_eq!(url, "sqlite:/a b/50%25%3F%23/queue.db");
        assert_eq!(file_path(&url), Some(PathBuf::from("/a b/50%?#/queue.db")));
    }
}
