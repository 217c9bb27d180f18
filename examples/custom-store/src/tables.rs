//! The tables of the file, declared once: for reading a snapshot and for writing in a transaction.

use redb::{
    Error, ReadOnlyTable, ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction,
};
use uuid::Uuid;

type Result<T> = std::result::Result<T, Error>;

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident: $key:ty => $value:ty;)*) => {
        /// The tables as one transaction left them.
        pub(crate) struct Snapshot {
            $($name: ReadOnlyTable<$key, $value>,)*
        }

        impl Snapshot {
            pub(crate) fn open(transaction: &ReadTransaction) -> Result<Self> {
                Ok(Snapshot {
                    $($name: transaction.open_table(TableDefinition::new(stringify!($name)))?,)*
                })
            }
        }

        /// The tables within a write transaction.
        pub(crate) struct Tables<'t> {
            $($(#[$doc])* pub(crate) $name: Table<'t, $key, $value>,)*
        }

        impl<'t> Tables<'t> {
            /// Opens all tables, and makes those that are not there.
            pub(crate) fn open(transaction: &'t WriteTransaction) -> Result<Self> {
                Ok(Tables {
                    $($name: transaction.open_table(TableDefinition::new(stringify!($name)))?,)*
                })
            }
        }

        /// What can be read in either.
        #[expect(dead_code, reason = "some tables are read by writers alone")]
        pub(crate) trait View {
            $($(#[$doc])* fn $name(&self) -> &impl ReadableTable<$key, $value>;)*
        }

        impl View for Snapshot {
            $(fn $name(&self) -> &impl ReadableTable<$key, $value> { &self.$name })*
        }

        impl View for Tables<'_> {
            $(fn $name(&self) -> &impl ReadableTable<$key, $value> { &self.$name })*
        }
    };
}

tables! {
    /// Job: its row as JSON, without the input.
    jobs: Uuid => &'static [u8];
    /// Job: its input. Apart, because it never changes: a heartbeat does not rewrite it.
    inputs: Uuid => &'static str;
    /// Job and position: the log entry as JSON.
    log: (Uuid, u64) => &'static [u8];
    /// Job and entry: there is such an entry.
    entries: (Uuid, Uuid) => ();

    /// The waiting jobs in the order of claims: queue, kind, rank (the priority, reversed), due time, job. The value is
    /// the key and limit of the lane, so that a claim passes over full lanes without reading rows.
    waiting: (&'static str, &'static str, i16, i64, Uuid) => Option<(&'static str, u32)>;
    /// The running jobs by the end of their lease.
    leases: (i64, Uuid) => ();
    /// The running jobs by the token of their claim.
    held: (Uuid, Uuid) => ();
    /// The slots of lanes that running jobs hold.
    slots: (&'static str, u32) => Uuid;
    /// Unique key: the job that holds it.
    keys: &'static str => Uuid;
    /// All jobs by state and time of creation.
    states: (u8, i64, Uuid) => ();
    /// All jobs by label and time of creation.
    labels: (&'static str, &'static str, i64, Uuid) => ();

    /// Schedule: its statistics as JSON.
    schedules: &'static str => &'static [u8];
    /// Key: the record as JSON, removed ones included, whose version goes on.
    records: &'static str => &'static [u8];

    /// `format`: the version of all this.
    meta: &'static str => u64;
}

/// A number for the order of claims that is smaller for a higher priority.
pub(crate) const fn rank(priority: i16) -> i16 {
    // The complement turns the order round, as minus does, and cannot overflow.
    !priority
}
