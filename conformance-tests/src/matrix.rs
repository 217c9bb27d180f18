//! What several stores were found to do, side by side: the matrix of a README, made from the reports of runs.
//!
//! ```
//! use conformance_tests::matrix::{Summary, table};
//!
//! let report = r#"{"store": "mine", "level": "Basic", "properties": [
//!     {"id": "INS-1", "sentence": "all fields survive", "verdict": "pass", "reason": null}]}"#;
//! let summary = Summary::read(report)?;
//! assert!(table(&[summary]).contains("| INS | insert | 1 |"));
//! # Ok::<(), String>(())
//! ```

use std::{collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Serialize};

use crate::{Property, properties::title};

/// What was found of one store, without what differs from run to run: seed, times, figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Summary {
    /// The store, as its suite was named.
    pub store: String,
    /// How much its harness lets the suite prove.
    pub level: String,
    /// What was found of each property, in the order of the catalogue.
    pub properties: Vec<Finding>,
}

/// What was found of one property.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// Its id.
    pub id: String,
    /// What it says.
    pub sentence: String,
    /// `pass`, `fail`, `skip` or `inconclusive`.
    pub verdict: String,
    /// Why, unless it passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Finding {
    fn group(&self) -> &str {
        self.id.split_once('-').map_or(&self.id, |(group, _)| group)
    }

    fn has_passed(&self) -> bool {
        self.verdict == "pass"
    }
}

impl Summary {
    /// Reads a report that [`Suite::run`](crate::Suite::run) wrote as JSON, or a summary that [`Summary::json`] did.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn read(json: &str) -> Result<Summary, String> {
        serde_json::from_str(json).map_err(|error| format!("no report of the suite: {error}"))
    }

    /// The summary as JSON: the same text for the same findings.
    pub fn json(&self) -> String {
        // A struct of texts can always be written.
        serde_json::to_string_pretty(self)
            .map_or_else(|error| error.to_string(), |json| json + "\n")
    }

    /// Why this summary is not one of the present catalogue, if it is not: a property that it does not have or that
    /// says something else, one that is gone, or one that failed.
    ///
    /// # Errors
    /// The differences, one a line.
    pub fn check(&self, catalogue: &[Property]) -> Result<(), String> {
        let mut wrong = Vec::new();
        let found: BTreeMap<&str, &Finding> =
            self.properties.iter().map(|finding| (finding.id.as_str(), finding)).collect();
        for property in catalogue {
            match found.get(property.id) {
                None => wrong.push(format!("{} was not run", property.id)),
                Some(finding) if finding.sentence != property.sentence => {
                    wrong.push(format!("{} says something else now", property.id));
                }
                Some(finding) if !matches!(finding.verdict.as_str(), "pass" | "skip") => {
                    wrong.push(format!("{}: {}", property.id, finding.verdict));
                }
                Some(_) => {}
            }
        }
        for id in found.keys().filter(|id| catalogue.iter().all(|property| property.id != **id)) {
            wrong.push(format!("{id} is not in the catalogue any more"));
        }
        match wrong.as_slice() {
            [] => Ok(()),
            _ => Err(format!("{}:\n  {}", self.store, wrong.join("\n  "))),
        }
    }
}

/// The stores side by side, as a table in Markdown: a row a group with the number of properties that passed, then
/// what was skipped and why.
pub fn table(summaries: &[Summary]) -> String {
    // Writing to a String cannot fail, here and below.
    let mut text = String::from("| group | of |");
    for summary in summaries {
        let _ = write!(text, " {} |", summary.store);
    }
    text.push_str("\n|---|---|");
    summaries.iter().for_each(|_| text.push_str("---|"));
    text.push('\n');
    let mut groups: Vec<&str> = Vec::new();
    for finding in summaries.iter().flat_map(|summary| &summary.properties) {
        if !groups.contains(&finding.group()) {
            groups.push(finding.group());
        }
    }
    for group in groups {
        let _ = write!(text, "| {group} | {} |", title(group));
        for summary in summaries {
            let of: Vec<&Finding> =
                summary.properties.iter().filter(|finding| finding.group() == group).collect();
            let _ = write!(text, " {} |", count(&of));
        }
        text.push('\n');
    }
    text.push_str("| **all** | |");
    for summary in summaries {
        let all: Vec<&Finding> = summary.properties.iter().collect();
        let _ = write!(text, " **{}** |", count(&all));
    }
    text.push_str("\n| **level** | |");
    for summary in summaries {
        let _ = write!(text, " {} |", summary.level);
    }
    text.push('\n');
    for summary in summaries {
        let mut skipped: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for finding in summary.properties.iter().filter(|finding| finding.verdict == "skip") {
            let reason = finding.reason.as_deref().unwrap_or("no reason");
            skipped.entry(reason).or_default().push(&finding.id);
        }
        if !skipped.is_empty() {
            let why = skipped.iter().map(|(why, ids)| format!("{} ({why})", ids.join(", ")));
            let why: Vec<String> = why.collect();
            let _ = write!(text, "\n{} skips {}.\n", summary.store, why.join("; "));
        }
    }
    text
}

