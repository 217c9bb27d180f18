use super::script::{Act, Shape};

const PLAIN: Shape = Shape { unique: 0, supersede: 0, lane: 0, fleeting: 0, poison: 0 };
const KEYED: Shape = Shape { unique: 4, ..PLAIN };
const SUPERSEDING: Shape = Shape { supersede: 4, ..KEYED };
const LANED: Shape = Shape { lane: 4, ..PLAIN };
const FLEETING: Shape = Shape { fleeting: 4, ..PLAIN };

/// Two operations that meet at one thing.
pub(super) struct Duel {
    pub(super) shape: Shape,
    pub(super) prefix: &'static [Act],
    pub(super) one: Act,
    pub(super) two: Act,
}

const fn duel(shape: Shape, prefix: &'static [Act], one: Act, two: Act) -> Duel {
    Duel { shape, prefix, one, two }
}

#[rustfmt::skip]
pub(super) const DUELS: &[Duel] = {
    use Act::*;
    const WAITING: &[Act] = &[Insert];
    const RUNNING: &[Act] = &[Insert, Claim];
    const EXPIRED: &[Act] = &[Insert, Claim, Expire];
    const TWO: &[Act] = &[InsertTwo];
    const ONE_OF_TWO: &[Act] = &[InsertTwo, Claim];
    &[
        // Who gets a unique key that somebody gives up.
        duel(KEYED, &[], Insert, Insert),
        duel(KEYED, WAITING, Insert, Cancel),
        duel(KEYED, WAITING, Insert, Delete),
        duel(KEYED, WAITING, Insert, Claim),
        duel(KEYED, RUNNING, Insert, Complete),
        duel(KEYED, RUNNING, Insert, Fail),
        duel(KEYED, EXPIRED, Insert, Reap),
        // A job that is superseded.
        duel(SUPERSEDING, WAITING, Insert, Insert),
        duel(SUPERSEDING, WAITING, Insert, Claim),
        duel(SUPERSEDING, WAITING, Insert, Cancel),
        duel(SUPERSEDING, WAITING, Insert, Delete),
        duel(SUPERSEDING, WAITING, Insert, Label),
        duel(SUPERSEDING, RUNNING, Insert, Retry),
        // A job that is claimed.
        duel(PLAIN, WAITING, Claim, Claim),
        duel(PLAIN, WAITING, Claim, Cancel),
        duel(PLAIN, WAITING, Claim, Delete),
        duel(PLAIN, WAITING, Claim, Append),
        duel(PLAIN, WAITING, Claim, Label),
        duel(PLAIN, WAITING, Claim, Raise),
        duel(PLAIN, WAITING, Claim, Move),
        duel(PLAIN, TWO, ClaimTwo, ClaimTwo),
        duel(PLAIN, TWO, ClaimTwo, Cancel),
        // A run that ends.
        duel(PLAIN, RUNNING, Complete, Complete),
        duel(PLAIN, RUNNING, Complete, Cancel),
        duel(PLAIN, RUNNING, Complete, Append),
        duel(PLAIN, RUNNING, Complete, Heartbeat),
        duel(PLAIN, RUNNING, Complete, Label),
        duel(PLAIN, RUNNING, Complete, Retry),
        duel(FLEETING, RUNNING, Complete, Append),
        duel(FLEETING, RUNNING, Complete, Cancel),
        duel(PLAIN, RUNNING, Fail, Append),
        duel(PLAIN, RUNNING, CancelOwn, Cancel),
        duel(PLAIN, RUNNING, Retry, Cancel),
        duel(PLAIN, RUNNING, Retry, Claim),
        duel(PLAIN, RUNNING, Retry, Delete),
        duel(PLAIN, RUNNING, Release, Wake),
        duel(PLAIN, RUNNING, Release, Cancel),
        duel(PLAIN, RUNNING, Release, Raise),
        // A lease that is renewed, or is over.
        duel(PLAIN, RUNNING, Heartbeat, Cancel),
        duel(PLAIN, RUNNING, Heartbeat, Append),
        duel(PLAIN, RUNNING, Heartbeat, Label),
        duel(PLAIN, EXPIRED, Reap, Heartbeat),
        duel(PLAIN, EXPIRED, Reap, Complete),
        duel(PLAIN, EXPIRED, Reap, Append),
        duel(PLAIN, EXPIRED, Reap, Cancel),
        duel(PLAIN, EXPIRED, Reap, Reap),
        duel(PLAIN, EXPIRED, Reap, Claim),
        // A lane.
        duel(LANED, TWO, Claim, Claim),
        duel(LANED, TWO, ClaimTwo, Claim),
        duel(LANED, ONE_OF_TWO, Claim, Complete),
        duel(LANED, ONE_OF_TWO, Claim, Release),
        duel(LANED, ONE_OF_TWO, Claim, SettleAndClaim),
        // The log and the fields.
        duel(PLAIN, RUNNING, Append, Append),
        duel(PLAIN, RUNNING, Append, Get),
        duel(PLAIN, RUNNING, Append, Label),
        duel(PLAIN, WAITING, Label, Label),
        duel(PLAIN, WAITING, Label, Get),
        duel(PLAIN, WAITING, Label, Raise),
        duel(PLAIN, WAITING, Label, Delete),
        duel(PLAIN, WAITING, Edit, Edit),
        duel(PLAIN, WAITING, Edit, Label),
        duel(PLAIN, WAITING, Edit, Cancel),
        duel(PLAIN, WAITING, Raise, Move),
        duel(PLAIN, WAITING, Delete, Insert),
        // Records and schedules.
        duel(PLAIN, &[Put], Put, Put),
        duel(PLAIN, &[Put], Put, PutIf),
        duel(PLAIN, &[Put], PutIf, PutIf),
        duel(PLAIN, &[Fire], Fire, Fire),
        duel(PLAIN, &[Fire], Fire, SkipSlot),
        duel(KEYED, &[Fire], Fire, Insert),
        duel(PLAIN, &[], Fire, Claim),
    ]
};

