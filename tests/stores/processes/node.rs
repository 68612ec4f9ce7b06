//! A process of the example `cluster`.

use std::process::Command;

use super::process::{Process, built, serve};
use crate::port::free_port;

/// The keys of all nodes: any 32 bytes in hex.
const KEYS: &str = "00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210";

/// A node, which stops when the test drops it.
pub(crate) struct Node {
    port: u16,
    _process: Process,
}

impl Node {
    /// Starts a node of this name over the store of a URL.
    pub(crate) fn start(name: &str, store: &str) -> Self {
        Self::with(name, store, &[])
    }

    /// Starts a node with further variables of its environment.
    pub(crate) fn with(name: &str, store: &str, variables: &[(&str, &str)]) -> Self {
        let port = free_port();
        let mut command = Command::new(built("cluster").unwrap());
        command.envs([("NODE", name), ("STORE_URL", store), ("SESSION_KEYS", KEYS)]).envs(variables.iter().copied());
        Self { port, _process: serve(command, port).unwrap() }
    }

    /// Starts the nodes `a` and `b`.
    pub(crate) fn pair(store: &str) -> [Self; 2] {
        ["a", "b"].map(|name| Self::start(name, store))
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}
