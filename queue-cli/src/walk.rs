//! Finding the files of a tree.

use std::{
    fs::{self, Metadata},
    io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use glob::{MatchOptions, Pattern};

use crate::failure::Failure;

const MATCH: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// Which files of a tree are meant.
///
/// `glob` is matched against the path from the root. An exclusion with a slash is too; one
/// without is matched against names at any depth. A directory that is excluded, by itself or
/// by a pattern that ends in `/**`, is not entered. Symbolic links are not followed.
#[derive(Debug)]
pub(crate) struct Walk {
    root: PathBuf,
    glob: Pattern,
    exclude: Vec<Exclusion>,
    /// Files that the run itself writes: what begins with one of these paths is left out.
    own: Vec<PathBuf>,
}

#[derive(Debug)]
struct Exclusion {
    pattern: Pattern,
    by_name: bool,
    /// The directory of a pattern that ends in `/**`.
    whole: Option<Pattern>,
}

/// A file of the tree.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    /// Its path from the root, with slashes.
    pub(crate) path: String,
    /// Changes when the file is changed: its size and the time of its last change.
    pub(crate) fingerprint: String,
}

impl Walk {
    pub(crate) fn new(
        root: PathBuf,
        glob: &str,
        exclude: &[String],
        own: Vec<PathBuf>,
    ) -> Result<Self, Failure> {
        let glob = pattern(glob)?;
        let exclusion = |text: &String| {
            Ok(Exclusion {
                pattern: pattern(text)?,
                by_name: !text.contains('/'),
                whole: text.strip_suffix("/**").map(pattern).transpose()?,
            })
        };
        let exclude = exclude.iter().map(exclusion).collect::<Result<_, Failure>>()?;
        Ok(Walk { root, glob, exclude, own })
    }

    /// The files, sorted by path.
    pub(crate) fn files(&self) -> Result<Vec<Found>, Failure> {
        let mut found = Vec::new();
        let mut directories = vec![String::new()];
        while let Some(directory) = directories.pop() {
            let path = self.root.join(&directory);
            let cannot_read = |error: io::Error| {
                Failure::caused(format!("cannot read {}", path.display()), &error)
            };
            for entry in fs::read_dir(&path).map_err(cannot_read)? {
                let entry = entry.map_err(cannot_read)?;
                let full = entry.path();
                let name = entry.file_name();
                let relative = join(&directory, &name.to_string_lossy());
                if self.is_excluded(&relative, &name.to_string_lossy()) || self.is_own(&full) {
                    continue;
                }
                let kind = entry.file_type().map_err(cannot_read)?;
                if kind.is_file() && self.glob.matches_with(&relative, MATCH) {
                    let metadata = match entry.metadata() {
                        Ok(metadata) => metadata,
                        // Removed since the directory was read.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        Err(error) => return Err(cannot_read(error)),
                    };
                    let path = utf8(&full, &name, &directory)?;
                    found.push(Found { path, fingerprint: fingerprint(&metadata) });
                } else if kind.is_dir() {
                    directories.push(utf8(&full, &name, &directory)?);
                }
            }
        }
        found.sort();
        Ok(found)
    }

    fn is_excluded(&self, relative: &str, name: &str) -> bool {
        self.exclude.iter().any(|exclusion| {
            let text = if exclusion.by_name { name } else { relative };
            exclusion.pattern.matches_with(text, MATCH)
                || exclusion.whole.as_ref().is_some_and(|whole| whole.matches_with(relative, MATCH))
        })
    }