/// Several operations that get in each other's way.
pub(super) struct Theme {
    pub(super) shape: Shape,
    pub(super) prefix: &'static [Act],
    pub(super) branches: &'static [Act],
}

#[rustfmt::skip]
pub(super) const THEMES: &[Theme] = {
    use Act::*;
    &[
        // A unique key: who gets it, and when it is given up. Inserts that supersede do not race with others that
        // do not: where two documents cannot be written at once, one of those may get in between.
        Theme {
            shape: Shape { unique: 4, fleeting: 1, ..PLAIN },
            prefix: &[Insert, Claim],
            branches: &[Insert, Insert, InsertTwo, Complete, Cancel, Delete, Get],
        },
        // A job is superseded while somebody takes it.
        Theme {
            shape: Shape { unique: 4, supersede: 4, ..PLAIN },
            prefix: &[Insert],
            branches: &[Insert, Claim, Claim, Wake, Cancel, Get],
        },
        // Claims of the same jobs, which others end, move and delete. None is repeated while it still runs: callers repeat
        // what they have given up.
        Theme {
            shape: PLAIN,
            prefix: &[InsertTwo],
            branches: &[Claim, Claim, ClaimTwo, Cancel, Delete, Raise, Move, Get],
        },
        // A claim, and changes of the job that it takes.
        Theme {
            shape: PLAIN,
            prefix: &[Insert],
            branches: &[Claim, Append, Label, Cancel, Progress, Get],
        },
        // The end of a run, from several sides.
        Theme {
            shape: Shape { fleeting: 1, ..PLAIN },
            prefix: &[InsertTwo, ClaimTwo],
            branches: &[Complete, Retry, Fail, Release, Cancel, Append, Heartbeat, Get, CancelOwn],
        },
        // Release and wake.
        Theme {
            shape: PLAIN,
            prefix: &[Insert, Claim],
            branches: &[Release, Wake, Wake, Claim, Get],
        },
        // Retry and cancel.
        Theme {
            shape: PLAIN,
            prefix: &[Insert, Claim],
            branches: &[Retry, Release, Cancel, Heartbeat, Get],
        },
        // Leases that are over.
        Theme {
            shape: Shape { poison: 1, ..PLAIN },
            prefix: &[InsertTwo, ClaimTwo, Expire],
            branches: &[Reap, Reap, Heartbeat, Heartbeat, Complete, Retry, Append, Cancel, Get, HeartbeatTwo],
        },
        // Lanes.
        Theme {
            shape: Shape { lane: 4, ..PLAIN },
            prefix: &[InsertTwo, Claim],
            branches: &[Claim, Claim, Complete, SettleAndClaim, Release, ClaimTwo, Insert],
        },
        Theme {
            shape: Shape { lane: 4, ..PLAIN },
            prefix: &[InsertTwo],
            branches: &[Claim, Claim, ClaimTwo, Cancel, Insert, Get],
        },
        // The log and the fields.
        Theme {
            shape: PLAIN,
            prefix: &[Insert, Claim],
            branches: &[Append, Append, Append, UpdateTwo, Complete, Get, Get],
        },
        // Edits.
        Theme {
            shape: PLAIN,
            prefix: &[Insert],
            branches: &[Label, Label, Edit, Raise, Move, Claim, Get],
        },
        Theme {
            shape: PLAIN,
            prefix: &[InsertTwo, Claim],
            branches: &[Label, Edit, Edit, UpdateTwo, Progress, Raise, Retry, Get, GetTwo],
        },
        // Deletes.
        Theme {
            shape: Shape { unique: 2, fleeting: 1, ..PLAIN },
            prefix: &[InsertTwo, Claim],
            branches: &[Delete, Delete, Retry, Claim, Claim, Append, Insert, Get],
        },
        // Records.
        Theme {
            shape: PLAIN,
            prefix: &[Put],
            branches: &[Put, PutIf, PutIf, Records],
        },
        // Schedules.
        Theme {
            shape: Shape { unique: 1, fleeting: 1, ..PLAIN },
            prefix: &[Fire],
            branches: &[Fire, Fire, SkipSlot, Claim, Get, Insert],
        },
        // Anything.
        Theme {
            shape: Shape { unique: 1, lane: 1, fleeting: 1, poison: 1, ..PLAIN },
            prefix: &[InsertTwo, Insert, ClaimTwo],
            branches: &[
                Insert, Claim, ClaimTwo, Complete, Fail, Retry, Release, Append, Edit, Label, Progress, UpdateTwo,
                SettleAndClaim, Heartbeat, Reap, Cancel, Wake, Raise, Move, Delete, Get, GetTwo, Find, Tally, Fire, Put,
                PutIf, Records,
            ],
        },
    ]
};
