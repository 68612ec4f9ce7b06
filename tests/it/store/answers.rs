//! The store's answers, and what memory knows: lost records, clears on another node, refusals, writes under way.

use layered_session::{
    Principal, Session, SharedTier, WriteErrorKind,
    testing::{Operation, SpyStore},
    tier::StoreErrorKind,
};

use crate::{
    support::{App, Division, Theme, User, Visits, dark, get, kind, set, settled, signed_in, under_way},
    writes::stored,
};

// G8: the store has lost a user's record, and memory knows a version above the store's clock. The next write still
// wins.
#[tokio::test]
async fn write_wins_after_store_loses_record() {
    let (store, app) = (SpyStore::new(), App::new());
    let node = app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
    let mut browser = signed_in(&node, "ada").await;
    set(&mut browser, &node, Division(1)).await;
    // A job's record has no cookie that could bring a value back.
    let job = node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    for _ in 0..9 {
        job.set(Division(2)).await.unwrap();
    }
    store.forget_records();
    job.set(Division(3)).await.unwrap();
    assert_eq!(job.get::<Division>(), Some(Division(3)));
}

// G8: the store has made the write before the clear, and the answer to the write comes last.
#[tokio::test]
async fn late_answer_restores_no_cleared_value() {
    let (store, app) = stored();
    let browser = app.dark().await;
    let [writer, clearer] = [under_way(&browser, &app.node).await, under_way(&browser, &app.node).await];
    store.hold_answers(Operation::Update);
    let clear = async {
        settled().await;
        clearer.clear().await.unwrap();
        store.release();
    };
    let (written, ()) = futures_util::future::join(writer.set(Visits(5)), clear).await;
    assert_eq!(kind(written), None);
    for session in [&writer, &under_way(&browser, &app.start()).await] {
        assert_eq!(session.get::<Visits>(), None);
    }
}

// G12: another node wrote a value that this node has not seen.
#[tokio::test]
async fn clear_removes_values_unseen_by_its_node() {
    let (_, app) = stored();
    let mut browser = app.dark().await;
    set(&mut browser.clone(), &app.start(), Visits(5)).await;
    browser.visit(&app.node, async |session| session.clear().await.unwrap()).await;
    let seen = async |session: Session| (session.get::<Theme>(), session.get::<Visits>());
    assert_eq!(browser.visit(&app.start(), seen).await, (None, None));
}

#[tokio::test]
async fn clear_keeps_the_signed_in_user() {
    let (_, app) = stored();
    let mut browser = signed_in(&app.node, "ada").await;
    set(&mut browser, &app.node, Theme("dark".into())).await;
    browser.visit(&app.node, async |session| session.clear().await.unwrap()).await;
    assert_eq!(browser.visit(&app.start(), async |s| s.get::<User>()).await, Some(User("ada".into())));
    assert_eq!(get::<Theme>(&mut browser, &app.start()).await, Theme::default());
}

#[tokio::test]
async fn clear_of_a_user_reaches_other_nodes() {
    let (_, app) = stored();
    let ada = || Principal::new("ada");
    let job = app.node.sessions.for_principal(ada()).await.unwrap();
    job.clear().await.unwrap();
    let other = app.start();
    let remote = other.sessions.for_principal(ada()).await.unwrap();
    remote.set(Division(5)).await.unwrap();
    job.clear().await.unwrap();
    let fresh = app.start();
    assert_eq!(fresh.sessions.for_principal(ada()).await.unwrap().get::<Division>(), None);
}

// The store has surely not made a refused write, so memory need not ask again.
#[tokio::test]
async fn refused_write_names_the_cause_and_leaves_no_doubt() {
    let refusals = [
        (StoreErrorKind::Full, "the shared store `spy` is full", 0),
        (StoreErrorKind::ReadOnly, "takes no writes", 0),
        (StoreErrorKind::Loading, "starting", 0),
        (StoreErrorKind::NotAsked, "is not asked", 0),
        (StoreErrorKind::Timeout, "in time", 1),
        (StoreErrorKind::Link, "reached", 1),
    ];
    for (refusal, text, reads) in refusals {
        let (store, app) = stored();
        let browser = app.dark().await;
        let session = under_way(&browser, &app.node).await;
        store.fail_as(refusal);
        let error = session.set(Visits(1)).await.unwrap_err();
        assert_eq!(error.kind(), WriteErrorKind::Unavailable);
        assert!(error.to_string().contains(text), "{error}");
        store.heal();
        store.take_operations();
        assert_eq!(browser.theme(&app.node).await, dark());
        assert_eq!(store.take_operations(), vec![Operation::Read; reads], "{refusal:?}");
    }
}

// G4: no caller knows of the write before the store's answer.
#[tokio::test]
async fn write_under_way_makes_no_request_ask_the_store() {
    let (store, app) = stored();
    let mut browser = app.dark().await;
    let session = under_way(&browser, &app.node).await;
    store.hold_answers(Operation::Update);
    let write = tokio::spawn(async move { session.set(Visits(1)).await });
    settled().await;
    store.take_operations();
    for _ in 0..50 {
        assert_eq!(browser.theme(&app.node).await, dark());
    }
    assert_eq!(store.take_operations(), []);
    store.release();
    write.await.unwrap().unwrap();
    assert_eq!(get::<Visits>(&mut browser, &app.node).await, Visits(1));
}