    fn is_own(&self, path: &Path) -> bool {
        self.own.iter().any(|own| match (path.file_name(), own.file_name()) {
            (Some(name), Some(own_name)) => {
                path.parent() == own.parent()
                    && name.as_encoded_bytes().starts_with(own_name.as_encoded_bytes())
            }
            _ => false,
        })
    }
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

/// The path from the root as text; JSON has no other.
fn utf8(full: &Path, name: &std::ffi::OsStr, directory: &str) -> Result<String, Failure> {
    match name.to_str() {
        Some(name) => Ok(join(directory, name)),
        None => Err(Failure::new(format!(
            "the name of {} is not UTF-8, so it cannot be written as JSON; rename or exclude it",
            full.display()
        ))),
    }
}

fn fingerprint(metadata: &Metadata) -> String {
    let changed = match metadata.modified().map(|at| at.duration_since(UNIX_EPOCH)) {
        Ok(Ok(since)) => since.as_nanos().to_string(),
        Ok(Err(before)) => format!("-{}", before.duration().as_nanos()),
        Err(_) => String::new(),
    };
    format!("{}@{changed}", metadata.len())
}

fn pattern(text: &str) -> Result<Pattern, Failure> {
    Pattern::new(text).map_err(|error| {
        Failure::new(format!(
            "{text:?} is not a pattern: {} at character {}",
            error.msg,
            error.pos + 1
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        dir
    }

    fn paths(dir: &Path, glob: &str, exclude: &[&str], own: &[&str]) -> Vec<String> {
        let exclude: Vec<String> = exclude.iter().map(|text| (*text).to_owned()).collect();
        let own = own.iter().map(|name| dir.join(name)).collect();
        let walk = Walk::new(dir.to_owned(), glob, &exclude, own).unwrap();
        walk.files().unwrap().into_iter().map(|found| found.path).collect()
    }

    #[test]
    fn files_are_found_at_any_depth_and_sorted() {
        let dir = tree(&["b", "a/z", "a/b/c", ".hidden", "a b\n\u{1f600}"]);
        let all = [".hidden", "a b\n\u{1f600}", "a/b/c", "a/z", "b"];
        assert_eq!(paths(dir.path(), "**/*", &[], &[]), all);
        assert_eq!(paths(dir.path(), "a/*", &[], &[]), ["a/z"]);
        assert_eq!(paths(dir.path(), "*", &[], &[]), [".hidden", "a b\n\u{1f600}", "b"]);
    }

    #[test]
    fn exclusions_with_a_slash_mean_paths_and_others_names() {
        let dir = tree(&["target/x", "sub/target/y", "a.db", "sub/b.db-wal", "keep"]);
        assert_eq!(
            paths(dir.path(), "**/*", &["target/**", "*.db*"], &[]),
            ["keep", "sub/target/y"]
        );
        assert_eq!(paths(dir.path(), "**/*", &["target", "*.db*"], &[]), ["keep"]);
        assert_eq!(paths(dir.path(), "**/*", &["sub/*", "target/*", "a.db"], &[]), ["keep"]);
    }

    #[test]
    fn what_the_run_itself_writes_is_left_out() {
        let dir = tree(&["jobs", "jobs-wal", "sub/jobs", "out.jsonl", "keep"]);
        let own = ["jobs", "out.jsonl"];
        assert_eq!(paths(dir.path(), "**/*", &[], &own), ["keep", "sub/jobs"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed_and_names_that_are_no_text_are_refused() {
        use std::os::unix::{ffi::OsStrExt, fs::symlink};
        let dir = tree(&["a/x"]);
        symlink(dir.path(), dir.path().join("a/loop")).unwrap();
        symlink(dir.path().join("a/x"), dir.path().join("link")).unwrap();
        assert_eq!(paths(dir.path(), "**/*", &[], &[]), ["a/x"]);
        let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"odd\xff"));
        fs::write(odd, "").unwrap();
        let walk = Walk::new(dir.path().to_owned(), "**/*", &[], Vec::new()).unwrap();
        assert!(walk.files().unwrap_err().to_string().contains("not UTF-8"));
        assert_eq!(paths(dir.path(), "**/*", &["odd*"], &[]), ["a/x"]);
    }

    #[test]
    fn a_changed_file_has_another_fingerprint() {
        let dir = tree(&["a"]);
        let walk = Walk::new(dir.path().to_owned(), "*", &[], Vec::new()).unwrap();
        let before = walk.files().unwrap();
        assert_eq!(walk.files().unwrap(), before);
        fs::write(dir.path().join("a"), "longer than before").unwrap();
        assert_ne!(walk.files().unwrap(), before);
    }

    #[test]
    fn a_malformed_pattern_is_refused() {
        let error = Walk::new(PathBuf::new(), "a[", &[], Vec::new()).unwrap_err();
        assert!(error.to_string().contains("\"a[\" is not a pattern"), "{error}");
    }
}
