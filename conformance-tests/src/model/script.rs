use proptest::{collection::vec, prelude::any, strategy::Strategy};

/// One step of a script: what kind of operation, and the choices that make it a certain one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub(super) kind: Kind,
    pub(super) dice: Vec<u8>,
}

/// The kinds of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Insert,
    Claim,
    Advance,
    Update,
    Heartbeat,
    Reap,
    UpdateWhere,
    UpdateAndClaim,
    Get,
    Find,
    Tally,
    Delete,
    Fire,
    Schedules,
    PutRecord,
    Records,
}

/// How often each kind is drawn, in parts of the sum.
const WEIGHTS: [(Kind, u8); 16] = [
    (Kind::Insert, 20),
    (Kind::Claim, 26),
    (Kind::Advance, 14),
    (Kind::Update, 36),
    (Kind::Heartbeat, 7),
    (Kind::Reap, 7),
    (Kind::UpdateWhere, 14),
    (Kind::UpdateAndClaim, 6),
    (Kind::Get, 8),
    (Kind::Find, 8),
    (Kind::Tally, 3),
    (Kind::Delete, 3),
    (Kind::Fire, 6),
    (Kind::Schedules, 2),
    (Kind::PutRecord, 6),
    (Kind::Records, 3),
];

fn kind(mut ticket: u8) -> Kind {
    for (kind, weight) in WEIGHTS {
        match ticket.checked_sub(weight) {
            None => return kind,
            Some(rest) => ticket = rest,
        }
    }
    Kind::Insert
}

/// Scripts of about 40 steps.
pub(super) fn steps() -> impl Strategy<Value = Vec<Step>, Tree: Send> + Send {
    let tickets: u8 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    let step = (0..tickets, vec(any::<u8>(), 16..96))
        .prop_map(|(ticket, dice)| Step { kind: kind(ticket), dice });
    vec(step, 1..80)
}
