//! The properties, one file per group of the contract.

mod can;
mod clm;
mod del;
mod fid;
mod ins;
mod lan;
mod log;
mod lse;
mod rea;
mod rec;
mod scene;
mod sch;
mod sig;
mod specification;
mod upd;

use crate::Property;

/// All properties, in the order of the catalogue.
pub fn properties() -> Vec<Property> {
    let groups = [
        ins::properties,
        clm::properties,
        log::properties,
        upd::properties,
        lse::properties,
        can::properties,
        lan::properties,
        rec::properties,
        rea::properties,
        del::properties,
        fid::properties,
        sch::properties,
        sig::properties,
        specification::properties,
    ];
    groups.iter().flat_map(|group| group()).collect()
}
