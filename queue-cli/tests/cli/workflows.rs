use serde_json::json;

use crate::bench::Bench;

fn workflow(steps: &str) -> Bench {
    Bench::with_file(&format!(
        "{steps}\n[[jobs]]\nworkflow = \"w\"\ninput = {{ item = \"i\", big = false }}\n\
         [output]\npath = \"out.jsonl\"\n"
    ))
}

#[test]
fn later_steps_are_given_the_outputs_of_earlier_ones_and_conditions_decide() {
    let bench = workflow(
        r#"
        [workflows.w]
        output = { b = "{{ steps.b.output.item }}", skipped = "{{ steps.skipped.output.item }}" }
        [[workflows.w.steps]]
        id = "b"
        task = "note"
        input = { step = "b", item = "{{ steps.a.output.step }}{{ input.item }}" }
        [[workflows.w.steps]]
        id = "a"
        task = "note"
        input = { step = "a", item = "{{ input.item }}" }
        [[workflows.w.steps]]
        id = "skipped"
        task = "note"
        condition = "input.big == true"
        input = { step = "skipped", item = "i" }
        "#,
    );
    let summary = bench.run().success().json();
    assert_eq!(summary["steps"]["done"], 2);
    assert_eq!(bench.read("ledger"), "a i\nb ai\n");
    assert_eq!(bench.read("out.jsonl"), "{\"b\":\"ai\",\"skipped\":null}\n");
}

#[test]
fn a_failing_step_is_retried_and_its_finished_siblings_are_not() {
    let bench = workflow(
        r#"
        [[workflows.w.steps]]
        id = "good"
        task = "note"
        input = { step = "good", item = "i" }
        [[workflows.w.steps]]
        id = "bad"
        task = "note"
        retries = 2
        input = { step = "bad", item = "i" }
        [[workflows.w.steps]]
        id = "after"
        task = "echo"
        needs = ["bad"]
        "#,
    );
    bench.write("fail-bad-i", "");
    bench.run().failure(&["step \"bad\"", "exited with code 3"]);
    assert_eq!(bench.ledger()["good i"], 1);
    assert_eq!(bench.ledger()["bad i"], 3);
    let job = bench.show(&bench.jobs()[0]["id"]);
    assert_eq!(job["job"]["attempt"], 3);
    let steps = job["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 2, "no step began after the failure");
    let bad = steps.iter().find(|step| step["step"] == "bad").unwrap();
    assert_eq!((&bad["failures"], &bad["complete"]), (&json!(3), &json!(false)));
}

#[test]
fn a_step_that_completes_the_job_does_not_wait_for_a_sibling_s_retry() {
    let bench = workflow(
        r#"
        [tasks.broken]
        argv = ["sh", "-c", "exit 1"]
        retries = 5
        backoff = "10h"
        [[workflows.w.steps]]
        id = "broken"
        task = "broken"
        [[workflows.w.steps]]
        id = "enough"
        task = "note"
        completes_job = true
        input = { step = "enough", item = "i" }
        [[workflows.w.steps]]
        id = "never"
        task = "note"
        needs = ["enough"]
        input = { step = "never", item = "i" }
        "#,
    );
    bench.run().success();
    assert_eq!(bench.read("out.jsonl"), "{\"item\":\"i\",\"step\":\"enough\"}\n");
    assert_eq!(bench.ledger().len(), 1);
    // The failed sibling is logged nevertheless.
    let job = bench.show(&bench.jobs()[0]["id"]);
    let log = job["log"].as_array().unwrap();
    let states: Vec<&str> =
        log.iter().filter_map(|entry| entry["body"]["state"].as_str()).collect();
    assert_eq!(states.len(), 2, "{log:#?}");
    assert!(states.contains(&"failed") && states.contains(&"completed"));
}

#[test]
fn an_input_that_cannot_be_filled_fails_the_job_at_once_with_its_place() {
    let bench = workflow(
        r#"
        [[workflows.w.steps]]
        id = "a"
        task = "note"
        retries = 5
        input = { step = "a", item = "{{ input.missing }}" }
        "#,
    );
    bench.run().failure(&["the input of step \"a\"", "`input.missing` leads nowhere"]);
    assert!(bench.ledger().is_empty());
    assert_eq!(bench.jobs()[0]["attempt"], 1);
}

#[test]
fn mistakes_in_a_workflow_are_reported_before_anything_is_stored() {
    let fault = |steps: &str, said: &[&str]| {
        let bench = workflow(&format!("[workflows.w]\nsteps = [{steps}]"));
        bench.queue(&["run", "jobs.toml"]).failure(said);
        assert!(!bench.path("queue.db").exists());
    };
    fault("", &["workflow \"w\"", "no steps"]);
    fault("{ id = 'a', task = 'nope' }", &["\"nope\"", "known are echo, note"]);
    fault("{ id = 'a', task = 'echo', needs = ['b'] }", &["`needs` of step \"a\"", "\"b\""]);
    fault("{ id = 'a', task = 'echo' }, { id = 'a', task = 'echo' }", &["two steps", "\"a\""]);
    fault(
        "{ id = 'a', task = 'echo', needs = ['b'] }, { id = 'b', task = 'echo', needs = ['a'] }",
        &["a needs b needs a"],
    );
    fault(
        "{ id = 'a', task = 'echo', input = '{{ oops' }",
        &["the input of step \"a\"", "not closed"],
    );
}
