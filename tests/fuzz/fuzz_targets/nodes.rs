//! Tokens of all four purposes at three nodes that restart: forged, swapped, replayed, late, and in any order. The
//! input is a program of [`STEP`] bytes for each step.
//!
//! Each run seals the tokens anew. The same input therefore changes the same positions of different bytes.
#![no_main]

#[allow(dead_code)]
#[path = "../../it/support"]
mod support {
    pub(crate) mod app;
    pub(crate) mod browser;
    pub(crate) mod cluster;
    pub(crate) mod forgery;
    pub(crate) mod history;
    pub(crate) mod node;
    pub(crate) mod tokens;
    pub(crate) mod values;
    pub(crate) mod visits;
    pub(crate) mod waiting;
}

use libfuzzer_sys::fuzz_target;

use crate::support::{
    cluster::{Cluster, STEP},
    waiting::at_once,
};

const MAX_STEPS: usize = 64;

fuzz_target!(|input: &[u8]| {
    let (program, _) = input.as_chunks::<STEP>();
    let _ = at_once(Cluster::run(&program[..program.len().min(MAX_STEPS)])).expect("nothing waits");
});
