//! Resident bytes of a session that holds one integer. Each peer in a process of its own, so that none finds pages that
//! another has left.

use std::{error::Error, process::Command};

use http::Request;

use crate::{peer::Peer, report::Table, workload::Task};

const SESSIONS: [usize; 2] = [100_000, 1_000_000];

/// # Errors
///
/// Where a child process fails.
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

/// Makes so many sessions and says what each of them takes.
///
/// # Errors
///
/// Where the system does not say what a process uses.
pub fn measure(peer: Peer, sessions: usize) -> Result<(), Box<dyn Error>> {
    // A page is 4 KiB wherever this has run.
    const PAGE: f64 = 4096.0;
    let open = peer.open();
    let mut begin = open(Task::Bump);
    // What is set up once is no session's.
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
