//! Several processes on one file, and one that is killed.
//!
//! The children are this test binary, told by an environment variable what to do.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    num::NonZeroU32,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use queue_core::{
    ClaimRequest, JobFilter, JobId, JobPatch, JobStore, JobUpdate, LogRead, NewJob, Payload,
    Queues, State, Transition,
};
use queue_sqlite::SqliteStore;

const ROLE: &str = "QUEUE_SQLITE_TEST_ROLE";
const FILE: &str = "QUEUE_SQLITE_TEST_FILE";

/// Starts a child that runs `child_process` below in this role, and waits at its standard input.
fn spawn(role: &str, path: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["child_process", "--exact", "--ignored", "--nocapture"])
        .env(ROLE, role)
        .env(FILE, path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn request(limit: u32) -> ClaimRequest {
    let limit = NonZeroU32::new(limit).unwrap();
    ClaimRequest::new(Queues::All, "worker", limit, Duration::from_secs(60))
}

fn job() -> NewJob {
    NewJob::new("x", Payload::null())
}

/// Says something to the parent, on a line of its own.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n@{line}").unwrap();
    out.flush().unwrap();
}

/// The child's side of the tests in this file; it is not a test of its own.
#[tokio::test]
#[ignore = "run by the other tests of this file as a child process"]
async fn child_process() {
    let role = env::var(ROLE).expect("this is run by the other tests of this file");
    let path = env::var(FILE).unwrap();
    // All children are let go together.
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let store = SqliteStore::open(path).await.unwrap();
    match role.as_str() {
        "open" => {
            store.insert(&[job()]).await.unwrap();
        }
        "work" => loop {
            let claimed = store.claim(&request(3)).await.unwrap();
            if claimed.jobs.is_empty() {
                break;
            }
            for job in claimed.jobs {
                let patch = JobPatch::transition(Transition::Complete { output: None });
                let update = JobUpdate::held(job.id, job.fence, patch);
                assert!(store.update_jobs(&[update]).await.unwrap()[0].applied().is_some());
                say(&job.id.to_string());
            }
        },
        "insert for ever" => loop {
            let job = job();
            store.insert(std::slice::from_ref(&job)).await.unwrap();
            say(&job.id.to_string());
        },
        other => panic!("no role {other:?}"),
    }
    store.close().await;
}

fn start_together(children: &mut [Child]) {
    for child in children {
        child.stdin.take().unwrap().write_all(b"!").unwrap();
    }
}

/// What a child said, to its end.
fn said(child: Child) -> Vec<JobId> {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "a child failed: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.strip_prefix('@')).map(|id| id.parse().unwrap()).collect()
}

#[tokio::test]
async fn eight_processes_migrate_a_new_file_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    let mut children: Vec<Child> = (0..8).map(|_| spawn("open", &path)).collect();
    start_together(&mut children);
    for child in children {
        said(child);
    }
    let store = SqliteStore::open(&path).await.unwrap();
    let tally = store.tally(&JobFilter::all()).await.unwrap();
    assert_eq!(tally.iter().map(|tally| tally.count).sum::<u64>(), 8);
}

#[tokio::test]
async fn four_processes_share_the_work_and_none_sees_a_lock() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let jobs: Vec<NewJob> = (0..400).map(|_| job()).collect();
    store.insert(&jobs).await.unwrap();
    let mut children: Vec<Child> = (0..4).map(|_| spawn("work", &path)).collect();
    start_together(&mut children);
    let mut done: Vec<JobId> = children.into_iter().flat_map(said).collect();
    done.sort_unstable();
    let mut ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    ids.sort_unstable();
    assert_eq!(done, ids, "each job was done exactly once");
    let tally = store.tally(&JobFilter::all()).await.unwrap();
    assert_eq!((tally.len(), tally[0].state, tally[0].count), (1, State::Completed, 400));
}

#[tokio::test]
async fn what_was_acknowledged_survives_the_death_of_its_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    let mut child = spawn("insert for ever", &path);
    start_together(std::slice::from_mut(&mut child));
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ids: Vec<JobId> = lines
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix('@').map(|id| id.parse().unwrap()))
        .take(60)
        .collect();
    child.kill().unwrap();
    child.wait().unwrap();
    let store = SqliteStore::open(&path).await.unwrap();
    let jobs = store.get(&ids, LogRead::None).await.unwrap();
    assert_eq!(ids.len(), 60);
    assert!(jobs.iter().all(Option::is_some));
    assert_eq!(store.claim(&request(1)).await.unwrap().jobs[0].id, ids[0]);
}
