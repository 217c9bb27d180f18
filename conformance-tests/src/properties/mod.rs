//! The properties, one file per group of the contract.

mod bud;
mod can;
mod clm;
mod cra;
mod del;
mod err;
mod fid;
mod flt;
mod his;
mod ins;
mod lan;
mod log;
mod lse;
mod mig;
mod rea;
mod rec;
mod scene;
mod sch;
mod sig;
mod specification;
mod upd;
mod wak;

use crate::Property;

/// What the properties of each group are about.
const TITLES: [(&str, &str); 20] = [
    ("INS", "insert"),
    ("CLM", "claim"),
    ("LOG", "log"),
    ("UPD", "update"),
    ("LSE", "lease"),
    ("CAN", "cancel"),
    ("LAN", "lanes"),
    ("REC", "records"),
    ("REA", "reads"),
    ("DEL", "delete"),
    ("FID", "fidelity"),
    ("SCH", "schedules"),
    ("SIG", "signals"),
    ("WAK", "wake-ups"),
    ("ERR", "errors"),
    ("FLT", "faults"),
    ("CRA", "crashes"),
    ("MIG", "migration"),
    ("BUD", "trips"),
    ("HIS", "long histories"),
];

/// What the properties of a group are about, in a word or two.
pub fn title(group: &str) -> &'static str {
    let known = TITLES.iter().find(|(known, _)| *known == group);
    known.map_or("specification", |(_, title)| title)
}

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
        wak::properties,
        flt::properties,
        err::properties,
        his::long_running,
        cra::properties,
        mig::properties,
        bud::properties,
        specification::properties,
    ];
    groups.iter().flat_map(|group| group()).collect()
}
