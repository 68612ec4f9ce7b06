//! Ports for the servers of tests.

use std::{
    net::{Ipv4Addr, TcpListener},
    process::id,
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
};

/// Finds a port below the range from which the system assigns ports, and not one that a server of this process had
/// before: a stopped server can start again, and no client of the server reaches another server meanwhile.
pub(crate) fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new((id() % 10_000) as u16));

    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let ports = std::iter::repeat_with(|| 20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 12_000);
    ports.take(12_000).find(free).expect("one of 12,000 ports is free")
}
