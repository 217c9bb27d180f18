//! Which tests hold which rule of the engine: docs/rules.md is made from this table, and a test that is gone or stale fails.

mod table;

use std::{collections::BTreeSet, env::current_exe, fmt::Write, path::Path, process::Command};

use self::table::{RULES, Rule, Where};

/// The test functions of this binary, with their modules, without the store: `retries::e3_..`.
fn tests_on_stores() -> BTreeSet<(String, String)> {
    let listed = Command::new(current_exe().unwrap()).arg("--list").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    names
        .filter_map(|name| {
            let mut parts: Vec<&str> = name.split("::").collect();
            let test = parts.pop()?;
            let store = parts.pop()?.trim_end_matches("_by_the_clock").to_owned();
            Some((format!("{}::{test}", parts.join("::")), store))
        })
        .collect()
}

/// What is wrong with a reference, if anything.
fn missing(place: &Where, tests: &BTreeSet<(String, String)>) -> Option<String> {
    let on = |test: &str, store: &str| tests.contains(&(test.to_owned(), store.to_owned()));
    match *place {
        Where::EveryStore(test) => {
            let stores = ["memory", "sqlite", "postgres", "mongo", "mongo_standalone"];
            let absent: Vec<_> = stores.iter().filter(|store| !on(test, store)).collect();
            (!absent.is_empty()).then(|| format!("{test} does not run on {absent:?}"))
        }
        Where::EveryDatabase(test) => {
            let stores = ["sqlite", "postgres", "mongo"];
            let absent: Vec<_> = stores.iter().filter(|store| !on(test, store)).collect();
            (!absent.is_empty()).then(|| format!("{test} does not run on {absent:?}"))
        }
        Where::Property(id) => {
            let known = conformance_tests::properties().iter().any(|property| property.id == id);
            (!known).then(|| format!("the suite has no property {id}"))
        }
        Where::File(file, test) => {
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
            (!text.contains(&format!("fn {test}("))).then(|| format!("{file} has no test {test}"))
        }
    }
}

fn shown(place: &Where) -> String {
    match place {
        Where::EveryStore(test) => format!("`{test}`"),
        Where::EveryDatabase(test) => {
            format!("`{test}` on SQLite, PostgreSQL and MongoDB, with processes of its own")
        }
        Where::Property(id) => format!("[{id}](conformance.md)"),
        Where::File(file, test) => format!("`{test}` in [{file}](../{file})"),
    }
}

fn section(page: &mut String, rule: &Rule) {
    writeln!(page, "### {}. {}\n", rule.number, rule.sentence).unwrap();
    for place in rule.tests {
        writeln!(page, "- {}", shown(place)).unwrap();
    }
    for switch in queue::Broken::ALL.iter().filter(|switch| switch.rule == rule.number) {
        let killer =
            switch.killer.replacen("::memory_by_the_clock", "", 1).replacen("::memory", "", 1);
        writeln!(
            page,
            "- broken engine `{}`: {} Killed by `{killer}`.",
            switch.name, switch.sentence
        )
        .unwrap();
    }
    page.push('\n');
}

fn page() -> String {
    let mut page = String::from(include_str!("rules/head.md"));
    let mut part = "";
    for rule in RULES {
        if rule.part != part {
            part = rule.part;
            writeln!(page, "## {part}\n").unwrap();
        }
        section(&mut page, rule);
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

#[test]
fn every_test_that_the_table_of_rules_names_is_there() {
    let tests = tests_on_stores();
    let wrong: Vec<_> = RULES
        .iter()
        .flat_map(|rule| rule.tests.iter().filter_map(|place| missing(place, &tests)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_rule_has_a_test_and_every_broken_engine_a_rule() {
    let without: Vec<_> =
        RULES.iter().filter(|rule| rule.tests.is_empty()).map(|rule| rule.number).collect();
    assert!(without.is_empty(), "rules without a test: {without:?}");
    let known = |number: &str| RULES.iter().any(|rule| rule.number == number);
    let lost: Vec<_> = queue::Broken::ALL.iter().filter(|switch| !known(switch.rule)).collect();
    assert!(lost.is_empty(), "broken engines of unknown rules: {lost:?}");
}

/// `QUEUE_UPDATE=1 cargo test -p queue --all-features --test scenarios rules` writes it anew.
#[test]
fn the_page_of_rules_is_that_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rules.md");
    if std::env::var_os("QUEUE_UPDATE").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == page(),
        "docs/rules.md is stale; QUEUE_UPDATE=1 with this test writes it anew"
    );
}
