use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;

use crate::Verdict;

/// What became of one property.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// Its id.
    pub id: &'static str,
    /// What it says.
    pub sentence: &'static str,
    /// What was found.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
    /// What it did, in figures; empty when it has nothing to say.
    pub note: String,
}

impl Report {
    /// The report on one property.
    pub const fn new(
        id: &'static str,
        sentence: &'static str,
        verdict: Verdict,
        took: Duration,
    ) -> Self {
        Report { id, sentence, verdict, took, note: String::new() }
    }

    /// With what the property did, in figures.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// The group of the property: `LOG` for `LOG-1`.
    pub fn group(&self) -> &'static str {
        self.id.split_once('-').map_or(self.id, |(group, _)| group)
    }
}

/// How much a harness lets the suite prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// One handle, or time that cannot be driven.
    Basic,
    /// Several handles as other processes have them, and time driven to the microsecond.
    Concurrent,
    /// As well: the way between the store and its jobs is broken while it works.
    FaultTested,
    /// As well: processes that use the store are killed.
    CrashTested,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Basic => "Basic",
            Level::Concurrent => "Concurrent",
            Level::FaultTested => "Fault-tested",
            Level::CrashTested => "Crash-tested",
        })
    }
}

/// The counts of one group of properties, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct GroupTotal {
    /// Passed.
    pub passed: usize,
    /// Failed.
    pub failed: usize,
    /// Skipped for want of a hook.
    pub skipped: usize,
    /// Not decided.
    pub inconclusive: usize,
    /// How long they took, one after the other.
    pub took: Duration,
}

impl GroupTotal {
    fn add(&mut self, report: &Report) {
        *match report.verdict {
            Verdict::Pass => &mut self.passed,
            Verdict::Fail(_) => &mut self.failed,
            Verdict::Skip(_) => &mut self.skipped,
            Verdict::Inconclusive(_) => &mut self.inconclusive,
        } += 1;
        self.took += report.took;
    }

    /// The last line of a run: `N passed, N failed, N skipped`, and `N inconclusive` if any is.
    pub fn summary(&self) -> String {
        let GroupTotal { passed, failed, skipped, inconclusive, .. } = self;
        let mut line = format!("{passed} passed, {failed} failed, {skipped} skipped");
        if *inconclusive > 0 {
            // Writing to a String cannot fail.
            let _ = write!(line, ", {inconclusive} inconclusive");
        }
        line
    }
}

/// What became of a run of the suite.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RunReport {
    /// The store's name.
    pub store: String,
    /// How much the harness let the suite prove.
    pub level: Level,
    /// The seed.
    pub seed: u64,
    /// What became of each property, in the order of the catalogue.
    pub reports: Vec<Report>,
}

impl RunReport {
    /// The report on these properties.
    pub fn new(store: impl Into<String>, level: Level, seed: u64, reports: Vec<Report>) -> Self {
        RunReport { store: store.into(), level, seed, reports }
    }

    /// The counts of all properties.
    pub fn total(&self) -> GroupTotal {
        let mut total = GroupTotal::default();
        self.reports.iter().for_each(|report| total.add(report));
        total
    }

    /// The counts by group, in the order of the catalogue.
    pub fn groups(&self) -> Vec<(&'static str, GroupTotal)> {
        let mut order = Vec::new();
        let mut totals: BTreeMap<&'static str, GroupTotal> = BTreeMap::new();
        for report in &self.reports {
            let group = report.group();
            if !totals.contains_key(group) {
                order.push(group);
            }
            totals.entry(group).or_default().add(report);
        }
        order.into_iter().map(|group| (group, totals[group])).collect()
    }

    /// Whether anything failed or was left undecided.
    pub fn has_failed(&self) -> bool {
        self.reports.iter().any(|report| report.verdict.fails_the_run())
    }

