use crate::bench::Bench;

const ONE_JOB: &str = "[[jobs]]\ntask = \"t\"\n";

fn one_task(task: &str) -> Bench {
    let bench = Bench::new();
    bench.write("jobs.toml", &format!("[tasks.t]\n{task}\n{ONE_JOB}"));
    bench
}

#[test]
fn an_unknown_url_scheme_is_refused_with_the_known_ones() {
    let bench = one_task("argv = ['true']");
    let db = |url: &str| bench.queue(&["run", "jobs.toml", "--db", url]);
    db("mysql://user:secret@host/db").failure(&["\"mysql\"", "known are", "sqlite:"]);
    let ran = db("mysql://user:secret@host/db");
    assert!(!ran.stderr.contains("secret"), "{ran:#?}");
    db("jobs.db").failure(&["did you mean sqlite:jobs.db?"]);
    bench.queue(&["list", "--db", "redis:x"]).failure(&["\"redis\""]);
}

#[test]
fn a_malformed_file_is_reported_with_line_and_column() {
    let bench = Bench::new();
    let fault = |name: &str, text: &str, said: &[&str]| {
        bench.write(name, text);
        let ran = bench.queue(&["run", name]).failure(&[name]).failure(said);
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:#?}");
        assert_eq!(ran.stdout, "");
    };
    fault("a.toml", "[run]\nconcurrency = = 2\n", &["line 2, column 15"]);
    fault("b.toml", "[run]\n\nspeed = 2\n", &["line 3, column 1", "unknown field `speed`"]);
    fault("c.toml", "[run]\nconcurrency = 'x'\n", &["line 2, column 15", "expected a nonzero u32"]);
    fault("g.toml", "[run]\nconcurrency = 0\n", &["line 2, column 15", "nonzero"]);
    fault("d.toml", "[tasks.t]\ntimeout = 'soon'\n", &["line 2, column 11", "duration"]);
    fault("e.json", "{\n \"tasks\": [\n}", &["line 2, column"]);
    fault(
        "f.json",
        "{\n \"jobs\": [{\"tusk\": 1}]\n}",
        &["line 2, column", "unknown field `tusk`"],
    );
    bench.queue(&["run", "missing.toml"]).failure(&["cannot read missing.toml", "No such file"]);
    assert!(!bench.path("queue.db").exists());
}

#[test]
fn unknown_tasks_and_workflows_are_named_with_the_known_ones() {
    let jobs = |jobs: &str, said: &[&str]| {
        let bench = Bench::new();
        bench.write("jobs.toml", &format!("[tasks.t]\nargv = ['true']\n[[jobs]]\n{jobs}\n"));
        bench.queue(&["run", "jobs.toml"]).failure(said);
    };
    jobs("task = 'u'", &["jobs 1 runs the task \"u\"", "known are t"]);
    jobs("workflow = 'w'", &["the workflow \"w\"", "known are none"]);
    jobs("task = 't'\nworkflow = 'w'", &["either a workflow or a task"]);
    jobs("task = 't'\ninput = '{{ item }}'", &["jobs 1: input uses `item`", "params"]);
    jobs("task = 't'\nfor_each = {}", &["either values or a glob"]);
    jobs("task = 't'\nfor_each = { glob = '*', root = 'gone' }", &["jobs 1: cannot read", "gone"]);
    let bench = Bench::new();
    bench.write("jobs.toml", "[tasks.t]\nargv = ['true']\n");
    bench.queue(&["run", "jobs.toml"]).failure(&["lists no jobs"]);
}

#[test]
fn a_task_needs_something_to_run() {
    one_task("").queue(&["run", "jobs.toml"]).failure(&["task \"t\"", "argv or builtin"]);
    one_task("argv = []").queue(&["run", "jobs.toml"]).failure(&["task \"t\"", "argv is empty"]);
    one_task("argv = ['x', '{{ item }}']")
        .queue(&["run", "jobs.toml"])
        .failure(&["task \"t\"", "`item`"]);
}