/// `14`, or `12 of 14` where not all passed.
fn count(findings: &[&Finding]) -> String {
    let passed = findings.iter().filter(|finding| finding.has_passed()).count();
    match passed == findings.len() {
        true => passed.to_string(),
        false => format!("{passed} of {}", findings.len()),
    }
}

/// The page with `text` between the lines `<!-- NAME:begin .. -->` and `<!-- NAME:end -->`.
///
/// # Errors
/// The page has no such lines.
pub fn splice(page: &str, name: &str, text: &str) -> Result<String, String> {
    let missing =
        || format!("the page has no lines `<!-- {name}:begin -->` and `<!-- {name}:end -->`");
    let begin = page.find(&format!("<!-- {name}:begin")).ok_or_else(missing)?;
    let inner = begin + page[begin..].find("-->\n").ok_or_else(missing)? + 4;
    let end = inner + page[inner..].find(&format!("<!-- {name}:end -->")).ok_or_else(missing)?;
    Ok(format!("{}\n{}\n{}", &page[..inner], text.trim_end(), &page[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties;

    fn finding(id: &str, verdict: &str, reason: Option<&str>) -> Finding {
        Finding {
            id: id.to_owned(),
            sentence: "it is so".to_owned(),
            verdict: verdict.to_owned(),
            reason: reason.map(str::to_owned),
        }
    }

    fn summary(properties: Vec<Finding>) -> Summary {
        Summary { store: "mine".to_owned(), level: "Basic".to_owned(), properties }
    }

    fn sound() -> Summary {
        let found = properties().into_iter().map(|property| Finding {
            sentence: property.sentence.to_owned(),
            ..finding(property.id, "pass", None)
        });
        summary(found.collect())
    }

    #[test]
    fn a_table_counts_what_passed_and_says_what_was_skipped() {
        let mine = summary(vec![
            finding("INS-1", "pass", None),
            finding("INS-2", "skip", Some("no clock hook")),
            finding("LOG-1", "pass", None),
        ]);
        let table = table(&[mine]);
        assert!(table.contains("| INS | insert | 1 of 2 |"), "{table}");
        assert!(table.contains("| LOG | log | 1 |"), "{table}");
        assert!(table.contains("| **all** | | **2 of 3** |"), "{table}");
        assert!(table.contains("mine skips INS-2 (no clock hook)."), "{table}");
    }

    #[test]
    fn a_summary_of_another_catalogue_is_stale() {
        let catalogue = properties();
        assert_eq!(sound().check(&catalogue), Ok(()));
        let mut lacking = sound();
        let gone = lacking.properties.remove(3);
        let why = lacking.check(&catalogue).unwrap_err();
        assert!(why.contains(&format!("{} was not run", gone.id)), "{why}");
        let mut changed = sound();
        changed.properties[0].sentence.push('!');
        assert!(changed.check(&catalogue).unwrap_err().contains("says something else"));
        let mut failed = sound();
        failed.properties[0].verdict = "fail".to_owned();
        assert!(failed.check(&catalogue).unwrap_err().contains("INS-1: fail"));
        let mut more = sound();
        more.properties.push(finding("OLD-1", "pass", None));
        assert!(more.check(&catalogue).unwrap_err().contains("OLD-1"));
    }

    #[test]
    fn a_summary_is_read_from_a_report_and_from_itself() {
        let report = r#"{"store": "mine", "level": "Basic", "seed": "7", "properties": [
            {"id": "INS-1", "sentence": "it is so", "verdict": "pass", "reason": null, "seconds": 1.5}]}"#;
        let read = Summary::read(report).unwrap();
        assert_eq!(read, summary(vec![finding("INS-1", "pass", None)]));
        assert_eq!(Summary::read(&read.json()).unwrap(), read);
        assert!(Summary::read("[]").unwrap_err().contains("no report"));
    }

    #[test]
    fn a_page_keeps_what_is_around_the_table() {
        let page = "before\n<!-- x:begin made -->\nold\n<!-- x:end -->\nafter\n";
        let spliced = splice(page, "x", "new\n").unwrap();
        assert_eq!(spliced, "before\n<!-- x:begin made -->\n\nnew\n<!-- x:end -->\nafter\n");
        assert_eq!(splice(&spliced, "x", "new\n").unwrap(), spliced);
        assert!(splice(page, "y", "new").unwrap_err().contains("y:begin"));
    }
}
