//! `RedisStore` over real servers.
//!
//! | file | behaviour |
//! |---|---|
//! | `contract` | the rules of `testing::conformance` |
//! | `faults` | a killed, a paused and a full server; scripts that the server has forgotten |
//! | `two_nodes` | random programs on two nodes, against a plain reference |
//! | `cluster` | nodes of a Redis cluster |

use layered_session::{
    CookieTier, KeyRing, MemoryTier, Placement, Principal, RedisStore, Scope, Session, SessionValue, Sessions,
    SharedTier,
};
use serde::{Deserialize, Serialize};

use self::server::Server;
use crate::port;

mod cluster;
mod contract;
mod faults;
pub(crate) mod server;
mod two_nodes;

/// A count of a user, without a copy in the browser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Visits(u32);

impl SessionValue for Visits {
    const NAME: &'static str = "visits";
    const SCOPE: Scope = Scope::Principal;
    const PLACEMENT: Placement = Placement::Server;
}

/// A count of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Stock(u32);

impl SessionValue for Stock {
    const NAME: &'static str = "stock";
}

/// Starts a node with the keys of the other nodes, and with a memory and a connection of its own.
fn node(server: &Server, ring: &KeyRing) -> Sessions {
    Sessions::builder()
        .tier(MemoryTier::builder().build())
        .tier(CookieTier::sealed(ring.clone()))
        .tier(SharedTier::new(RedisStore::new(server.url()).unwrap()))
        .value::<Visits>()
        .value::<Stock>()
        .build()
        .unwrap()
}

fn ring() -> KeyRing {
    KeyRing::generate().unwrap()
}

/// Loads a user's values on a node.
async fn ada(node: &Sessions) -> Session {
    node.for_principal(Principal::new("ada")).await.unwrap()
}