#[test]
fn a_missing_program_fails_its_job_once_whatever_the_retries() {
    let bench = one_task("argv = ['no-such-program']\nretries = 3");
    bench.run().failure(&["\"no-such-program\" was not found in any directory of PATH"]);
    assert_eq!(bench.jobs()[0]["attempt"], 1);
    assert_eq!(bench.jobs()[0]["error"]["name"], "program-missing");
}

#[test]
fn a_program_that_prints_no_json_is_shown_with_the_place() {
    let bench = one_task(r#"argv = ["sh", "-c", "echo hello world"]"#);
    bench.run().failure(&["must print one JSON document", "line 1 column 1", "hello world"]);
    one_task(r#"argv = ["true"]"#).run().failure(&["nothing was printed"]);
}

#[test]
fn a_program_that_fails_is_shown_with_its_code_and_its_complaint() {
    let bench = one_task(r#"argv = ["sh", "-c", "echo oh no >&2; exit 3"]"#);
    bench.run().failure(&["exited with code 3", "oh no"]);
    one_task(r#"argv = ["sh", "-c", "kill -KILL $$"]"#).run().failure(&["killed by signal 9"]);
}

#[test]
fn a_program_that_hangs_is_killed_after_its_timeout() {
    let bench = one_task("argv = ['sleep', '1000']\ntimeout = '300ms'");
    bench.run().failure(&["\"sleep\" was killed because it ran longer than 300ms"]);
}

#[test]
fn output_is_limited() {
    let bench = one_task("argv = ['sh', '-c', 'yes']\nmax_output = 1000");
    bench.run().failure(&["printed more than 1000 bytes"]);
}

#[test]
fn a_database_that_cannot_be_written_is_named() {
    let bench = one_task("argv = ['echo', '1']");
    bench.write("file", "");
    for url in ["sqlite:file/queue.db", "sqlite:gone/queue.db"] {
        let path = url.trim_start_matches("sqlite:");
        bench.queue(&["run", "jobs.toml", "--db", url]).failure(&[path]);
    }
    bench.queue(&["list", "--db", "sqlite:gone.db"]).failure(&["there is no database gone.db"]);
    assert!(!bench.path("gone.db").exists());
}

#[test]
fn a_corrupt_database_is_named_and_left_as_it_is() {
    let bench = one_task("argv = ['echo', '1']");
    let text = "this is not a database, whatever its name says\n".repeat(100);
    bench.write("queue.db", &text);
    bench.run().failure(&["queue.db"]);
    bench.queue(&["list"]).failure(&["queue.db"]);
    assert_eq!(bench.read("queue.db"), text);
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_anything_runs() {
    let bench = one_task("argv = ['sh', '-c', 'echo ran >ledger; echo 1']");
    let file = bench.read("jobs.toml");
    bench.write("jobs.toml", &format!("{file}[output]\npath = 'gone/out.jsonl'\n"));
    bench.queue(&["run", "jobs.toml"]).failure(&["output.path", "gone"]);
    assert!(bench.ledger().is_empty());
}

#[test]
fn with_json_an_error_is_one_document_too() {
    let bench = Bench::new();
    let ran = bench.queue(&["run", "missing.toml", "--json"]).failure(&["cannot read"]);
    assert_eq!(ran.json()["error"], "cannot read missing.toml");
}

#[test]
fn a_malformed_command_line_exits_with_2() {
    let bench = Bench::new();
    bench.queue(&["run"]).code(2);
    bench.queue(&["walk"]).code(2);
    bench.queue(&["show", "not-an-id"]).code(2);
    bench.queue(&["list", "--state", "done"]).code(2);
    bench.queue(&["run", "x.toml", "--concurrency", "0"]).code(2);
    bench.queue(&["run", "x.toml", "--set", "novalue"]).code(2);
}
