use serde_json::json;

use crate::bench::{Bench, Db};

crate::on_every_database!(
    jobs_are_listed_by_state_kind_queue_and_label,
    a_listing_has_at_most_limit_jobs_and_says_whether_there_are_more,
    a_job_is_shown_with_its_steps_in_order_and_its_log,
    what_the_store_keeps_is_printed_as_it_is,
);

fn three_jobs(db: Db) -> Bench {
    let bench = Bench::with_file(
        r#"
        [[workflows.w.steps]]
        id = "one"
        task = "note"
        input = { step = "one", item = "{{ input.item }}" }
        [[workflows.w.steps]]
        id = "two"
        task = "echo"
        input = "{{ steps.one.output.item }}"
        [[jobs]]
        workflow = "w"
        for_each = { values = ["x", "y"] }
        input = { item = "{{ item }}" }
        [[jobs]]
        task = "note"
        input = { step = "alone", item = "z" }
        "#,
    )
    .on(db);
    bench.write("fail-one-y", "");
    bench.run().failure(&["told to fail"]);
    bench
}

fn jobs_are_listed_by_state_kind_queue_and_label(db: Db) {
    let bench = three_jobs(db);
    let listed = |args: &[&str]| {
        let args = [&["list", "--json"], args].concat();
        bench.queue(&args).success().json()["data"].as_array().unwrap().clone()
    };
    let all = listed(&[]);
    assert_eq!(all.len(), 3);
    assert_eq!(listed(&["--state", "completed"]).len(), 2);
    assert_eq!(listed(&["--state", "completed", "--state", "failed"]).len(), 3);
    let failed = listed(&["--state", "failed", "--kind", "w"]);
    assert_eq!((failed.len(), &failed[0]["input"]), (1, &json!({"item": "y"})));
    assert_eq!(listed(&["--kind", "note"]).len(), 1);
    let queue = all[0]["queue"].as_str().unwrap();
    assert!(queue.starts_with("jobs-"), "{queue}");
    assert_eq!(listed(&["--queue", queue]).len(), 3);
    assert_eq!(listed(&["--queue", "other"]).len(), 0);
    let label = format!("file={}", all[0]["labels"]["file"].as_str().unwrap());
    assert_eq!(listed(&["--label", &label]).len(), 3);
    assert_eq!(listed(&["--label", "file=other"]).len(), 0);
}

fn a_listing_has_at_most_limit_jobs_and_says_whether_there_are_more(db: Db) {
    let bench = three_jobs(db);
    let two = bench.queue(&["list", "--json", "--limit", "2"]).success().json();
    assert_eq!((two["data"].as_array().unwrap().len(), &two["more"]), (2, &json!(true)));
    let all = bench.queue(&["list", "--json", "--limit", "3"]).success().json();
    assert_eq!((all["data"].as_array().unwrap().len(), &all["more"]), (3, &json!(false)));
    let text = bench.queue(&["list"]).success();
    assert_eq!(text.stdout.lines().count(), 4);
    assert!(text.stdout.starts_with("ID "), "{text:#?}");
}

fn a_job_is_shown_with_its_steps_in_order_and_its_log(db: Db) {
    let bench = three_jobs(db);
    let of = |item: &str| {
        let jobs = bench.jobs();
        jobs.into_iter().find(|job| job["input"]["item"] == item).unwrap()["id"].clone()
    };
    let good = bench.show(&of("x"));
    assert_eq!(good["job"]["state"], "completed");
    assert_eq!(good["job"]["output"], "x");
    let steps: Vec<_> =
        good["steps"].as_array().unwrap().iter().map(|step| &step["step"]).collect();
    assert_eq!(steps, ["one", "two"]);
    let places: Vec<_> =
        good["log"].as_array().unwrap().iter().map(|entry| &entry["seq"]).collect();
    assert_eq!(places, [1, 2]);

    let bad = bench.queue(&["show", of("y").as_str().unwrap()]).success().stdout;
    assert!(bad.contains("state      failed"), "{bad}");
    assert!(bad.contains("step one (note): not complete, attempts: 1"), "{bad}");
    assert!(bad.contains("exited with code 3; it said: told to fail"), "{bad}");

    let missing = "00000000-0000-0000-0000-000000000000";
    bench.queue(&["show", missing]).failure(&["there is no job", missing]);
}

fn what_the_store_keeps_is_printed_as_it_is(db: Db) {
    // Stores keep any JSON text; not all of it is a `serde_json::Value`, and some would be another text.
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let odd = format!(r#"{{"z":"\ud800","n":[1e400,9007199254740993.0],"a":{deep},"a":1}}"#);
    let bench = Bench::new().on(db);
    bench.write("odd.json", &odd);
    bench.write(
        "jobs.toml",
        "[tasks.odd]\nargv = ['cat', 'odd.json']\n[[jobs]]\ntask = 'odd'\ninput = 'x'\n",
    );
    bench.run().success();
    let shown = format!(r#""output":{odd}"#);
    let list = bench.queue(&["list", "--json"]).success().stdout;
    assert!(list.starts_with(r#"{"data":[{"#) && list.contains(&shown), "{list}");
    assert!(list.trim_end().ends_with(r#""more":false}"#), "{list}");
    let (_, id) = list.split_once(r#""id":""#).unwrap();
    let id = id.split('"').next().unwrap();
    let show = bench.queue(&["show", "--json", id]).success().stdout;
    assert!(show.starts_with(r#"{"job":{"#) && show.contains(&shown), "{show}");
}

#[test]
fn a_failed_job_with_a_deep_input_is_reported() {
    // Deeper than a `serde_json::Value` can be read, from two halves that are not.
    let nested = |inner: &str| format!("{}{inner}{}", "[".repeat(100), "]".repeat(100));
    let bench = Bench::new();
    let item = nested("1");
    let input = nested("\"{{ item }}\"");
    bench.write(
        "jobs.json",
        &format!(
            r#"{{"tasks":{{"t":{{"argv":["false"]}}}},"jobs":[{{"task":"t","for_each":{{"values":[{item}]}},"input":{input}}}]}}"#
        ),
    );
    let ran = bench.queue(&["run", "jobs.json", "--json"]).failure(&["exited with code 1"]);
    assert!(ran.stdout.contains(&nested(&item)), "{ran:#?}");
}
