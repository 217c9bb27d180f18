use serde_json::{Value, json};

use crate::bench::{Bench, Db, wait_until};

crate::on_every_database!(
    every_job_runs_once_and_the_outputs_are_written_in_order,
    a_second_run_has_nothing_left_to_do,
    only_files_that_changed_are_visited_again,
    a_changed_definition_runs_again_and_ends_what_the_old_one_left,
    a_failed_job_fails_the_run_and_is_tried_again_by_the_next,
    each_try_is_labelled_with_the_one_before_it,
    runs_side_by_side_share_the_work,
);

const TWO_ITEMS: &str = r#"
[[jobs]]
task = "note"
for_each = { values = ["x", "y"] }
input = { step = "only", item = "{{ item }}" }

[output]
path = "out.jsonl"
"#;

fn every_job_runs_once_and_the_outputs_are_written_in_order(db: Db) {
    let bench = Bench::with_file(TWO_ITEMS).on(db);
    let summary = bench.run().success().json();
    assert_eq!(summary["jobs"]["total"], 2);
    assert_eq!(summary["jobs"]["completed"], 2);
    assert_eq!(summary["steps"], json!({"done": 2, "restored": 0}));
    assert_eq!(summary["nothing_left"], false);
    assert_eq!(
        bench.read("out.jsonl"),
        "{\"step\":\"only\",\"item\":\"x\"}\n{\"step\":\"only\",\"item\":\"y\"}\n"
    );
    assert_eq!(bench.read("ledger").lines().count(), 2);
}

fn a_second_run_has_nothing_left_to_do(db: Db) {
    let bench = Bench::with_file(TWO_ITEMS).on(db);
    bench.run().success();
    bench.remove("out.jsonl");
    let ran = bench.queue(&["run", "jobs.toml"]).success();
    assert!(ran.stdout.contains("nothing was left to do"), "{ran:#?}");
    assert!(ran.stdout.contains("(2 of them before)"), "{ran:#?}");
    assert_eq!(bench.ledger().values().sum::<usize>(), 2);
    assert_eq!(bench.read("out.jsonl").lines().count(), 2);
}

