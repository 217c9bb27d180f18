//! Broken journals: what goes wrong when a process dies, when a place is opened, and what a call costs.

use super::{JournalFlaw, Mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::on_journal(
        "journal-acknowledges-before-writing",
        "what was acknowledged is in memory only until the process ends in peace",
        &["CRA-1", "CRA-2", "CRA-4", "CRA-5", "CRA-6"],
        JournalFlaw::Buffers,
    ),
    Mutant::on_journal(
        "journal-fields-before-log",
        "the fields of a patch are written before its log entries",
        &["CRA-2", "CRA-5"],
        JournalFlaw::FieldsBeforeLog,
    ),
    Mutant::on_journal(
        "journal-cancels-before-inserting",
        "a superseded job is cancelled before the job in its place is written",
        &["CRA-2"],
        JournalFlaw::CancelsBeforeInserting,
    ),
    Mutant::on_journal(
        "journal-fires-before-inserting",
        "a slot is counted before its job is written",
        &["CRA-2"],
        JournalFlaw::FiresBeforeInserting,
    ),
    Mutant::on_journal(
        "journal-marks-before-deleting",
        "jobs are marked as deleted before they are",
        &["CRA-5"],
        JournalFlaw::MarksBeforeDeleting,
    ),
    Mutant::on_journal(
        "journal-refuses-torn-lines",
        "a line that a killed process has not finished keeps everybody from opening",
        &["CRA-1", "CRA-7"],
        JournalFlaw::RefusesTornLines,
    ),
    Mutant::on_journal(
        "journal-locks-by-a-file",
        "the lock is a file, which stays when its process is killed",
        &["CRA-1", "CRA-6"],
        JournalFlaw::LocksByFile,
    ),
    Mutant::on_journal(
        "journal-forgets-leases",
        "after an opening the leases never end",
        &["CRA-4"],
        JournalFlaw::ForgetsLeases,
    ),
    Mutant::on_journal(
        "journal-restarts-fences",
        "after an opening the fences of waiting jobs begin anew",
        &["CRA-4"],
        JournalFlaw::RestartsFences,
    ),
    Mutant::on_journal(
        "journal-forgets-tokens",
        "after an opening nobody knows whose claim took a job",
        &["CRA-4"],
        JournalFlaw::ForgetsTokens,
    ),
    Mutant::on_journal(
        "journal-forgets-settles",
        "after an opening a repeated settle is not recognised",
        &["CRA-4"],
        JournalFlaw::ForgetsSettles,
    ),
    Mutant::on_journal(
        "journal-frees-lanes",
        "after an opening the lanes of running jobs are free",
        &["CRA-4"],
        JournalFlaw::FreesLanes,
    ),
    Mutant::on_journal(
        "journal-begins-anew",
        "an opening throws away what is there",
        &["MIG-1"],
        JournalFlaw::Clears,
    ),
    Mutant::on_journal(
        "journal-opens-alone",
        "only one process can open it at a time, whatever its reach says",
        &["MIG-1", "MIG-2"],
        JournalFlaw::OpensAlone,
    ),
    Mutant::on_journal(
        "journal-migrates-unlocked",
        "of several that open a new place each makes it",
        &["MIG-2"],
        JournalFlaw::MigratesUnlocked,
    ),
    Mutant::on_journal(
        "journal-ignores-the-version",
        "a later release's place is opened",
        &["MIG-3"],
        JournalFlaw::IgnoresVersion,
    ),
    Mutant::on_journal(
        "journal-changes-what-it-refuses",
        "a later release's place is refused, and changed",
        &["MIG-3"],
        JournalFlaw::StampsVersion,
    ),
    Mutant::on_journal(
        "journal-refuses-without-a-word",
        "a later release's place is refused, and nobody learns why",
        &["MIG-3"],
        JournalFlaw::RefusesWithoutAWord,
    ),
    Mutant::on_journal(
        "journal-one-trip-an-item",
        "each item of a batch is a trip",
        &["BUD-2"],
        JournalFlaw::OneTripAnItem,
    ),
    Mutant::on_journal(
        "journal-reads-what-it-claimed",
        "each job that a claim took is read by a trip of its own",
        &["BUD-2"],
        JournalFlaw::ReadsWhatItClaimed,
    ),
    Mutant::on_journal(
        "journal-looks-before-updating",
        "jobs are read and counted before they are updated",
        &["BUD-1", "BUD-4"],
        JournalFlaw::LooksBeforeUpdating,
    ),
    Mutant::on_journal(
        "journal-looks-before-firing",
        "a slot is looked up before it is fired",
        &["BUD-1"],
        JournalFlaw::LooksBeforeFiring,
    ),
    Mutant::on_journal(
        "journal-asks-for-nothing",
        "a call without items is a trip",
        &["BUD-3"],
        JournalFlaw::AsksForNothing,
    ),
];
