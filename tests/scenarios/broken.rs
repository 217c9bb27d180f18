//! Every broken engine is noticed by the test that is named for it.

use std::{
    env::current_exe,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use queue::{Broken, Switch};

/// How long a test may take on a broken engine, which may hang.
const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Debug, PartialEq)]
enum Verdict {
    Passed,
    Failed,
    Hung,
    /// There is no test of this name.
    Missing,
}

/// Runs one test of this binary in a process of its own.
fn run(test: &str, broken: Option<&str>) -> Verdict {
    let mut command = Command::new(current_exe().unwrap());
    command.args(["--exact", test]).env_remove("QUEUE_BROKEN").env("RUST_BACKTRACE", "0");
    command.envs(broken.map(|name| ("QUEUE_BROKEN", name)));
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("this binary runs");
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            return Verdict::Hung;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    match (String::from_utf8_lossy(&output.stdout).contains("running 1 test"), output.status) {
        (false, _) => Verdict::Missing,
        (true, status) if status.success() => Verdict::Passed,
        (true, _) => Verdict::Failed,
    }
}

fn trial(switch: &Switch) -> (bool, String) {
    let sound = run(switch.killer, None);
    let broken = run(switch.killer, Some(switch.name));
    let good = sound == Verdict::Passed && matches!(broken, Verdict::Failed | Verdict::Hung);
    let line = format!(
        "rule {:<4} {:<36} {:?} on the sound engine, {:?} on this one: {}\n          {}",
        switch.rule, switch.name, sound, broken, switch.sentence, switch.killer,
    );
    (good, line)
}

/// Prints the matrix: `cargo test -p queue --all-features --test scenarios every_broken_engine -- --nocapture`.
#[test]
#[allow(clippy::print_stdout)] // the matrix
fn every_broken_engine_is_killed_by_the_test_that_is_named_for_it() {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let take = || next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let mut lines = Vec::new();
        while let Some((place, switch)) =
            Some(take()).and_then(|place| Some((place, Broken::ALL.get(place)?)))
        {
            lines.push((place, trial(switch)));
        }
        lines
    };
    let mut trials: Vec<_> = std::thread::scope(|scope| {
        // They wait more than they work.
        let workers = [(); 8].map(|()| scope.spawn(work));
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    trials.sort_by_key(|(place, _)| *place);
    for (_, (_, line)) in &trials {
        println!("{line}");
    }
    let alive: Vec<_> =
        trials.iter().filter(|(_, (good, _))| !good).map(|(_, (_, line))| line).collect();
    println!("{} broken engines, {} killed", trials.len(), trials.len() - alive.len());
    assert!(alive.is_empty(), "not killed by its test, or its test fails anyway: {alive:#?}");
}
