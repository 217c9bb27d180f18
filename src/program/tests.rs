use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use queue_core::Payload;
use serde_json::json;

use super::{Program, ProgramError};

fn sh(script: &str) -> Program {
    Program::new(["sh", "-c", script]).unwrap()
}

async fn run(program: Program) -> Result<String, ProgramError> {
    run_with(program, r#"{"n":1}"#).await
}

async fn run_with(program: Program, input: &str) -> Result<String, ProgramError> {
    let input = Payload::from_text(input).unwrap();
    program.run(&input).await.map(|output| output.to_string())
}

/// Whether a process that wrote its number to this file is alive; a zombie is not.
fn is_alive(pid_file: &Path) -> bool {
    let pid = fs::read_to_string(pid_file).expect("the program wrote its number");
    let status = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    // The state follows the name, which is in parentheses.
    status.is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

/// Polls until it holds, for at most 10 s.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn json_goes_in_and_comes_out_byte_for_byte() {
    let text = "{\"b\": 9007199254740993, \"a\":\"\u{1f600}\", \"a\":1.0}";
    assert_eq!(run_with(sh("cat"), text).await.unwrap(), text);
    assert_eq!(run(sh("printf ' [1,\\n2] \\n'")).await.unwrap(), "[1,\n2]");
}

#[tokio::test]
async fn arguments_are_filled_from_the_input_and_stay_one_argument() {
    let program = Program::new([
        "sh",
        "-c",
        r#"test $# = 2 && printf '%s' "$1" | od -An -c >/dev/null && printf '"%s"' "$2""#,
        "sh",
        "{{ input.path }}",
        "{{ input.n }}/{{ input.list }}",
    ])
    .unwrap();
    let input = json!({"path": "a b; $(rm) \" ' \n*", "n": 3, "list": [1]}).to_string();
    assert_eq!(run_with(program, &input).await.unwrap(), "\"3/[1]\"");
}

#[tokio::test]
async fn a_program_need_not_read_its_input() {
    let large = format!("\"{}\"", "x".repeat(1 << 20));
    assert_eq!(run_with(sh("echo 1"), &large).await.unwrap(), "1");
    // Larger than any pipe in both directions: feeding and reading must not wait for each other.
    assert_eq!(run_with(sh("cat"), &large).await.unwrap(), large);
}

#[tokio::test]
async fn what_a_program_leaves_behind_may_hold_its_input() {
    let dir = tempfile::tempdir().unwrap();
    // Larger than a pipe, and nobody reads it.
    let large = format!("\"{}\"", "x".repeat(1 << 20));
    let script = "exec 3<&0; sleep 600 <&3 3<&- >/dev/null 2>&1 & echo $! >left; echo 1";
    let program = sh(script).current_dir(dir.path()).timeout(Duration::from_secs(20));
    let ended = run_with(program, &large).await;
    let left = dir.path().join("left");
    let was_alive = is_alive(&left);
    if was_alive {
        let pid = fs::read_to_string(&left).unwrap();
        std::process::Command::new("kill").arg(pid.trim()).status().unwrap();
    }
    assert_eq!(ended.unwrap(), "1");
    assert!(was_alive, "nothing held the input");
    eventually("it is gone", || !is_alive(&left)).await;
}

#[tokio::test]
async fn a_program_that_has_closed_its_outputs_is_fed_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let large = format!("\"{}\"", "x".repeat(8 << 20));
    let program = sh("echo 1; exec >read 2>&1; cat").current_dir(dir.path());
    assert_eq!(run_with(program, &large).await.unwrap(), "1");
    assert!(fs::read_to_string(dir.path().join("read")).unwrap() == large, "it was cut off");
}

#[tokio::test]
async fn another_code_than_0_is_an_error_with_what_was_said() {
    let error = run(sh("echo 'no such thing' >&2; exit 3")).await.unwrap_err();
    assert_eq!(error.to_string(), "\"sh\" exited with code 3; it said: no such thing");
    assert!(error.is_transient());
}

#[tokio::test]
async fn only_the_end_of_a_long_complaint_is_kept() {
    let script = "i=0; while [ $i -lt 9000 ]; do echo line $i >&2; i=$((i+1)); done; exit 1";
    let message = run(sh(script)).await.unwrap_err().to_string();
    assert!(message.ends_with("line 8999"), "{message}");
    assert!(message.len() < 2_200, "{}", message.len());
}

#[tokio::test]
async fn a_signal_is_named() {
    let error = run(sh("kill -SEGV $$")).await.unwrap_err();
    assert_eq!(error.to_string(), "\"sh\" was killed by signal 11");
}

