//! Fixtures: nodes, browsers, values and tokens.

pub(crate) mod app;
pub(crate) mod cluster;
pub(crate) mod forgery;
pub(crate) mod history;
pub(crate) mod site;
pub(crate) mod trace;
pub(crate) mod turns;
pub(crate) mod world;
