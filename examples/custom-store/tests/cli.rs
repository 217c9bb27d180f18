//! The command line on the store.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Two steps for each of two items. The second step says that it has come so far, and waits while `hold` is there.
const FILE: &str = r#"
[run]
lease = "1s"

[tasks.shout]
argv = ["sh", "-c", 'echo "$1" >>ledger; printf "\"%s!\"" "$1"', "sh", "{{ input.text }}"]

[tasks.slow]
argv = ["sh", "-c", 'echo "$1" >>held; while [ -e hold ]; do sleep 0.02; done; printf "\"%s!\"" "$1"', "sh", "{{ input.text }}"]

[workflows.twice]
[[workflows.twice.steps]]
id = "once"
task = "shout"

[[workflows.twice.steps]]
id = "again"
task = "slow"
input = { text = "{{ steps.once.output }}" }

[[jobs]]
workflow = "twice"
for_each = { values = ["apple", "plum"] }
input = { text = "{{ item }}" }

[output]
path = "out.jsonl"
"#;

const RUN: [&str; 4] = ["run", "jobs.toml", "--db", "redb:jobs.redb"];

fn queue(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_queue-redb"));
    command.args(args).current_dir(dir);
    command
}

fn success(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

#[test]
fn a_run_file_runs_on_the_store_and_a_second_run_finds_all_done() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("jobs.toml"), FILE).unwrap();
    success(queue(dir.path(), &RUN));
    let output = fs::read_to_string(dir.path().join("out.jsonl")).unwrap();
    assert_eq!(output, "\"apple!!\"\n\"plum!!\"\n");

    let again = success(queue(dir.path(), &RUN));
    assert!(again.contains("nothing was left to do"), "{again}");
    let list = ["list", "--state", "completed", "--db", "redb:jobs.redb"];
    let listed = success(queue(dir.path(), &list));
    assert_eq!(listed.lines().count(), 3, "{listed}");
}

#[test]
fn after_a_kill_the_next_run_goes_on_behind_the_last_finished_step() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("jobs.toml"), FILE).unwrap();
    fs::write(dir.path().join("hold"), "").unwrap();
    let mut killed =
        queue(dir.path(), &RUN).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let item = loop {
        let held = fs::read_to_string(dir.path().join("held")).unwrap_or_default();
        if let Some((item, _)) = held.split_once("!\n") {
            break item.to_owned();
        }
        assert!(Instant::now() < deadline, "no second step was begun");
        thread::sleep(Duration::from_millis(5));
    };
    killed.kill().unwrap();
    killed.wait().unwrap();
    fs::remove_file(dir.path().join("hold")).unwrap();
    success(queue(dir.path(), &RUN));
    let output = fs::read_to_string(dir.path().join("out.jsonl")).unwrap();
    assert_eq!(output, "\"apple!!\"\n\"plum!!\"\n");
    // Its second step had begun, so what its first one returned was stored.
    let ledger = fs::read_to_string(dir.path().join("ledger")).unwrap();
    assert_eq!(ledger.lines().filter(|line| *line == item).count(), 1, "{item} in {ledger}");
}

#[test]
fn an_unknown_scheme_is_refused_with_the_schemes_of_the_registry() {
    let dir = tempfile::tempdir().unwrap();
    let ran = queue(dir.path(), &["list", "--db", "leveldb:jobs"]).output().unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1));
    assert!(said.contains("redb:") && said.contains("sqlite:"), "{said}");
}
