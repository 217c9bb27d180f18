//! Several sorted sequences read as one.

use std::{cmp::Reverse, collections::BinaryHeap};

use redb::Error;

pub(crate) type Source<'a, T> = Box<dyn Iterator<Item = Result<T, Error>> + 'a>;

/// The items of all sources in ascending order; each source must ascend by itself.
///
/// Reads no further in a source than asked, so the first few of a million cost as much as the first few of ten.
pub(crate) struct Merge<'a, T> {
    sources: Vec<Source<'a, T>>,
    heads: BinaryHeap<Reverse<(T, usize)>>,
}

impl<'a, T: Ord> Merge<'a, T> {
    pub(crate) fn new(sources: Vec<Source<'a, T>>) -> Result<Self, Error> {
        let heads = BinaryHeap::with_capacity(sources.len());
        let mut merge = Merge { sources, heads };
        for source in 0..merge.sources.len() {
            merge.advance(source)?;
        }
        Ok(merge)
    }

    fn advance(&mut self, source: usize) -> Result<(), Error> {
        if let Some(item) = self.sources[source].next().transpose()? {
            self.heads.push(Reverse((item, source)));
        }
        Ok(())
    }
}

impl<T: Ord> Iterator for Merge<'_, T> {
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((item, source)) = self.heads.pop()?;
        Some(self.advance(source).map(|()| item))
    }
}
