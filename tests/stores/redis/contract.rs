//! The contract of a store, over two connections.

use layered_session::{RedisStore, TokioClock, testing::conformance::Suite};

use super::server::server;

#[tokio::test]
async fn store_keeps_its_contract() {
    let Some(server) = server() else { return };
    let [store, other] = [0; 2].map(|_| RedisStore::new(server.url()).unwrap());
    Suite::new(&store, TokioClock::default()).beside(&other).run().await.unwrap();
}
