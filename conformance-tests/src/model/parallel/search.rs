use std::{
    collections::{BTreeSet, HashSet},
    fmt,
};

use queue_core::{JobId, spec::World};

use super::{
    event::Event,
    piece::{self, Unit},
};

/// How many states a search may visit: far more than scripts of a dozen operations have.
const BUDGET: usize = 20_000;

/// Why a history is refused, or not judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No order of the operations is allowed.
    Refused(String),
    /// The search was given up.
    GivenUp(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(why) | Failure::GivenUp(why) => f.write_str(why),
        }
    }
}

/// Where a search stands: what the store holds, and what of it nobody may have seen yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub(super) world: World,
    /// Jobs that are in the place of superseded ones and have not come into sight.
    pub(super) hidden: BTreeSet<JobId>,
}

/// The search for an order of operations (Wing and Gong 1993, with Lowe's memory of states visited, 2017).
///
/// All orders are tried, not only until one is found: what comes later may be allowed after one of them only.
pub(super) struct Search<'a> {
    events: &'a [Event],
    units: &'a [Unit],
    /// For each unit: the units that must be done before it.
    before: Vec<u128>,
    /// The units that must be done at the end.
    needed: u128,
    visited: HashSet<(u128, Node)>,
    /// The states at the end, in the order in which they were found.
    ends: Vec<World>,
    ended: HashSet<World>,
    /// The most units that were done, and what was refused there.
    deepest: (u32, Vec<String>),
}

impl<'a> Search<'a> {
    pub(super) fn new(events: &'a [Event], units: &'a [Unit]) -> Self {
        let bit =
            |at: usize| 1_u128.checked_shl(u32::try_from(at).unwrap_or(u32::MAX)).unwrap_or(0);
        let mask = |wanted: &dyn Fn(&Unit) -> bool| {
            let wanted = units.iter().enumerate().filter(|(_, unit)| wanted(unit));
            wanted.fold(0, |mask, (at, _)| mask | bit(at))
        };
        let before = units.iter().map(|unit| {
            let event = &events[unit.event];
            let earlier = mask(&|other| !other.optional && events[other.event].precedes(event));
            earlier | unit.after.map_or(0, bit)
        });
        Search {
            events,
            units,
            before: before.collect(),
            needed: mask(&|unit| !unit.optional),
            visited: HashSet::new(),
            ends: Vec::new(),
            ended: HashSet::new(),
            deepest: (0, Vec::new()),
        }
    }

    /// How many states were visited.
    pub(super) fn visited(&self) -> usize {
        self.visited.len()
    }

    /// All states that the store may be in after the events.
    pub(super) fn run(&mut self, starts: &[World]) -> Result<Vec<World>, Failure> {
        if self.units.len() > 128 {
            let many = self.units.len();
            return Err(Failure::GivenUp(format!("{many} steps overlap; 128 are the most")));
        }
        for world in starts {
            self.visit(0, Node { world: world.clone(), hidden: BTreeSet::new() })?;
        }
        match self.ends.is_empty() {
            false => Ok(std::mem::take(&mut self.ends)),
            true => Err(Failure::Refused(self.why())),
        }
    }

    fn visit(&mut self, done: u128, node: Node) -> Result<(), Failure> {
        if self.visited.len() >= BUDGET {
            return Err(Failure::GivenUp(format!("{BUDGET} states were visited")));
        }
        // What was alone is done at once, and there is nothing to remember.
        if self.units.len() > 1 && !self.visited.insert((done, node.clone())) {
            return Ok(());
        }
        if done & self.needed == self.needed && self.ended.insert(node.world.clone()) {
            self.ends.push(node.world.clone());
        }
        let mut refused = Vec::new();
        let mut advanced = false;
        for (at, unit) in self.units.iter().enumerate() {
            let bit = 1_u128 << at;
            if done & bit != 0 || done & self.before[at] != self.before[at] {
                continue;
            }
            match piece::apply(unit, &node, self.events[unit.event].now) {
                Ok(nodes) => {
                    advanced = true;
                    for next in nodes {
                        self.visit(done | bit, next)?;
                    }
                }
                Err(why) => refused.push(self.refusal(unit, &why)),
            }
        }
        let depth = done.count_ones();
        if !advanced && !refused.is_empty() && depth >= self.deepest.0 {
            self.deepest = (depth, refused);
        }
        Ok(())
    }

    fn refusal(&self, unit: &Unit, why: &str) -> String {
        let Event { handle, begin, end, op, .. } = &self.events[unit.event];
        format!("{} of handle {handle}, from {begin} to {end}: {why}", op.method())
    }

    fn why(&self) -> String {
        let (depth, refused) = &self.deepest;
        let all = self.units.len();
        let refused = refused.join("\n");
        format!(
            "no order of the operations explains the answers; at best, {depth} of {all} steps come before:\n{refused}"
        )
    }
}