#[test]
fn quiet_prints_nothing_and_the_summary_is_for_people_otherwise() {
    let bench = Bench::with_file(TWO_ITEMS);
    let quiet = bench.queue(&["run", "--quiet", "jobs.toml"]).success();
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    bench.write("jobs.toml", &bench.read("jobs.toml").replace("\"y\"", "\"y\", \"z\""));
    let text = bench.queue(&["run", "jobs.toml"]).success();
    let line = |name: &str| {
        let line = text.stdout.lines().find(|line| line.trim_start().starts_with(name));
        line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(text.stdout.starts_with("jobs.toml: 3 jobs\n"));
    assert_eq!(line("completed"), "completed 3 (2 of them before)");
    assert_eq!(line("steps done"), "steps done 1");
    assert_eq!(text.stderr, "");
}

#[test]
fn a_json_file_says_the_same() {
    let bench = Bench::new();
    let file = json!({
        "tasks": {"note": {"argv": ["sh", "note.sh", "{{ input.step }}", "{{ input.item }}"]}},
        "jobs": [{"task": "note", "input": {"step": "a", "item": "b"}}],
        "output": {"path": "out.jsonl"},
    });
    for name in ["jobs.json", "jobs.run"] {
        bench.write(name, &file.to_string());
        bench.queue(&["run", name]).success();
        assert_eq!(bench.read("out.jsonl"), "{\"step\":\"a\",\"item\":\"b\"}\n");
    }
    // Another file is another run.
    assert_eq!(bench.ledger()["a b"], 2);
}

fn only_files_that_changed_are_visited_again(db: Db) {
    let bench = Bench::with_file(
        r#"
        [[jobs]]
        task = "note"
        for_each = { glob = "**/*.txt", root = "tree", exclude = ["skip"] }
        input = { step = "visit", item = "{{ item }}" }
        "#,
    )
    .on(db);
    for name in ["a.txt", "sub/b.txt", "sub/c.md", "skip/d.txt"] {
        bench.write(&format!("tree/{name}"), name);
    }
    assert_eq!(bench.run().success().json()["jobs"]["total"], 2);
    bench.write("tree/sub/b.txt", "changed");
    bench.write("tree/new.txt", "new");
    let summary = bench.run().success().json();
    assert_eq!(summary["jobs"]["total"], 3);
    assert_eq!(summary["jobs"]["completed_before"], 1);
    let ledger = bench.ledger();
    assert_eq!(ledger["visit a.txt"], 1);
    assert_eq!(ledger["visit sub/b.txt"], 2);
    assert_eq!(ledger["visit new.txt"], 1);
    assert_eq!(ledger.len(), 3);
}

#[test]
fn a_run_leaves_out_its_own_database_whatever_the_directory_is_called() {
    let bench = Bench::new();
    for dir in ["50%", "50%41", "a?b#c", "a b"] {
        let file = format!("{dir}/jobs.toml");
        bench.write(
            &file,
            "[tasks.echo]\nbuiltin = 'echo'\n\
             [[jobs]]\ntask = 'echo'\nfor_each = { glob = '**/*' }\n",
        );
        bench.write(&format!("{dir}/sub/a"), "");
        let run = || bench.queue(&["run", &file, "--json"]).success().json();
        assert_eq!(run()["jobs"]["total"], 2, "{dir}");
        assert!(bench.path(dir).join("queue.db").exists(), "{dir}");
        let again = run();
        assert_eq!((&again["jobs"]["total"], &again["nothing_left"]), (&json!(2), &json!(true)));
    }
}

fn a_changed_definition_runs_again_and_ends_what_the_old_one_left(db: Db) {
    let bench = Bench::with_file(TWO_ITEMS).on(db);
    bench.write("fail-only-x", "");
    bench.write(
        "jobs.toml",
        &bench.read("jobs.toml").replace("timeout", "retries = 1\nbackoff = \"1h\"\ntimeout"),
    );
    bench.write("hold-only-y", "");
    let running = bench.start(&["run", "jobs.toml"]);
    bench.wait_for("held-only-y");
    wait_until("the failure of x is stored", || {
        bench.jobs().iter().any(|job| job["error"]["message"].is_string())
    });
    running.kill_9();
    bench.remove("hold-only-y");
    bench.remove("fail-only-x");
    bench.write("jobs.toml", &bench.read("jobs.toml").replace("1h", "2h"));
    let summary = bench.run().success().json();
    assert_eq!(summary["jobs"]["completed"], 2);
    assert_eq!(summary["jobs"]["completed_before"], 0);
    let jobs = bench.jobs();
    assert_eq!(jobs.len(), 4);
    let old_x = jobs.iter().find(|job| job["state"] == "cancelled").unwrap();
    assert_eq!(old_x["input"]["item"], "x");
    assert!(old_x["cancel"]["reason"].as_str().unwrap().contains("no longer"));
}

fn a_failed_job_fails_the_run_and_is_tried_again_by_the_next(db: Db) {
    let bench = Bench::with_file(TWO_ITEMS).on(db);
    bench.write("fail-only-y", "");
    let failed = bench.run().failure(&["told to fail", "exited with code 3", "was not written"]);
    let summary = failed.json();
    assert_eq!(summary["jobs"]["failed"], 1);
    assert_eq!(summary["failures"][0]["input"]["item"], "y");
    assert!(!bench.path("out.jsonl").exists());
    // It fails once more, then it does not.
    assert_eq!(bench.run().failure(&["told to fail"]).json()["jobs"]["tried_again"], 1);
    bench.remove("fail-only-y");
    let summary = bench.run().success().json();
    assert_eq!(summary["jobs"]["completed"], 2);
    assert_eq!(summary["jobs"]["completed_before"], 1);
    assert_eq!(summary["jobs"]["tried_again"], 1);
    assert_eq!(bench.ledger()["only x"], 1);
    assert_eq!(bench.ledger()["only y"], 3);
    assert_eq!(bench.read("out.jsonl").lines().count(), 2);
    assert_eq!(bench.run().success().json()["nothing_left"], true);
}

fn each_try_is_labelled_with_the_one_before_it(db: Db) {
    let bench = Bench::with_file(TWO_ITEMS).on(db);
    bench.write("fail-only-y", "");
    for _ in 0..3 {
        bench.run().failure(&["told to fail"]);
    }
    let jobs: Vec<_> = bench.jobs().into_iter().filter(|job| job["input"]["item"] == "y").collect();
    assert_eq!(jobs.len(), 3);
    let retry_of = |id: Option<&Value>| {
        let mut found = jobs.iter().filter(|job| job["labels"].get("retry-of") == id);
        found.next().unwrap_or_else(|| panic!("no retry of {id:?} in {jobs:#?}"))
    };
    let first = retry_of(None);
    let second = retry_of(Some(&first["id"]));
    retry_of(Some(&second["id"]));
}

#[test]
fn params_are_set_on_the_command_line() {
    let bench = Bench::with_file(
        r#"
        [params]
        who = "ada"
        [[jobs]]
        task = "note"
        input = { step = "greet", item = "{{ params.who }}" }
        [output]
        path = "{{ params.who }}.jsonl"
        "#,
    );
    bench.run().success();
    bench.queue(&["run", "jobs.toml", "--set", "who=grace"]).success();
    assert!(bench.read("ada.jsonl").contains("\"item\":\"ada\""));
    assert!(bench.read("grace.jsonl").contains("\"item\":\"grace\""));
    bench.queue(&["run", "jobs.toml", "--set", "whom=x"]).failure(&["no such param", "who"]);
}

fn runs_side_by_side_share_the_work(db: Db) {
    let values: Vec<String> = (0..12).map(|n| format!("\"{n}\"")).collect();
    let bench = Bench::with_file(&TWO_ITEMS.replace("\"x\", \"y\"", &values.join(", "))).on(db);
    bench.write("hold-only-0", "");
    let first = bench.start(&["run", "jobs.toml", "--concurrency", "1", "--json"]);
    let second = bench.start(&["run", "jobs.toml", "--concurrency", "2", "--json"]);
    bench.wait_for("held-only-0");
    bench.remove("hold-only-0");
    for running in [first, second] {
        assert_eq!(running.end().success().json()["jobs"]["completed"], 12);
    }
    assert_eq!(bench.ledger().len(), 12);
    assert!(bench.ledger().values().all(|count| *count == 1), "{:?}", bench.ledger());
}

#[test]
fn the_file_of_the_readme_runs() {
    let readme = include_str!("../../README.md");
    let file = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let bench = Bench::new();
    bench.write("jobs.toml", file);
    let summary = bench.run().success().json();
    assert_eq!(summary["steps"]["done"], 4);
    assert!(summary["queue"].as_str().unwrap().starts_with("fruit-"));
    assert_eq!(
        bench.read("fruit.jsonl"),
        "{\"loud\":\"APPLE!\",\"name\":\"apple\"}\n{\"loud\":\"PLUM!\",\"name\":\"plum\"}\n"
    );
}

#[test]
fn a_definition_has_the_same_key_in_every_version() {
    let bench = Bench::new();
    bench.write(
        "jobs.toml",
        "[tasks.t]\nargv = ['echo', '1']\nretries = 1\n\
         [workflows.w]\nsteps = [{ id = 'a', task = 't', needs = [] }]\n\
         [[jobs]]\nworkflow = 'w'\n",
    );
    bench.run().success();
    // Another key would make every user's finished jobs run again.
    assert_eq!(bench.jobs()[0]["labels"]["definition"], "f966f598704d5fea");
}

#[test]
fn a_job_that_is_listed_twice_is_one_and_items_may_be_objects() {
    let bench = Bench::with_file(
        r#"
        [[jobs]]
        task = "note"
        for_each = { values = [{ n = ["x"] }, { n = ["y"] }, { n = ["x"] }] }
        input = { step = "s", item = "{{ item.n.0 }}" }
        [[jobs]]
        task = "note"
        input = { step = "s", item = "y" }
        "#,
    );
    assert_eq!(bench.run().success().json()["jobs"]["total"], 2);
    assert_eq!(
        bench.ledger().into_iter().collect::<Vec<_>>(),
        [("s x".into(), 1), ("s y".into(), 1)]
    );
}