#[tokio::test]
async fn a_missing_program_is_named_with_where_it_was_looked_for() {
    let error = run(Program::new(["no-such-program"]).unwrap()).await.unwrap_err();
    let message = error.to_string();
    assert!(
        message.starts_with(
            "the program \"no-such-program\" was not found in any directory of PATH ("
        )
    );
    assert!(!error.is_transient());
    let elsewhere = Program::new(["sh"]).unwrap().env("PATH", "/nowhere");
    let message = run(elsewhere).await.unwrap_err().to_string();
    assert_eq!(message, "the program \"sh\" was not found in any directory of PATH (/nowhere)");
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(["./missing"]).unwrap().current_dir(dir.path());
    let message = run(program).await.unwrap_err().to_string();
    assert!(message.contains(&dir.path().display().to_string()), "{message}");
    let gone = sh("echo 1").current_dir(dir.path().join("gone"));
    assert!(matches!(run(gone).await, Err(ProgramError::NoDirectory { .. })));
}

#[tokio::test]
async fn a_relative_path_is_taken_from_the_program_s_directory() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("answer");
    fs::write(&script, "#!/bin/sh\nprintf '\"%s\"' \"$(basename \"$PWD\")$EXTRA\"\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let program = Program::new(["./answer"]).unwrap().current_dir(dir.path()).env("EXTRA", "+");
    let name = dir.path().file_name().unwrap().to_str().unwrap();
    assert_eq!(run(program).await.unwrap(), format!("\"{name}+\""));
}

#[tokio::test]
async fn a_file_that_is_no_program_is_refused_with_the_system_s_reason() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("text"), "x").unwrap();
    let program = Program::new(["./text"]).unwrap().current_dir(dir.path());
    let error = run(program).await.unwrap_err();
    assert_eq!(error.to_string(), "the program \"./text\" cannot be run");
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("ermission"));
}

#[tokio::test]
async fn arguments_that_can_never_be_passed_are_final() {
    for input in ["a\0b".to_owned(), "x".repeat(8 << 20)] {
        let program = Program::new(["true", "{{ input }}"]).unwrap();
        let error = run_with(program, &json!(input).to_string()).await.unwrap_err();
        assert!(!error.is_transient(), "{error:?}");
        assert_eq!(error.name(), "program-arguments");
        assert_eq!(error.to_string(), "the program \"true\" cannot be given its arguments");
        assert!(std::error::Error::source(&error).is_some(), "{error:?}");
    }
}

#[tokio::test]
async fn output_that_is_no_json_is_shown_with_its_place() {
    let message = |script: &'static str| async { run(sh(script)).await.unwrap_err().to_string() };
    let text = message("echo 'hello world'; echo oops >&2").await;
    assert_eq!(
        text,
        "\"sh\" must print one JSON document, but: not JSON: expected value at line 1 column 1; \
         the output begins with \"hello world\\n\"; it said: oops"
    );
    assert!(message("printf '{\\n\"a\":}'").await.contains("line 2 column 5"));
    assert!(message("echo 1; echo 2").await.contains("line 2 column 1"));
    assert!(message(":").await.ends_with("nothing was printed"));
    assert!(message("printf 'ab\\377'").await.contains("not UTF-8 from byte 3 on"));
}

#[tokio::test]
async fn too_much_output_is_refused_and_the_limit_itself_is_not() {
    let exact = sh("printf '%s' '\"12345678\"'").max_output(10);
    assert_eq!(run(exact).await.unwrap(), "\"12345678\"");
    let endless = sh("while :; do echo 1234567890; done").max_output(10_000);
    let error = run(endless).await.unwrap_err();
    assert_eq!(error.to_string(), "\"sh\" was killed because it printed more than 10000 bytes");
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let script = "echo waiting >&2; sh -c 'echo $$ >child; exec sleep 600' & echo $$ >parent; wait";
    let program = sh(script).current_dir(dir.path()).timeout(Duration::from_secs(2));
    let error = run(program).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"sh\" was killed because it ran longer than 2s; it said: waiting"
    );
    for name in ["parent", "child"] {
        let pid_file = dir.path().join(name);
        eventually(name, || !is_alive(&pid_file)).await;
    }
}

#[tokio::test]
async fn a_dropped_future_kills_the_program_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let script =
        "sh -c 'echo $$ >child.new; mv child.new child; exec sleep 600' & echo $$ >parent; wait";
    let program = sh(script).current_dir(dir.path());
    let running = tokio::spawn(run(program));
    let child = dir.path().join("child");
    eventually("the child runs", || child.exists()).await;
    assert!(is_alive(&child));
    running.abort();
    for name in ["parent", "child"] {
        let pid_file = dir.path().join(name);
        eventually(name, || !is_alive(&pid_file)).await;
    }
}

#[test]
fn malformed_arguments_are_refused_at_once() {
    assert!(matches!(Program::new::<&str>([]), Err(ProgramError::NoProgram)));
    assert!(matches!(Program::new(["sh", "{{ input"]), Err(ProgramError::Template(_))));
    let error = Program::new(["sh", "{{ env.HOME }}"]).unwrap_err();
    assert_eq!(error.to_string(), "argv uses `env.HOME`; a path in argv begins with `input`");
}
