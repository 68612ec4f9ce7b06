//! Panics in application code: afterwards no lock is held, no value is lost, and no memory leaks.

use std::{
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::FutureExt;
use layered_session::{Principal, Session, SessionValue, SharedTier, testing::SpyStore};
use serde::{Deserialize, Serialize};

use crate::support::{
    App, Browser, DAY, Division, Node, Theme, User, Visits, bring, chain, cookie, first_write, memory,
};

/// A value whose validation panics on the text `bad`, if the test sets the flag.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Brittle(String);

static BRITTLE: AtomicBool = AtomicBool::new(false);

impl SessionValue for Brittle {
    const NAME: &'static str = "brittle";

    fn validate(&self) -> Result<(), layered_session::tier::BoxError> {
        assert!(!BRITTLE.load(Ordering::SeqCst), "told to panic");
        Ok(())
    }
}

/// A node whose `identify_by` panics, if the test sets the flag.
fn node(app: &App, panics: &Arc<AtomicBool>, store: Option<&SpyStore>) -> Node {
    let panics = Arc::clone(panics);
    let mut sessions = chain(memory(), cookie(&app.ring), &app.clock);
    if let Some(store) = store {
        sessions = sessions.tier(SharedTier::new(store.clone()));
    }
    let sessions =
        sessions.value::<Theme>().value::<Division>().value::<Brittle>().value::<Visits>().identify_by::<User>(
            move |user| {
                assert!(!panics.load(Ordering::SeqCst), "told to panic");
                Some(Principal::new(&user.0))
            },
        );
    Node::new(sessions.build().unwrap())
}

async fn panics<T>(request: impl Future<Output = T>) -> bool {
    AssertUnwindSafe(request).catch_unwind().await.is_err()
}

/// Asserts that memory is empty after the end of every session.
fn assert_nothing_leaks(app: &App, node: &Node) {
    let mut sweeper = pin!(node.sessions.sweeper());
    for _ in 0..3 {
        assert!(sweeper.as_mut().now_or_never().is_none());
        app.clock.advance(40 * DAY);
    }
    assert!(sweeper.as_mut().now_or_never().is_none());
    let stats = node.sessions.stats();
    assert_eq!((stats.records, stats.bytes), (0, 0), "{stats:?}");
}

#[tokio::test]
async fn panicking_identify_by_leaks_no_record() {
    for stored in [false, true] {
        let (app, panicking, store) = (App::new(), Arc::new(AtomicBool::new(false)), SpyStore::new());
        let store = stored.then_some(&store);
        let (here, there) = (node(&app, &panicking, store), node(&app, &panicking, store));
        let mut browser = Browser::new();
        let sign_in = async |session: Session| {
            session.sign_in(User("ada".into())).await.unwrap();
            session.set(Division(4)).await.unwrap();
        };
        browser.visit(&there, sign_in).await;
        // The response with the cookie is lost, so the page has only the relay token of the open handle.
        let signed = async move |session: Session| {
            sign_in(session.clone()).await;
            session
        };
        let live = Browser::new().visit(&there, signed).await;
        let token = live.relay().unwrap();
        drop(live);

        panicking.store(true, Ordering::SeqCst);
        assert!(panics(browser.clone().visit(&here, async |session| session.principal())).await);
        assert!(panics(bring(&mut Browser::new(), &here, token.as_str())).await, "stored: {stored}");
        assert!(panics(Browser::new().visit(&here, async |s| s.sign_in(User("ada".into())).await)).await);
        panicking.store(false, Ordering::SeqCst);

        let user = browser.clone().visit(&here, async |session| session.principal()).await;
        assert_eq!(user, Some(Principal::new("ada")), "the next request is served");
        // The page does not bring the token again: another delivery would account for a leaked record, and hide the
        // leak.
        assert_nothing_leaks(&app, &here);
    }
}

#[tokio::test]
async fn panicking_validation_leaks_no_record() {
    let (app, calm) = (App::new(), Arc::new(AtomicBool::new(false)));
    let (here, there) = (node(&app, &calm, None), node(&app, &calm, None));
    let mut browser = first_write(&there, Brittle("one".into())).await;
    browser.visit(&here, async |session| session.value::<Brittle>()).await;
    browser.visit(&there, async |session| session.set(Brittle("two".into())).await.unwrap()).await;
    BRITTLE.store(true, Ordering::SeqCst);
    assert!(panics(browser.clone().visit(&here, async |session| session.value::<Theme>())).await);
    assert!(panics(Browser::new().visit(&here, async |s| s.set(Brittle("three".into())).await)).await);
    BRITTLE.store(false, Ordering::SeqCst);
    let seen = browser.visit(&here, async |session| session.value::<Brittle>()).await;
    assert_eq!(seen, Brittle("two".into()));
    assert_nothing_leaks(&app, &here);
}
