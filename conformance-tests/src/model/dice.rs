use std::time::Duration;

/// The choices of one step, one die after the other. When they have run out, every
/// further choice is the plainest one, which is choice 0.
#[derive(Clone, Debug)]
pub(super) struct Dice<'a>(std::slice::Iter<'a, u8>);

impl<'a> Dice<'a> {
    pub(super) fn new(dice: &'a [u8]) -> Self {
        Dice(dice.iter())
    }

    /// A number below `n`, which must not be 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % n
    }

    /// Happens in about one of `n` cases.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    /// One of the items, if there is any.
    pub(super) fn of<T: Clone>(&mut self, items: &[T]) -> Option<T> {
        match items.len() {
            0 => None,
            n => items.get(self.below(n)).cloned(),
        }
    }

    /// Some of the items, at least one.
    pub(super) fn some_of<T: Clone>(&mut self, items: &[T]) -> Vec<T> {
        let bits = self.below(1 << items.len().min(7)).max(1);
        items
            .iter()
            .enumerate()
            .filter(|(i, _)| bits & (1 << i) != 0)
            .map(|(_, t)| t.clone())
            .collect()
    }

    /// A duration from a few that meet each other.
    pub(super) fn duration(&mut self) -> Duration {
        const DURATIONS: [Duration; 6] = [
            Duration::from_secs(10),
            Duration::from_micros(1),
            Duration::from_millis(1_500),
            Duration::from_secs(20),
            Duration::from_micros(10_000_001),
            Duration::from_secs(86_400),
        ];
        DURATIONS[self.below(DURATIONS.len())]
    }
}
