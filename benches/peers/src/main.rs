//! Prints one of the comparisons. `benches/README.md` explains the figures.

use std::{env, error::Error, process::Command};

use peers::{instructions, memory, peer::Peer, sweep, threads, times, workload::Workload};

const USAGE: &str = "[--threads | --memory | --sweep | --instructions | --count WORKLOAD PEER REQUESTS]";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match *arguments {
        [] => {
            times::print();
            return allocations();
        }
        ["--threads"] => threads::print(),
        ["--memory"] => return memory::print(),
        ["--sweep"] => sweep::print(),
        ["--instructions"] => return instructions::print(),
        ["--count", workload, peer, requests] => {
            let workload = Workload::named(workload).ok_or("no such workload: w0 to w5")?;
            instructions::count(workload, peer_named(peer)?, requests.parse()?);
        }
        ["--resident", peer, sessions] => return memory::measure(peer_named(peer)?, sessions.parse()?),
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

fn peer_named(name: &str) -> Result<Peer, String> {
    let names = || Peer::ALL.map(Peer::name).join("\n");
    Peer::named(name).ok_or_else(|| format!("no such peer: one of\n{}", names()))
}

/// Runs the separate binary, which counts allocations with another allocator.
fn allocations() -> Result<(), Box<dyn Error>> {
    let Ok(cargo) = env::var("CARGO") else {
        println!("\nAllocations: cargo run --release --bin allocations");
        return Ok(());
    };
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    Command::new(cargo)
        .args(["run", "--quiet", "--release", "--bin", "allocations", "--manifest-path", manifest])
        .status()?;
    Ok(())
}
