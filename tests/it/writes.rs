//! Writes of values.
//!
//! - `acceptance`: the writes that are accepted or refused
//! - `concurrent`: many writers at the same time
//! - `in_flight`: writes that wait for a store, or are dropped
//! - `threads`: counters under threads that renew, expire and evict
//! - `removals`: removed values, and how long a removal is remembered

mod acceptance;
mod concurrent;
mod in_flight;
mod removals;
mod threads;

use layered_session::{Placement, Session, SessionValue, SharedTier, testing::SpyStore};
use serde::{Deserialize, Serialize};

use crate::support::{App, Browser, Node, Visits};

/// A value on servers only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Note(String);

impl SessionValue for Note {
    const NAME: &'static str = "note";
    const PLACEMENT: Placement = Placement::Server;
}

pub(crate) async fn visits(browser: &Browser, node: &Node) -> Visits {
    browser.clone().visit(node, async |session| session.value::<Visits>()).await
}

pub(crate) async fn count(session: Session) {
    session.update(|visits: &mut Visits| visits.0 += 1).await.unwrap();
}

pub(crate) fn stored() -> (SpyStore, App) {
    let store = SpyStore::new();
    let shared = store.clone();
    (store, App::with(move |builder| builder.tier(SharedTier::new(shared.clone())).value::<Note>()))
}
