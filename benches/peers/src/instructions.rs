//! Instructions of a request, counted by callgrind: nearly exact under any load of the machine.

use std::{error::Error, hint::black_box, process::Command};

use crate::{peer::Peer, report::Table, subject::Subject, workload::Workload};

/// Counted requests for each peer in each workload.
const REQUESTS: usize = 256;

/// Sends `requests` requests through [`measured`](crate::subject::measured), the only function that callgrind counts.
pub fn count(workload: Workload, peer: Peer, requests: usize) {
    let mut subject = Subject::new(peer, workload, 64);
    for _ in 0..requests {
        let (browser, request) = subject.request();
        let response = black_box(subject.send(request));
        subject.keep(browser, &response);
    }
}

/// Runs this program under callgrind for each peer in each workload.
///
/// # Errors
///
/// An error where valgrind is not installed.
pub fn print() -> Result<(), Box<dyn Error>> {
    let mut rows = Vec::new();
    for peer in Peer::ALL {
        let counts = Workload::ALL.map(|workload| counted(workload, peer));
        rows.push((peer, counts.into_iter().collect::<Result<_, _>>()?));
    }
    let columns = Workload::ALL.map(Workload::name);
    let counts = Table { title: "instructions", columns: &columns, rows };
    counts.print(0);
    let above = counts.above_bare("instructions above bare", &columns);
    above.print(0);
    above.shares("instructions, share of MemoryStore's", &columns).print(2);
    Ok(())
}

fn counted(workload: Workload, peer: Peer) -> Result<f64, Box<dyn Error>> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*measured*", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["--count", workload.name(), peer.name(), &REQUESTS.to_string()])
        .output()?;
    let log = String::from_utf8(output.stderr)?;
    let collected = log.lines().find_map(|line| line.split_once("Collected : "));
    let (_, total) = collected.ok_or_else(|| format!("callgrind collected nothing:\n{log}"))?;
    Ok(total.trim().parse::<f64>()? / REQUESTS as f64)
}
