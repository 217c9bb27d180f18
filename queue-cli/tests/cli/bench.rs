use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take; far more than it does.
const DEADLINE: Duration = Duration::from_secs(60);

/// Notes its step and item in `ledger`, waits while `hold-STEP-ITEM` is there (`held-STEP-ITEM`
/// says so), fails while `fail-STEP-ITEM` is there, and prints both.
const NOTE: &str = r#"
echo "$1 $2" >>ledger
if [ -e "hold-$1-$2" ]; then
    : >"held-$1-$2"
    while [ -e "hold-$1-$2" ]; do sleep 0.02; done
fi
if [ -e "fail-$1-$2" ]; then
    echo "told to fail" >&2
    exit 3
fi
printf '{"step":"%s","item":"%s"}' "$1" "$2"
"#;

/// The task `note`, which runs that script.
pub const NOTE_TASK: &str = r#"
[run]
lease = "1s"

[tasks.note]
argv = ["sh", "note.sh", "{{ input.step }}", "{{ input.item }}"]
timeout = "50s"

[tasks.echo]
builtin = "echo"
"#;

/// Where the jobs are.
pub enum Db {
    /// Where they are when nothing is said.
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres(test_servers::Role),
    #[cfg(feature = "mongo")]
    Mongo(test_servers::Database),
}

impl Db {
    pub fn sqlite() -> Self {
        Db::Sqlite
    }

    #[cfg(feature = "postgres")]
    pub fn postgres() -> Self {
        Db::Postgres(test_servers::Role::new())
    }

    #[cfg(feature = "mongo")]
    pub fn mongo() -> Self {
        Db::Mongo(test_servers::Database::on("QUEUE_MONGO_URL"))
    }

    /// What the command line says about it.
    fn args(&self) -> Vec<String> {
        match self {
            Db::Sqlite => Vec::new(),
            #[cfg(feature = "postgres")]
            Db::Postgres(role) => vec!["--db".to_owned(), role.url()],
            #[cfg(feature = "mongo")]
            Db::Mongo(database) => vec!["--db".to_owned(), database.url()],
        }
    }
}

/// Declares the tests of a module: each of the named bodies with each kind of database.
#[macro_export]
macro_rules! on_every_database {
    ($($name:ident),* $(,)?) => {
        mod sqlite { $crate::on_database!(sqlite: $($name),*); }
        #[cfg(feature = "postgres")]
        mod postgres { $crate::on_database!(postgres: $($name),*); }
        #[cfg(feature = "mongo")]
        mod mongo { $crate::on_database!(mongo: $($name),*); }
    };
}

/// Declares the tests with one kind of database.
#[macro_export]
macro_rules! on_database {
    ($db:ident: $($name:ident),*) => {
        $(
            #[test]
            fn $name() {
                super::$name($crate::bench::Db::$db());
            }
        )*
    };
}

/// A directory in which the binary runs.
pub struct Bench {
    dir: TempDir,
    db: Db,
}

impl Bench {
    pub fn new() -> Self {
        let bench = Bench { dir: tempfile::tempdir().unwrap(), db: Db::Sqlite };
        bench.write("note.sh", NOTE);
        bench
    }

    /// With a run file that has the task `note` and this.
    pub fn with_file(rest: &str) -> Self {
        let bench = Bench::new();
        bench.write("jobs.toml", &format!("{NOTE_TASK}{rest}"));
        bench
    }

    /// With its jobs there.
    pub fn on(mut self, db: Db) -> Self {
        self.db = db;
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Starts `queue` with these arguments.
    pub fn start(&self, args: &[&str]) -> Running {
        // Each has files of its own, for what it prints.
        let out = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(out.path().join(name)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_queue"))
            .args(args)
            .args(self.db.args())
            .current_dir(self.dir.path())
            .env_remove("RUST_LOG")
            .env("INVENTORY_LEDGER", self.path("ledger"))
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap();
        Running { child, out }
    }

    /// Runs `queue` with these arguments to its end.
    pub fn queue(&self, args: &[&str]) -> Ran {
        self.start(args).end()
    }

    /// Runs `queue run jobs.toml --json`.
    pub fn run(&self) -> Ran {
        self.queue(&["run", "jobs.toml", "--json"])
    }

    /// How often each line stands in the ledger.
    pub fn ledger(&self) -> BTreeMap<String, usize> {
        let mut lines = BTreeMap::new();
        let text = fs::read_to_string(self.path("ledger")).unwrap_or_default();
        for line in text.lines() {
            *lines.entry(line.to_owned()).or_default() += 1;
        }
        lines
    }

    /// All jobs of the default database.
    pub fn jobs(&self) -> Vec<Value> {
        let mut listed = self.queue(&["list", "--json", "--limit", "5000"]).success().json();
        listed["data"].take().as_array().unwrap().clone()
    }

    /// A job with its steps and log.
    pub fn show(&self, id: &Value) -> Value {
        self.queue(&["show", "--json", id.as_str().unwrap()]).success().json()
    }

    /// Polls until the file is there.
    pub fn wait_for(&self, name: &str) {
        wait_until(name, || self.path(name).exists());
    }
}

/// Polls until it holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A process; killed if the test ends before it does.
pub struct Running {
    child: Child,
    out: TempDir,
}

impl Running {
    /// Waits for its end.
    pub fn end(mut self) -> Ran {
        let mut status = None;
        wait_until("the end of the process", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        Ran {
            status: status.unwrap(),
            stdout: text(&self.out.path().join("stdout")),
            stderr: text(&self.out.path().join("stderr")),
        }
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(status.success(), "kill -s {name} {pid}");
    }

    pub fn kill_9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It fails where the process has ended, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(path: &Path) -> String {
    String::from_utf8(fs::read(path).unwrap()).unwrap()
}

/// What a process printed, and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        self
    }

    #[track_caller]
    pub fn success(self) -> Self {
        self.code(0)
    }

    /// It failed, and standard error says all of this.
    #[track_caller]
    pub fn failure(self, said: &[&str]) -> Self {
        for text in said {
            assert!(self.stderr.contains(text), "{text:?} is not in {self:#?}");
        }
        self.code(1)
    }

    /// The one JSON document on standard output.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}
