//! The cost of session layers, on the same work in the same process. `benches/README.md` explains the figures.

pub mod instructions;
pub mod memory;
pub mod peer;
pub mod report;
pub mod subject;
pub mod sweep;
pub mod threads;
pub mod times;
pub mod workload;
