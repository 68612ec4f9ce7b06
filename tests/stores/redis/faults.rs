//! Servers that are killed, paused or full, or that forget their scripts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use layered_session::{Session, WriteError, WriteErrorKind, testing, tier::StoreErrorKind};
use tokio::time::{sleep, timeout};

use super::{
    Stock, Visits, ada, node, ring,
    server::{server, server_with},
};

/// The cause of a failed write.
fn cause(error: &WriteError) -> Option<StoreErrorKind> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<layered_session::TierError>().map(|error| error.kind())
}

/// Repeats a write until the store takes the write again.
async fn recover(session: &Session, visits: u32) {
    let begin = Instant::now();
    while session.set(Visits(visits)).await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(10), "the node finds no way back to the server");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_server_loses_no_acknowledged_update() {
    let Some(mut server) = server_with(&["--appendonly", "yes", "--appendfsync", "no"]) else { return };
    let ring = ring();
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for _ in 0..4 {
        let (node, stop) = (node(&server, &ring), Arc::clone(&stop));
        writers.push(tokio::spawn(async move {
            let (mut acknowledged, mut failed) = (0, 0);
            let session = loop {
                match node.for_principal(layered_session::Principal::new("ada")).await {
                    Ok(session) => break session,
                    Err(_) => sleep(Duration::from_millis(5)).await,
                }
            };
            while !stop.load(Ordering::Relaxed) {
                match session.update(|visits: &mut Visits| visits.0 += 1).await {
                    Ok(_) => acknowledged += 1,
                    Err(_) => {
                        failed += 1;
                        sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            (acknowledged, failed)
        }));
    }
    for _ in 0..3 {
        sleep(Duration::from_millis(200)).await;
        tokio::task::block_in_place(|| {
            server.kill();
            server.start();
        });
    }
    // Past the delay of the next attempt to connect.
    sleep(Duration::from_millis(1500)).await;
    stop.store(true, Ordering::Relaxed);
    let (mut acknowledged, mut failed) = (0, 0);
    for writer in writers {
        let (ok, err) = writer.await.unwrap();
        (acknowledged, failed) = (acknowledged + ok, failed + err);
    }
    let Visits(stored) = ada(&node(&server, &ring)).await.value();
    assert!(failed > 0 && acknowledged > 100, "{acknowledged} {failed}");
    let possible = acknowledged..=acknowledged + failed;
    assert!(possible.contains(&stored), "{stored} of {acknowledged} acknowledged and {failed} failed updates");
}

#[tokio::test]
async fn restarted_server_fails_no_read() {
    let Some(mut server) = server_with(&["--appendonly", "yes", "--appendfsync", "no"]) else { return };
    let (node, cold) = (node(&server, &ring()), node(&server, &ring()));
    ada(&node).await.set(Visits(1)).await.unwrap();
    // The cold node has a connection, and no record.
    cold.for_principal(layered_session::Principal::new("eve")).await.unwrap();
    server.kill();
    server.start();
    assert_eq!(ada(&cold).await.value::<Visits>(), Visits(1));
}

#[tokio::test]
async fn paused_server_fails_calls_in_time() {
    let Some(server) = server() else { return };
    let ring = ring();
    let node = node(&server, &ring);
    let session = ada(&node).await;
    session.set(Visits(1)).await.unwrap();
    server.pause();
    let dropped = timeout(Duration::from_millis(200), session.set(Visits(2))).await;
    assert!(!matches!(dropped, Ok(Ok(()))), "a paused server answers nothing");
    let begin = Instant::now();
    let error = session.set(Visits(3)).await.unwrap_err();
    assert_eq!(error.kind(), WriteErrorKind::Unavailable);
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    server.resume();
    recover(&session, 4).await;
    assert_eq!(ada(&super::node(&server, &ring)).await.value::<Visits>(), Visits(4));
}

#[tokio::test]
async fn full_server_takes_sign_outs() {
    let Some(server) = server() else { return };
    let node = node(&server, &ring());
    let session = testing::session(&node).with(Stock(1)).await.unwrap();
    let other = testing::session(&node).await.unwrap();
    server.fill();
    for error in [session.set(Stock(2)).await.unwrap_err(), other.set(Stock(2)).await.unwrap_err()] {
        assert_eq!(cause(&error), Some(StoreErrorKind::Full), "{error}");
    }
    assert_eq!(session.value::<Stock>(), Stock(1));
    session.remove::<Stock>().await.unwrap();
    session.clear().await.unwrap();
    session.destroy().await.unwrap();
    assert_eq!(session.set(Stock(3)).await.unwrap_err().kind(), WriteErrorKind::Closed);
}

#[tokio::test]
async fn forgotten_scripts_are_loaded_again() {
    let Some(server) = server() else { return };
    let ring = ring();
    let session = ada(&node(&server, &ring)).await;
    for visits in 1..4 {
        server.run::<()>("SCRIPT FLUSH");
        session.set(Visits(visits)).await.unwrap();
    }
    assert_eq!(ada(&node(&server, &ring)).await.value::<Visits>(), Visits(3));
}
