use std::{collections::BTreeMap, future::pending, pin::pin, sync::Mutex};

use futures::{FutureExt, channel::oneshot, executor::block_on};
use serde_json::{Value, json};

use super::*;
use crate::flow::{Flow, Step};

/// Answers each step by its task: `echo` returns its input, `fail` fails, `gate` waits until it is
/// opened, and `doomed` has failed by then, which is said when it is opened.
#[derive(Default)]
struct Script {
    started: Mutex<Vec<String>>,
    gates: Mutex<BTreeMap<String, oneshot::Sender<Result<Value, String>>>>,
    failing: AtomicBool,
}

impl Script {
    fn started(&self) -> Vec<String> {
        self.started.lock().unwrap().clone()
    }

    fn open(&self, step: &str, answer: Result<Value, &str>) {
        let gate = self.gates.lock().unwrap().remove(step).expect("the step waits at its gate");
        gate.send(answer.map_err(str::to_owned)).expect("the flow waits for the step");
    }
}

impl StepRunner for Script {
    type Error = String;

    fn run<'a>(
        &'a self,
        step: &'a PlannedStep,
        input: Value,
    ) -> BoxFuture<'a, Result<Value, String>> {
        self.started.lock().unwrap().push(step.id.clone());
        match step.task.as_str() {
            "echo" => async move { Ok(input) }.boxed(),
            "fail" => async move { Err(format!("{} failed", step.id)) }.boxed(),
            // Waits for a retry in a later run, as the engine's steps do.
            "park" => pending().boxed(),
            task => {
                if task == "doomed" {
                    self.failing.store(true, Ordering::Relaxed);
                }
                let (gate, opened) = oneshot::channel();
                self.gates.lock().unwrap().insert(step.id.clone(), gate);
                async move { opened.await.expect("the test keeps the gate") }.boxed()
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.gates.lock().unwrap().is_empty()
    }

    fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }
}

fn plan(steps: Vec<Step>) -> Plan {
    Flow::new(steps).plan(["echo", "fail", "gate", "doomed", "park"]).unwrap()
}

fn run(plan: &Plan, input: Value) -> (Result<Value, Failure<String>>, Vec<String>) {
    let script = Script::default();
    let result = block_on(plan.execute(input, &script));
    (result, script.started())
}

fn failed<T: std::fmt::Debug>(result: Result<T, Failure<String>>) -> String {
    match result.unwrap_err() {
        Failure::Step(error) => error,
        Failure::Flow(error) => error.to_string(),
    }
}

/// Plays the acts one after the other, each once the flow waits; the flow must wait until the last.
fn play(plan: &Plan, script: &Script, acts: &[&dyn Fn()]) -> Result<Value, Failure<String>> {
    let mut flow = pin!(plan.execute(json!({}), script));
    for act in acts {
        assert!(flow.as_mut().now_or_never().is_none(), "the flow ended too early");
        act();
    }
    flow.now_or_never().expect("the flow ends after the last act")
}

#[test]
fn a_later_step_is_given_the_outputs_of_earlier_ones() {
    let plan = plan(vec![
        Step::new("a", "echo").input(json!({"n": "{{ input.n }}", "list": [1, 2]})),
        Step::new("b", "echo")
            .input(json!({"sum": "{{ steps.a.output.n }}/{{ steps.a.output.list.1 }}"})),
    ]);
    let (result, started) = run(&plan, json!({"n": 5}));
    assert_eq!(result.unwrap(), json!({"sum": "5/2"}));
    assert_eq!(started, ["a", "b"]);
}

#[test]
fn a_step_without_input_is_given_the_job_s() {
    let (result, _) = run(&plan(vec![Step::new("a", "echo")]), json!({"n": 5}));
    assert_eq!(result.unwrap(), json!({"n": 5}));
}

#[test]
fn steps_whose_needs_are_met_run_at_once() {
    let mut flow = Flow::new([
        Step::new("join", "echo").input(json!(["{{ steps.x.output }}", "{{ steps.y.output }}"])),
        Step::new("x", "gate"),
        Step::new("y", "gate"),
    ]);
    flow.output = Some(json!("{{ steps.join.output }}"));
    let plan = flow.plan(["echo", "gate"]).unwrap();
    let script = Script::default();
    let result = play(
        &plan,
        &script,
        &[
            &|| {
                assert_eq!(script.started(), ["x", "y"]);
                script.open("y", Ok(json!(2)));
            },
            &|| script.open("x", Ok(json!(1))),
        ],
    );
    assert_eq!(result.unwrap(), json!([1, 2]));
}

#[test]
fn a_step_whose_condition_does_not_hold_is_skipped_and_counts_as_met() {
    let plan = plan(vec![
        Step::new("last", "echo").input(json!({"was": "{{ steps.skipped.output.x }}"})),
        Step::new("skipped", "fail").condition("input.go == true"),
    ]);
    let script = Script::default();
    let result = block_on(plan.execute(json!({"go": false}), &script));
    assert_eq!(script.started(), ["last"]);
    // The last step of the list is the skipped one.
    assert_eq!(result.unwrap(), Value::Null);
    assert_eq!(failed(run(&plan, json!({"go": true})).0), "skipped failed");
}

