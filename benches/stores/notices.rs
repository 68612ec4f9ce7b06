//! A write on one node to a watcher on another node, beside the bare client's publish, receive and HGETALL.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use layered_session::{KeyRing, Session, Sessions, tier::BoxError};
use redis::{Value, aio::MultiplexedConnection};
use tokio::runtime::{Builder, Runtime};

use super::{
    bare::{Bare, Captured, client, cmd, connection},
    proxy::Proxy,
    report::{self, Samples},
    site::{Act, Browser, Count, FIRST, follow, redis_node},
};

/// A channel in which no node listens, with a name as long as that of the nodes.
const CHANNEL: &str = "bare:n";

/// The time from the write until the watcher has the value.
pub(crate) fn print(port: u16, rounds: usize) -> Result<(), BoxError> {
    let here = Builder::new_current_thread().enable_all().build()?;
    let proxy = Proxy::start(port)?;
    let keys = KeyRing::generate()?;
    let node = redis_node(&keys, port)?;
    let (ours, bare_connection, captured) = here.block_on(async {
        let captured = Captured::of_new_session(&redis_node(&keys, proxy.port())?, &proxy).await?;
        Ok::<_, BoxError>((Browser::after(&node, &[Act::Begin]).await?, connection(port).await?, captured))
    })?;
    let mut bare = here.block_on(Bare::new(&bare_connection, &captured.set))?.channel(CHANNEL);
    let session = here.block_on(ours.clone().visit(&node, Act::Nothing))?;
    let [watched, received] = listen(port, keys, ours, captured.key().to_vec())?;

    let mut samples: [Samples; 2] = Default::default();
    let mut writes = Samples::default();
    for round in 0..rounds + rounds / 10 {
        for turn in 0..2 {
            let subject = (round + turn) % 2;
            let start = Instant::now();
            let arrived = match subject {
                0 => {
                    let value = FIRST + 1 + round as u64;
                    here.block_on(session.set(Count(value)))?;
                    writes.push(start.elapsed().as_nanos() as f64 / 1e3);
                    loop {
                        match watched.recv_timeout(PATIENCE)? {
                            (at, seen) if seen == value => break at,
                            _ => {}
                        }
                    }
                }
                _ => {
                    here.block_on(bare.commit())?;
                    received.recv_timeout(PATIENCE)?.0
                }
            };
            if round >= rounds / 10 {
                samples[subject].push(arrived.duration_since(start).as_nanos() as f64 / 1e3);
            }
            // The listeners wait again.
            thread::sleep(Duration::from_micros(100));
        }
    }
    report::title("a write on one node to a watcher on another, us");
    let [ours, bare] = &mut samples;
    for (name, share, goal) in [("median", 0.5, None), ("p90", 0.9, None), ("p99", 0.99, Some(1.5))] {
        let name = format!("handle.set to a watch's value / script, receive, HGETALL, {name}");
        report::compare(&name, ours.quantile(share), bare.quantile(share), goal);
    }
    report::figure("of these the write itself, median", writes.median());
    Ok(())
}

const PATIENCE: Duration = Duration::from_secs(10);

/// The times at which a listener had a value.
type Arrivals = Receiver<(Instant, u64)>;

/// Starts a thread with a node that watches a session, and with a bare subscriber. Returns once both listen.
fn listen(port: u16, keys: KeyRing, mut ours: Browser, bare: Vec<u8>) -> Result<[Arrivals; 2], BoxError> {
    let ([watch, receive], [watched, received]) = {
        let ((watch, watched), (receive, received)) = (channel(), channel());
        ([watch, receive], [watched, received])
    };
    let there: Runtime = Builder::new_current_thread().enable_all().build()?;
    let node = redis_node(&keys, port)?;
    let (session, subscriber, reads) = there.block_on(async {
        follow(&node).await;
        let session = ours.visit(&node, Act::Nothing).await?;
        let mut subscriber = client(port)?.get_async_pubsub().await?;
        subscriber.subscribe(CHANNEL).await?;
        Ok::<_, BoxError>((session, subscriber, connection(port).await?))
    })?;
    thread::spawn(move || {
        // The node lives as long as its watch.
        there.block_on(futures_util::future::join(
            watch_values((node, session), watch),
            receive_messages(subscriber, reads, bare, receive),
        ));
    });
    // The first value of the watch, which waits for no notice.
    watched.recv_timeout(PATIENCE)?;
    Ok([watched, received])
}

async fn watch_values((_node, session): (Sessions, Session), arrivals: Sender<(Instant, u64)>) {
    let mut values = session.watch::<Count>();
    while let Some(Count(value)) = values.next().await {
        if arrivals.send((Instant::now(), value)).is_err() {
            return;
        }
    }
}

async fn receive_messages(
    mut subscriber: redis::aio::PubSub,
    mut reads: MultiplexedConnection,
    key: Vec<u8>,
    arrivals: Sender<(Instant, u64)>,
) {
    let mut messages = subscriber.on_message();
    while messages.next().await.is_some() {
        let read: redis::RedisResult<Value> = cmd(&[&b"HGETALL"[..], &key]).query_async(&mut reads).await;
        if read.is_err() || arrivals.send((Instant::now(), 0)).is_err() {
            return;
        }
    }
}
