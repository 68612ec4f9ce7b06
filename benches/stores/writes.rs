//! `handle.set` and `handle.update` beside the bare client's call of the same script, and the script beside a script of
//! one line.

use std::time::Instant;

use futures_util::future::try_join_all;
use layered_session::{KeyRing, Session, tier::BoxError};
use rand::seq::SliceRandom;
use redis::{Cmd, aio::MultiplexedConnection};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{
    bare::{Bare, Captured, cmd, connection},
    proxy::{Call, Proxy},
    report::{self, Samples},
    site::{Act, Browser, Count, FIRST, redis_node},
};

/// The writers of the measurement at once.
const WRITERS: usize = 64;

const ONE_LINE: &str = "#!lua\nreturn redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])";

/// The subjects of a round, each with one call.
const SUBJECTS: usize = 5;

pub(crate) async fn print(port: u16, rounds: usize) -> Result<(), BoxError> {
    let proxy = Proxy::start(port)?;
    let keys = KeyRing::generate()?;
    let (behind_proxy, node) = (redis_node(&keys, proxy.port())?, redis_node(&keys, port)?);
    let captured = Captured::of_new_session(&behind_proxy, &proxy).await?;
    let updated = Captured::of_new_session(&behind_proxy, &proxy).await?;
    let connection = connection(port).await?;
    let (mut set, mut update) =
        (Bare::new(&connection, &captured.set).await?, Bare::new(&connection, &updated.update).await?);
    let one_line = one_line(&connection, &captured).await?;
    let session = Browser::default().visit(&node, Act::Begin).await?;

    let threads = match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => "the caller's thread",
        _ => "another thread",
    };
    report::title(&format!("a write of one value, us; {threads} drives the connection"));
    let mut samples: [Samples; SUBJECTS] = Default::default();
    let mut order: [usize; SUBJECTS] = std::array::from_fn(|subject| subject);
    for round in 0..rounds + rounds / 10 {
        // In a fixed order, a script would always find the caches as the same other script leaves them.
        order.shuffle(&mut rand::rng());
        for subject in order {
            let start = Instant::now();
            match subject {
                0 => session.set(Count(FIRST + round as u64)).await?,
                1 => drop(session.update(|count: &mut Count| count.0 += 1).await?),
                2 => set.commit().await?,
                3 => update.commit().await?,
                _ => one_line.exec_async(&mut connection.clone()).await?,
            }
            // The first rounds warm the caches.
            if round >= rounds / 10 {
                samples[subject].push(micros(start));
            }
        }
    }
    let [ours_set, ours_update, bare_set, bare_update, line] = &mut samples;
    for (name, share) in [("median", 0.5), ("p10", 0.1)] {
        let row = |name: String, ours: &mut Samples, bare: &mut Samples, goal| {
            report::compare(&name, ours.quantile(share), bare.quantile(share), Some(goal));
        };
        row(format!("handle.set / bare call of the script, {name}"), ours_set, bare_set, 1.2);
        row(format!("handle.update / bare call of the script, {name}"), ours_update, bare_update, 1.2);
        row(format!("bare call of the script / script of one line, {name}"), bare_set, line, 1.5);
    }
    let (script, line) = on_the_server(&mut set, &one_line, &connection, rounds).await?;
    report::compare("the same on the server alone, commandstats of EVALSHA", script, line, None);
    at_once(&node, (&behind_proxy, &proxy), &connection, rounds / 50).await
}

fn micros(start: Instant) -> f64 {
    start.elapsed().as_nanos() as f64 / 1e3
}

/// Returns a call of a script that sets the same field to as many bytes, in a hash with the same fields.
async fn one_line(connection: &MultiplexedConnection, captured: &Captured) -> Result<Cmd, BoxError> {
    let mut connection = connection.clone();
    let copy: Vec<u8> = captured.key().iter().rev().copied().collect();
    cmd(&[&b"COPY"[..], captured.key(), &copy]).exec_async(&mut connection).await?;
    let hash: String = cmd(&["SCRIPT", "LOAD", ONE_LINE]).query_async(&mut connection).await?;
    let (field, entry) = captured.entry();
    Ok(cmd(&[&b"EVALSHA"[..], hash.as_bytes(), b"1", &copy, field, &entry]))
}

/// Returns the microseconds of a call of each script in the server, without the network: medians over blocks in turn.
async fn on_the_server(
    script: &mut Bare,
    line: &Cmd,
    connection: &MultiplexedConnection,
    rounds: usize,
) -> Result<(f64, f64), BoxError> {
    const BLOCK: usize = 200;
    let mut connection = connection.clone();
    let mut samples: [Samples; 2] = Default::default();
    for block in 0..2 * (rounds / BLOCK).max(3) {
        cmd(&["CONFIG", "RESETSTAT"]).exec_async(&mut connection).await?;
        for _ in 0..BLOCK {
            match block % 2 {
                0 => script.commit().await?,
                _ => line.exec_async(&mut connection).await?,
            }
        }
        let stats: String = cmd(&["INFO", "commandstats"]).query_async(&mut connection).await?;
        let spent = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:"));
        let spent = spent.and_then(|line| line.split_once("usec_per_call=")).and_then(|(_, rest)| rest.split_once(','));
        samples[block % 2].push(spent.ok_or("no statistics of EVALSHA")?.0.parse()?);
    }
    let [script, line] = &mut samples;
    Ok((script.median(), line.median()))
}

/// Prints the time until writes of 64 sessions, sent at once over one connection, have all been answered.
async fn at_once(
    node: &layered_session::Sessions,
    (behind_proxy, proxy): (&layered_session::Sessions, &Proxy),
    connection: &MultiplexedConnection,
    rounds: usize,
) -> Result<(), BoxError> {
    let (mut sessions, mut calls): (Vec<Session>, Vec<Call>) = Default::default();
    for _ in 0..WRITERS {
        sessions.push(Browser::default().visit(node, Act::Begin).await?);
        calls.push(Captured::of_new_session(behind_proxy, proxy).await?.set);
    }
    let mut bares = try_join_all(calls.iter().map(|call| Bare::new(connection, call))).await?;
    let mut samples: [Samples; 2] = Default::default();
    for round in 0..rounds.max(2) {
        for turn in 0..2 {
            let subject = (round + turn) % 2;
            let start = Instant::now();
            match subject {
                0 => {
                    let value = Count(FIRST + round as u64);
                    try_join_all(sessions.iter().map(|session| session.set(value))).await?;
                }
                _ => drop(try_join_all(bares.iter_mut().map(Bare::commit)).await?),
            }
            samples[subject].push(micros(start));
        }
    }
    let [ours, bare] = &mut samples;
    report::compare("64 handles set at once / 64 bare calls, median of all 64", ours.median(), bare.median(), None);
    Ok(())
}