#[test]
fn after_a_failure_siblings_settle_and_no_further_step_starts() {
    let plan = plan(vec![
        Step::new("a", "gate"),
        Step::new("b", "gate"),
        Step::new("after-a", "echo").needs(["a"]),
        Step::new("after-b", "echo").needs(["b"]),
    ]);
    let script = Script::default();
    let result = play(
        &plan,
        &script,
        &[&|| script.open("b", Err("b is broken")), &|| script.open("a", Ok(json!(1)))],
    );
    assert_eq!(failed(result), "b is broken");
    assert_eq!(script.started(), ["a", "b"]);
}

#[test]
fn a_step_that_completes_the_job_while_others_settle_still_does() {
    let plan = plan(vec![Step::new("a", "gate"), Step::new("b", "gate").completing_the_job()]);
    let script = Script::default();
    let result = play(
        &plan,
        &script,
        &[&|| script.open("a", Err("a is broken")), &|| script.open("b", Ok(json!("done")))],
    );
    assert_eq!(result.unwrap(), json!("done"));
}

#[test]
fn a_step_that_completes_the_job_ends_it_with_its_output() {
    let plan = plan(vec![
        Step::new("early", "echo").input(json!("done")).completing_the_job(),
        Step::new("late", "fail").needs(["early"]),
    ]);
    let (result, started) = run(&plan, json!({}));
    assert_eq!(result.unwrap(), json!("done"));
    assert_eq!(started, ["early"]);
}

#[test]
fn a_step_that_is_done_at_once_ends_the_flow_before_those_behind_it_start() {
    // As when it is restored: its siblings could start, but there is no need.
    let behind = plan(vec![
        Step::new("early", "echo").completing_the_job(),
        Step::new("sibling", "park"),
        Step::new("another", "fail"),
    ]);
    let (result, started) = run(&behind, json!(1));
    assert_eq!(result.unwrap(), json!(1));
    assert_eq!(started, ["early"]);
    let failing = plan(vec![Step::new("bad", "fail"), Step::new("sibling", "echo")]);
    let (result, started) = run(&failing, json!(1));
    assert_eq!(failed(result), "bad failed");
    assert_eq!(started, ["bad"]);
}

#[test]
fn a_skipped_step_completes_nothing() {
    let plan = plan(vec![
        Step::new("early", "echo").condition("exists input.go").completing_the_job(),
        Step::new("late", "echo").needs(["early"]).input(json!("late")),
    ]);
    assert_eq!(run(&plan, json!({})).0.unwrap(), json!("late"));
    assert_eq!(run(&plan, json!({"go": 1})).0.unwrap(), json!({"go": 1}));
}

#[test]
fn steps_that_run_when_the_job_is_completed_settle_and_change_nothing() {
    let plan =
        plan(vec![Step::new("sibling", "gate"), Step::new("early", "gate").completing_the_job()]);
    let script = Script::default();
    let result = play(
        &plan,
        &script,
        &[&|| script.open("early", Ok(json!("done"))), &|| script.open("sibling", Err("too late"))],
    );
    assert_eq!(result.unwrap(), json!("done"));
}

#[test]
fn a_step_that_waits_for_a_retry_does_not_hold_up_the_step_that_completes_the_job() {
    let plan = plan(vec![
        Step::new("retrying", "park"),
        Step::new("sibling", "gate"),
        Step::new("early", "gate").completing_the_job(),
    ]);
    let script = Script::default();
    let result = play(
        &plan,
        &script,
        &[&|| script.open("early", Ok(json!("done"))), &|| script.open("sibling", Ok(json!(1)))],
    );
    assert_eq!(result.unwrap(), json!("done"));
}

#[test]
fn a_step_that_waits_for_a_retry_does_not_hold_up_a_failure() {
    let plan = plan(vec![
        Step::new("retrying", "park"),
        Step::new("sibling", "gate"),
        Step::new("bad", "gate"),
    ]);
    let script = Script::default();
    let result = play(
        &plan,
        &script,
        &[&|| script.open("bad", Err("bad failed")), &|| script.open("sibling", Ok(json!(1)))],
    );
    assert_eq!(failed(result), "bad failed");
}

#[test]
fn an_input_that_cannot_be_filled_fails_with_its_place() {
    let plan = plan(vec![Step::new("a", "echo").input(json!("{{ input.missing }}"))]);
    assert_eq!(
        failed(run(&plan, json!({"n": 1})).0),
        "the input of step \"a\": `input.missing` leads nowhere: `input` is an object with n"
    );
}

#[test]
fn steps_that_can_never_run_are_named_instead_of_waited_for() {
    let mut plan =
        plan(vec![Step::new("a", "echo"), Step::new("b", "echo"), Step::new("c", "echo")]);
    // Checked flows hold no circle; this one is bent afterwards.
    plan.steps[1].needs = vec![2];
    plan.steps[2].needs = vec![1];
    assert_eq!(
        failed(run(&plan, json!({})).0),
        "these steps can never run, because what they need is not done: b, c"
    );
}

#[test]
fn no_step_starts_between_a_failure_and_its_being_told() {
    let steps =
        [Step::new("a", "doomed"), Step::new("c", "gate"), Step::new("b", "echo").needs(["c"])];
    let plan = plan(steps.into());
    let script = Script::default();
    let result = play(
        &plan,
        &script,
        &[&|| script.open("c", Ok(json!(1))), &|| script.open("a", Err("a failed"))],
    );
    assert_eq!(failed(result), "a failed");
    assert_eq!(script.started(), ["a", "c"]);
}
