use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::bench::{Bench, Db};

crate::on_every_database!(
    after_kill_9_only_the_steps_in_flight_run_again,
    ctrl_c_gives_jobs_back_and_the_next_run_goes_on,
);

const ITEMS: [&str; 6] = ["1", "2", "3", "4", "5", "6"];
const STEPS: [&str; 4] = ["a", "b", "c", "join"];

/// Six jobs of three parallel steps and one that joins them.
fn six_jobs() -> Bench {
    let mut file = String::new();
    for step in &STEPS[..3] {
        file.push_str(&format!(
            "[[workflows.w.steps]]\nid = \"{step}\"\ntask = \"note\"\n\
             input = {{ step = \"{step}\", item = \"{{{{ input.item }}}}\" }}\n"
        ));
    }
    file.push_str(
        r#"
        [[workflows.w.steps]]
        id = "join"
        task = "note"
        needs = ["a", "b", "c"]
        input = { step = "join", item = "{{ input.item }}" }
        [[jobs]]
        workflow = "w"
        for_each = { values = ["1", "2", "3", "4", "5", "6"] }
        input = { item = "{{ item }}" }
        [output]
        path = "out.jsonl"
        "#,
    );
    Bench::with_file(&file)
}

/// The completed step entries of each job's log, by item: every entry, in the order of the log.
fn completed(bench: &Bench) -> BTreeMap<String, Vec<String>> {
    let jobs = bench.jobs();
    let of = |job: &Value| {
        let shown = bench.show(&job["id"]);
        let steps = shown["log"].as_array().unwrap().iter().map(|entry| &entry["body"]);
        let steps = steps.filter(|step| step["state"] == "completed");
        let names = steps.map(|step| step["step"].as_str().unwrap().to_owned()).collect();
        (job["input"]["item"].as_str().unwrap().to_owned(), names)
    };
    jobs.iter().map(of).collect()
}

fn after_kill_9_only_the_steps_in_flight_run_again(db: Db) {
    let bench = six_jobs().on(db);
    let held = ["c-2", "a-4", "join-5"];
    for name in held {
        bench.write(&format!("hold-{name}"), "");
    }
    let running = bench.start(&["run", "jobs.toml", "--concurrency", "3"]);
    for name in held {
        bench.wait_for(&format!("held-{name}"));
    }
    running.kill_9();
    let stored = completed(&bench);
    let unfinished: BTreeSet<String> = bench
        .jobs()
        .iter()
        .filter(|job| job["state"] != "completed")
        .map(|job| job["input"]["item"].as_str().unwrap().to_owned())
        .collect();
    assert!(["2", "4", "5"].iter().all(|item| unfinished.contains(*item)));
    assert_eq!(stored["5"].iter().collect::<BTreeSet<_>>().len(), 3, "{stored:?}");
    for name in held {
        bench.remove(&format!("hold-{name}"));
    }

    let summary = bench.run().success().json();
    // The file's lease is 1 s; with the one that workers have otherwise it would be 10 s at least.
    assert!(summary["seconds"].as_f64().unwrap() < 9.0, "{summary:#}");
    let restored: usize = unfinished.iter().map(|item| stored[item].len()).sum();
    assert!(restored >= 3);
    assert_eq!(summary["jobs"]["completed"], 6);
    assert_eq!(summary["jobs"]["completed_before"], 6 - unfinished.len());
    assert_eq!(summary["steps"]["restored"], restored);
    assert_eq!(summary["steps"]["done"], unfinished.len() * STEPS.len() - restored);

    // Every job has exactly one entry for each step, and what was stored before is the beginning of
    // it.
    let after = completed(&bench);
    let ledger = bench.ledger();
    for item in ITEMS {
        let mut names = after[item].clone();
        assert!(names.starts_with(&stored[item]), "{item}: {stored:?} {after:?}");
        names.sort();
        assert_eq!(names, STEPS, "{item}");
        for step in STEPS {
            let ran = ledger[&format!("{step} {item}")];
            let was_stored = stored[item].iter().any(|name| name == step);
            let was_held = held.contains(&format!("{step}-{item}").as_str());
            match (was_stored, was_held) {
                (true, _) => assert_eq!(ran, 1, "the finished step {step} {item} ran again"),
                (false, true) => assert_eq!(ran, 2, "the step in flight {step} {item}"),
                (false, false) => assert!(ran <= 2, "{step} {item} ran {ran} times"),
            }
        }
    }
    for job in bench.jobs() {
        let item = job["input"]["item"].as_str().unwrap();
        let expected = u64::from(["2", "4", "5"].contains(&item));
        let crashes = job["crashes"].as_u64().unwrap();
        assert!(crashes >= expected && crashes <= 1, "{job:#}");
        assert_eq!(job["attempt"], 1, "a crash uses no attempt");
    }
    assert_eq!(bench.read("out.jsonl").lines().count(), 6);
}

fn ctrl_c_gives_jobs_back_and_the_next_run_goes_on(db: Db) {
    let bench = six_jobs().on(db);
    bench.write("hold-join-3", "");
    let running = bench.start(&["run", "jobs.toml", "--json"]);
    bench.wait_for("held-join-3");
    running.signal("INT");
    let ran = running.end().code(130);
    assert!(ran.stderr.contains("the same command goes on"), "{ran:#?}");
    assert_eq!(ran.json()["interrupted"], true);
    assert!(!bench.path("out.jsonl").exists());

    let jobs = bench.jobs();
    let released = jobs.iter().find(|job| job["input"]["item"] == "3").unwrap();
    assert_eq!(released["state"], "waiting");
    assert_eq!((&released["attempt"], &released["crashes"]), (&0.into(), &0.into()));

    bench.remove("hold-join-3");
    let summary = bench.run().success().json();
    assert_eq!(summary["jobs"]["completed"], 6);
    let ledger = bench.ledger();
    assert_eq!(ledger["join 3"], 2);
    assert!(["a 3", "b 3", "c 3"].iter().all(|step| ledger[*step] == 1), "{ledger:?}");
}
