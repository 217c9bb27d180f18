//! Checks a saved history again, without a store: `cargo run -p conformance-tests --example recheck -- FILE`.
//!
//! Says for each checker that the history holds, or which calls break the contract and how. Exits with 1 if any does, and
//! with 2 when the file is no history.

#![allow(clippy::print_stdout, clippy::print_stderr)] // this is a program for people

use std::{path::Path, process::ExitCode};

use conformance_tests::{
    history::{History, check_claims, check_logs, check_register, check_sequence},
    model::check_parallel,
};

/// A search for an order of the calls is for short histories.
const OVERLAPPING: usize = 1_000;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(file), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: recheck FILE");
        return ExitCode::from(2);
    };
    let history = match History::read(Path::new(&file)) {
        Ok(history) => history,
        Err(malformed) => {
            eprintln!("{malformed}");
            return ExitCode::from(2);
        }
    };
    println!("store {}, {} calls", history.store.name, history.calls.len());
    let mut refused = false;
    let mut say = |checker: &str, checked: Result<String, String>| {
        refused |= checked.is_err();
        match checked {
            Ok(summary) => println!("{checker} hold: {summary}"),
            Err(violation) => println!("{checker} are refused: {violation}"),
        }
    };
    let checks = [
        ("claims", check_claims as fn(&_) -> _),
        ("logs", check_logs),
        ("registers", check_register),
    ];
    for (checker, check) in checks {
        let checked = check(&history);
        say(checker, checked.map(|s| s.to_string()).map_err(|violation| violation.to_string()));
    }
    if let Some(checked) = check_sequence(&history) {
        let all = "each is one that the specification allows".to_owned();
        say("answers one after the other", checked.map(|()| all).map_err(|v| v.to_string()));
    }
    if history.calls.len() <= OVERLAPPING {
        let all = "some order of them is one that the specification allows".to_owned();
        say("answers at the same time", check_parallel(&history).map(|()| all));
    }
    ExitCode::from(u8::from(refused))
}