    /// The table, the level, the failures and, as the last line, the counts.
    pub fn text(&self) -> String {
        // Writing to a String cannot fail, here and below.
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{:<8}{:>8}{:>8}{:>8}{:>14}{:>10}",
            "group", "passed", "failed", "skipped", "inconclusive", "seconds"
        );
        for (group, total) in self.groups() {
            let _ = writeln!(
                text,
                "{group:<8}{:>8}{:>8}{:>8}{:>14}{:>10.2}",
                total.passed,
                total.failed,
                total.skipped,
                total.inconclusive,
                total.took.as_secs_f64()
            );
        }
        let _ = writeln!(text, "\nstore {}, level {}, seed {}", self.store, self.level, self.seed);
        for report in self.reports.iter().filter(|report| !report.note.is_empty()) {
            let _ = writeln!(text, "{:<8}{}", report.id, report.note);
        }
        for report in self.reports.iter().filter(|report| !report.verdict.is_pass()) {
            let _ = writeln!(text, "\n{} ({})\n  {}", report.id, report.sentence, report.verdict);
            if report.verdict.fails_the_run() {
                let _ = writeln!(
                    text,
                    "  replay: CONFORMANCE_SEED={} and the test filter '{}:'",
                    self.seed, report.id
                );
            }
        }
        let _ = writeln!(text, "\n{}", self.total().summary());
        text
    }

    /// The report as a Markdown page.
    pub fn markdown(&self) -> String {
        let mut page = format!(
            "# Conformance of `{}`\n\nLevel *{}*, seed {}: {}.\n\n",
            self.store,
            self.level,
            self.seed,
            self.total().summary()
        );
        page.push_str("| group | passed | failed | skipped | inconclusive | seconds |\n");
        page.push_str("|---|---|---|---|---|---|\n");
        for (group, total) in self.groups() {
            let _ = writeln!(
                page,
                "| {group} | {} | {} | {} | {} | {:.2} |",
                total.passed,
                total.failed,
                total.skipped,
                total.inconclusive,
                total.took.as_secs_f64()
            );
        }
        page.push_str(
            "\n| property | says | verdict | seconds | what was done |\n|---|---|---|---|---|\n",
        );
        for report in &self.reports {
            let _ = writeln!(
                page,
                "| {} | {} | {} | {:.3} | {} |",
                report.id,
                cell(report.sentence),
                report.verdict.word(),
                report.took.as_secs_f64(),
                cell(&report.note)
            );
        }
        page
    }

    /// The report as JSON, for programs.
    pub fn json(&self) -> String {
        let total = self.total();
        let properties: Vec<_> = self
            .reports
            .iter()
            .map(|report| {
                json!({
                    "id": report.id,
                    "group": report.group(),
                    "sentence": report.sentence,
                    "verdict": report.verdict.word(),
                    "reason": report.verdict.reason(),
                    "seconds": report.took.as_secs_f64(),
                    "note": report.note,
                })
            })
            .collect();
        let document = json!({
            "store": self.store,
            "level": self.level.to_string(),
            "seed": self.seed.to_string(),
            "passed": total.passed,
            "failed": total.failed,
            "skipped": total.skipped,
            "inconclusive": total.inconclusive,
            "seconds": total.took.as_secs_f64(),
            "properties": properties,
        });
        format!("{document:#}\n")
    }

    /// Writes `<store>.json` and `<store>.md` into the directory, which is made if it is not there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, directory: &Path, stem: &str) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        fs::write(directory.join(format!("{stem}.json")), self.json())?;
        fs::write(directory.join(format!("{stem}.md")), self.markdown())
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// Where reports go: `CONFORMANCE_REPORT`, or `conformance` in cargo's target directory.
pub(crate) fn directory() -> PathBuf {
    if let Some(asked) = std::env::var_os("CONFORMANCE_REPORT") {
        return asked.into();
    }
    // A test binary lies in target/<profile>/deps.
    let binary = std::env::current_exe().unwrap_or_default();
    let deps = binary.parent().filter(|parent| parent.ends_with("deps"));
    let target = deps.and_then(Path::parent).and_then(Path::parent);
    target.unwrap_or(Path::new("target")).join("conformance")
}
