//! Nodes of a Redis cluster, each asked by a store of its own.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use layered_session::{
    Principal, RedisStore,
    tier::{Notice, Store},
};

use super::{
    Visits, node, ring,
    server::{Server, server_with},
};
use crate::port::free_port;

/// Starts three nodes, which share the slots.
fn cluster() -> Option<[Server; 3]> {
    let start = || {
        let bus = free_port().to_string();
        server_with(&["--cluster-enabled", "yes", "--cluster-port", &bus])
    };
    let servers = [start()?, start()?, start()?];
    let first = &servers[0];
    for (server, slots) in servers.iter().zip(["0 5460", "5461 10922", "10923 16383"]) {
        server.run::<()>(&format!("CLUSTER ADDSLOTSRANGE {slots}"));
        let bus: HashMap<String, String> = server.run("CONFIG GET cluster-port");
        first.run::<()>(&format!("CLUSTER MEET 127.0.0.1 {} {}", server.port(), bus["cluster-port"]));
    }
    let begin = Instant::now();
    let is_ready = |server: &Server| {
        let info: String = server.run("CLUSTER INFO");
        info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
    };
    while !servers.iter().all(is_ready) {
        assert!(begin.elapsed() < Duration::from_secs(30), "the nodes form no cluster");
        thread::sleep(Duration::from_millis(50));
    }
    Some(servers)
}

#[tokio::test]
async fn cluster_node_serves_its_slots_and_notices_reach_all() {
    let Some([here, there, _other]) = cluster() else { return };
    let mut notices = RedisStore::new(there.url()).unwrap().notices().unwrap();
    assert_eq!(notices.next().await, Some(Notice::Up));
    let (node, ring) = (node(&here, &ring()), ring());
    let (mut served, mut moved) = (0, 0);
    for user in 0..24_u32 {
        match node.for_principal(Principal::new(user)).await {
            Ok(session) => {
                session.set(Visits(user)).await.unwrap();
                served += 1;
                let cold = super::node(&here, &ring);
                let session = cold.for_principal(Principal::new(user)).await.unwrap();
                assert_eq!(session.value::<Visits>(), Visits(user));
                let notice = notices.next().await;
                assert!(matches!(notice, Some(Notice::Changed { .. })), "{notice:?}");
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).unwrap().to_string();
                assert!(cause.starts_with("MOVED") && !error.may_be_applied(), "{cause}");
                moved += 1;
            }
        }
    }
    assert!(served > 0 && moved > 0, "{served} {moved}");
}
