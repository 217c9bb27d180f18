//! MOD: the store against the executable specification.

use std::time::Duration;

use crate::{Property, model};

/// The properties of this group.
pub fn properties() -> Vec<Property> {
    let sequential = Property::new(
        "MOD-1",
        "every answer in a random script is one that the specification allows",
        |case| Box::pin(model::sequential(case)),
    );
    let parallel = Property::new(
        "MOD-2",
        "concurrent operations take effect as if one after the other",
        |case| Box::pin(model::parallel(case)),
    );
    // Every script opens a store of its own, which takes a server a second when it is busy.
    [sequential, parallel].map(|property| property.within(Duration::from_secs(180))).to_vec()
}
