use super::themes::{DUELS, Duel, THEMES, Theme};
use crate::Rng;

/// How many handles work at the same time.
pub(super) const BRANCHES: usize = 3;
/// How many operations each of them makes at most.
const LENGTH: usize = 4;
/// How many of them append. No answer tells in which order that happened, and twelve at once have 34,650.
const APPENDS: usize = 2;
/// How many choices a step has.
const DICE: usize = 32;

/// What a step does; the dice say to what, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Insert,
    InsertTwo,
    Claim,
    ClaimTwo,
    Complete,
    Fail,
    CancelOwn,
    Retry,
    Release,
    Append,
    Edit,
    Label,
    Progress,
    UpdateTwo,
    SettleAndClaim,
    Heartbeat,
    HeartbeatTwo,
    Reap,
    Cancel,
    Wake,
    Raise,
    Move,
    Delete,
    Get,
    GetTwo,
    Find,
    Tally,
    Fire,
    SkipSlot,
    Put,
    PutIf,
    Records,
    /// The clock goes beyond all leases. Not while others work.
    Expire,
    /// Everything is read. Not while others work.
    Look,
}

/// Which traits new jobs have, in parts of 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) unique: u8,
    pub(super) supersede: u8,
    pub(super) lane: u8,
    pub(super) fleeting: u8,
    pub(super) poison: u8,
}

/// One step, and the choices that make it a certain operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) act: Act,
    pub(super) shape: Shape,
    pub(super) dice: Vec<u8>,
    /// How often the handle lets others go first.
    pub(super) lag: u8,
}

/// Steps one after the other, then branches at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Episode {
    pub(super) prefix: Vec<Step>,
    pub(super) branches: [Vec<Step>; BRANCHES],
    /// What shows, one after the other, in which state the branches left the store.
    pub(super) suffix: Vec<Step>,
}

/// What happens to one store.
pub(super) type Script = Vec<Episode>;

/// So many episodes have every duel in both orders, and every theme.
pub(super) const ROUND: usize = 2 * DUELS.len() + THEMES.len();

/// The `number`th episode.
pub(super) fn episode(number: usize, rng: &mut Rng) -> Episode {
    let place = number % ROUND;
    match DUELS.get(place / 2) {
        Some(duel) => self::duel(duel, place % 2 == 1, rng),
        None => melee(&THEMES[place - 2 * DUELS.len()], rng),
    }
}

/// Two operations on the same thing, of which the second is a little late; and sometimes a third.
fn duel(duel: &Duel, turned: bool, rng: &mut Rng) -> Episode {
    const LATE: [u8; 4] = [4, 16, 64, 255];
    let (first, second) = if turned { (duel.two, duel.one) } else { (duel.one, duel.two) };
    // The plainest choices are those with which two operations meet for certain; what comes first of them is at what to aim.
    const PLAIN: [usize; 4] = [1, 4, DICE, DICE];
    let mut aimed = |act: Act, lag: u8| {
        let mut step = step(act, duel.shape, rng);
        step.dice[..PLAIN[rng.below(PLAIN.len())]].fill(0);
        step.lag = lag;
        step
    };
    let prefix = duel.prefix.iter().map(|act| aimed(*act, 0)).collect();
    let (first, mut second) = (vec![aimed(first, 0)], vec![aimed(second, 0)]);
    let look = aimed(Act::Get, 0);
    let third = [aimed(duel.one, 0), aimed(duel.two, 0), aimed(Act::Get, 0)];
    second[0].lag = LATE[rng.below(LATE.len())];
    if rng.below(2) == 0 {
        second.push(look);
    }
    let third = third.get(rng.below(12)).cloned();
    let branches = [first, second, third.into_iter().collect()];
    Episode { prefix, branches, suffix: suffix(duel.shape, rng) }
}

/// Several operations of a theme by everybody.
fn melee(theme: &Theme, rng: &mut Rng) -> Episode {
    let mut prefix: Vec<Step> =
        theme.prefix.iter().map(|act| step(*act, theme.shape, rng)).collect();
    // Something happened before, in one of two cases.
    if rng.below(2) == 0 {
        const BEFORE: [Act; 6] =
            [Act::Append, Act::Wake, Act::Cancel, Act::Label, Act::Insert, Act::Raise];
        let act = BEFORE[rng.below(BEFORE.len())];
        prefix.push(step(act, theme.shape, rng));
    }
    // A part of the acts only, so that they meet more often.
    let mut acts = theme.branches.to_vec();
    rng.shuffle(&mut acts);
    acts.truncate(3 + rng.below(acts.len()).min(3));
    let mut branch = || {
        let many = 1 + rng.below(LENGTH);
        let mut steps: Vec<Step> =
            (0..many).map(|_| step(acts[rng.below(acts.len())], theme.shape, rng)).collect();
        let mut appends = 0;
        steps.retain(|step| {
            let is_append = matches!(step.act, Act::Append | Act::UpdateTwo);
            appends += usize::from(is_append);
            !is_append || appends <= APPENDS
        });
        steps
    };
    let branches = [branch(), branch(), branch()];
    Episode { prefix, branches, suffix: suffix(theme.shape, rng) }
}

/// Reads everything, then does something whose outcome depends on what cannot be read.
fn suffix(shape: Shape, rng: &mut Rng) -> Vec<Step> {
    const SHOWING: [Act; 5] = [Act::ClaimTwo, Act::Insert, Act::Release, Act::Find, Act::Tally];
    let mut suffix = vec![step(Act::Look, shape, rng)];
    for _ in 0..1 + rng.below(2) {
        suffix.push(step(SHOWING[rng.below(SHOWING.len())], shape, rng));
    }
    suffix
}

fn step(act: Act, shape: Shape, rng: &mut Rng) -> Step {
    let dice = (0..DICE).map(|_| rng.next_u64().to_le_bytes()[0]).collect();
    let lag = [0, 1, 2, 8][rng.below(4)];
    Step { act, shape, dice, lag }
}

/// What is left when a part is taken out: whole episodes first, then single steps.
pub(super) fn smaller(script: &Script) -> Vec<Script> {
    let mut all = Vec::new();
    let last = script.len().saturating_sub(1);
    if last > 0 {
        all.push(script[last..].to_vec());
        all.extend((0..last).map(|at| {
            let mut less = script.clone();
            less.remove(at);
            less
        }));
    }
    for (at, episode) in script.iter().enumerate() {
        let mut less = |change: &dyn Fn(&mut Episode)| {
            let mut less = script.clone();
            change(&mut less[at]);
            all.push(less);
        };
        for branch in 0..BRANCHES {
            if episode.branches[branch].len() > 1 {
                less(&|episode| episode.branches[branch].clear());
            }
        }
        for branch in 0..BRANCHES {
            for step in 0..episode.branches[branch].len() {
                less(&|episode| drop(episode.branches[branch].remove(step)));
            }
        }
        for step in 0..episode.suffix.len() {
            less(&|episode| drop(episode.suffix.remove(step)));
        }
        for step in 0..episode.prefix.len() {
            less(&|episode| drop(episode.prefix.remove(step)));
        }
    }
    all
}
