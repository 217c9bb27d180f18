use crate::property::group;

group! {}
