//! Resident bytes of a session that holds one integer. Each peer has its own process, so that no peer reuses the freed
//! memory pages of another.

use std::{error::Error, process::Command};

use http::Request;

use crate::{peer::Peer, report::Table, workload::Task};

const SESSIONS: [usize; 2] = [100_000, 1_000_000];

/// # Errors
///
/// An error where a child process fails.
pub fn print() -> Result<(), Box<dyn Error>> {
    let mut rows = Vec::new();
    for peer in Peer::ALL.into_iter().filter(|peer| peer.holds_sessions()) {
        let bytes = SESSIONS.map(|sessions| in_a_child(peer, sessions));
        rows.push((peer, bytes.into_iter().collect::<Result<_, _>>()?));
    }
    Table { title: "resident bytes of a session", columns: &["100,000", "1,000,000"], rows }.print(0);
    Ok(())
}

fn in_a_child(peer: Peer, sessions: usize) -> Result<f64, Box<dyn Error>> {
    let output =
        Command::new(std::env::current_exe()?).args(["--resident", peer.name(), &sessions.to_string()]).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.trim().parse().map_err(|_| format!("a child failed: {}", String::from_utf8_lossy(&output.stderr)))?)
}

/// Makes the sessions and prints the bytes of each session.
///
/// # Errors
///
/// An error where the system does not tell the memory of a process.
pub fn measure(peer: Peer, sessions: usize) -> Result<(), Box<dyn Error>> {
    // A memory page had 4 KiB on every machine so far.
    const PAGE: f64 = 4096.0;
    let open = peer.open();
    let mut begin = open(Task::Bump);
    // The first sessions pay for the one-time setup.
    (0..1000).for_each(|_| drop(begin(Request::new(()))));
    let before = resident_pages()?;
    (0..sessions).for_each(|_| drop(begin(Request::new(()))));
    println!("{}", (resident_pages()? - before) * PAGE / sessions as f64);
    Ok(())
}

fn resident_pages() -> Result<f64, Box<dyn Error>> {
    let sizes = std::fs::read_to_string("/proc/self/statm")?;
    Ok(sizes.split(' ').nth(1).ok_or("no resident size")?.parse()?)
}
