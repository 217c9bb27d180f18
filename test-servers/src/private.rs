use std::{
    collections::HashMap, fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command,
};

use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/servers");
/// With these set, the script would start nothing.
const GIVEN: [&str; 5] = [
    "QUEUE_POSTGRES_URL",
    "QUEUE_PGBOUNCER_URL",
    "QUEUE_MONGO_URL",
    "QUEUE_MONGO_STANDALONE_URL",
    "QUEUE_MONGO_AUTH_URL",
];

/// Servers of a test's own, which end with this value.
#[derive(Debug)]
pub struct Private {
    directory: TempDir,
    exported: HashMap<String, String>,
    /// Whether servers that the environment names are used, and none started in their stead.
    is_beside: bool,
}

impl Private {
    /// Starts the servers with these names; `scripts/servers` knows them.
    ///
    /// # Panics
    /// Where one does not start: with what the script says.
    pub fn start(names: &[&str]) -> Private {
        Self::start_with(names, false)
    }

    /// As [`start`](Self::start), before or beside the servers that the environment names: a pooler of one's own.
    ///
    /// # Panics
    /// Where one does not start: with what the script says.
    pub fn beside(names: &[&str]) -> Private {
        Self::start_with(names, true)
    }

    fn start_with(names: &[&str], is_beside: bool) -> Private {
        let directory = tempfile::tempdir().expect("a directory");
        // PostgreSQL may run as another user.
        let everybody = fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.path(), everybody).expect("a directory of ours");
        let mut private = Private { directory, exported: HashMap::new(), is_beside };
        private.script("start", names);
        let exports =
            fs::read_to_string(private.servers().join("env")).expect("what the script wrote");
        let exports =
            exports.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('='));
        let unquoted = |value: &str| value.trim_matches('\'').to_owned();
        private.exported = exports.map(|(key, value)| (key.to_owned(), unquoted(value))).collect();
        private
    }

    fn servers(&self) -> PathBuf {
        self.directory.path().join("servers")
    }

    fn script(&self, command: &str, names: &[&str]) {
        let mut script = Command::new(SCRIPT);
        script.arg(command).arg(self.servers()).args(names);
        let started: Vec<String> =
            names.iter().map(|name| name.to_uppercase().replace('-', "_")).collect();
        let is_started = |variable: &str| started.iter().any(|name| variable.contains(name));
        for variable in GIVEN.iter().filter(|variable| !self.is_beside || is_started(variable)) {
            script.env_remove(variable);
        }
        let done = script.output().expect("a shell");
        let words = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "scripts/servers {command} {names:?}: {words}");
    }

    /// What the script says about its servers: a variable of its `env`.
    ///
    /// # Panics
    /// Where the servers have no such variable.
    pub fn get(&self, variable: &str) -> &str {
        &self.exported[variable]
    }

    /// Ends a server as a crash would.
    ///
    /// # Panics
    /// Where it does not end.
    pub fn halt(&self, name: &str) {
        self.script("halt", &[name]);
    }

    /// Sends a signal to a MongoDB server: `STOP` makes it hang, `CONT` ends that.
    ///
    /// # Panics
    /// Where there is no such process.
    pub fn signal(&self, name: &str, signal: &str) {
        let file = self.servers().join(format!("{name}.pid"));
        let pid = fs::read_to_string(file).expect("a server that runs");
        let sent = Command::new("kill").args(["-s", signal, pid.trim()]).status();
        assert!(sent.expect("a shell").success(), "kill -s {signal}");
    }

    /// Starts it again, with its data and on its port.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn resume(&self, name: &str) {
        self.script("resume", &[name]);
    }
}

impl Drop for Private {
    #[expect(
        clippy::print_stderr,
        reason = "it may be dropped while a test panics, and a second panic would be the end"
    )]
    fn drop(&mut self) {
        let stopped = Command::new(SCRIPT).arg("stop").arg(self.servers()).output();
        if !stopped.is_ok_and(|stopped| stopped.status.success()) {
            eprintln!("the servers in {} were not stopped", self.servers().display());
        }
    }
}
