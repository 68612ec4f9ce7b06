//! Sessions loaded after the response head has left, and the writes that a chain without memory then refuses.

use std::sync::{Arc, Mutex};

use http::{Extensions, Request, Response, header};
use http_body_util::Full;
use layered_session::{
    LayeredSessionLayer, Lifetime, Principal, Session, SessionsBuilder, SharedTier, WriteErrorKind,
    testing::SpyStore,
    tier::{BoxError, Found, TierFuture},
};
use tokio::sync::Semaphore;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    App, Browser, DAY, Node, Theme, User, Visits, bare, bring, get, kind, named, set, signed_in, soon, source, theme,
    visitor,
};

const HEAD_SENT: Option<WriteErrorKind> = Some(WriteErrorKind::HeadSent);

/// Nodes with memory, without memory, with memory over a store, and without memory over a store.
/// Nodes with every combination of a memory tier and a shared store, each with whether the node has the two.
fn nodes(app: &App) -> [(Node, bool, bool); 4] {
    let values = |chain: SessionsBuilder| chain.value::<Theme>().value::<Visits>().identify_by::<User>(named);
    let without = || values(bare(&app.ring, &app.clock));
    [
        (app.start(), true, false),
        (Node::new(without().build().unwrap()), false, false),
        (app.start_with(|sessions| sessions.tier(SharedTier::new(SpyStore::new()))), true, true),
        (Node::new(without().tier(SharedTier::new(SpyStore::new())).build().unwrap()), false, true),
    ]
}

/// A request whose handler loads no session, and keeps the extensions past the response head, as a streaming body may.
async fn late(browser: &Browser, node: &Node, loads_before: bool) -> Extensions {
    let kept = Arc::new(Mutex::new(None));
    let keeping = Arc::clone(&kept);
    let service = service_fn(move |request: Request<Full<bytes::Bytes>>| {
        let keeping = Arc::clone(&keeping);
        async move {
            if loads_before {
                drop(Session::load(request.extensions()).await?);
            }
            *keeping.lock().unwrap() = Some(request.extensions().clone());
            Ok::<_, BoxError>(Response::new(()))
        }
    });
    let layered = LayeredSessionLayer::new(node.sessions.clone()).layer(service);
    let response = layered.oneshot(browser.request()).await.unwrap();
    assert_eq!(response.headers().get(header::VARY), None);
    kept.lock().unwrap().take().unwrap()
}

#[tokio::test]
async fn load_after_response_head_permits_no_renewal() {
    let app = App::new();
    for loads_before in [false, true] {
        for (node, has_memory, _) in nodes(&app) {
            for mut browser in [visitor(&node).await, Browser::new()] {
                let session = Session::load(&late(&browser, &node, loads_before).await).await.unwrap();
                let expected = if has_memory { None } else { HEAD_SENT };
                assert_eq!(kind(session.clone().set(Visits(7)).await), expected);
                assert_eq!(kind(session.update(|visits: &mut Visits| visits.0 += 1).await), expected);
                let lifetime = Lifetime::new(DAY, DAY).unwrap();
                assert_eq!(kind(session.set_lifetime(lifetime).await), expected);
                assert_eq!(kind(session.renew().await), HEAD_SENT);
                assert_eq!(kind(session.sign_in(User("ada".into())).await), HEAD_SENT);
                if has_memory {
                    let token = session.relay().expect("the browser lacks the visits");
                    assert_eq!(bring(&mut browser, &node, token.as_str()).await.status, 200);
                    assert_eq!(get::<Visits>(&mut browser, &node).await, Visits(8));
                }
            }
        }
    }
}

#[tokio::test]
async fn end_after_response_head_returns_removal_token() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let session = Session::from_extensions(&late(&browser, &node, false).await).unwrap();
    session.destroy().await.unwrap();
    let removal = session.relay().expect("no response removes the cookie");
    assert_eq!(bring(&mut browser, &node, removal.as_str()).await.status, 200);
    assert_eq!(browser.cookie("session"), None);
}

#[tokio::test]
async fn pending_or_dropped_load_sets_vary() {
    let app = App::new();
    let answers = Arc::new(Semaphore::new(1));
    let permits = Arc::clone(&answers);
    let slow = source("slow", move |_| {
        let permits = Arc::clone(&permits);
        TierFuture::boxed(async move {
            permits.acquire().await?.forget();
            Ok(Found::nothing())
        })
    });
    let node = app.start_with(|sessions| sessions.tier(slow));
    let browser = visitor(&node).await;
    for waits in [true, false] {
        let (out, handed_out) = tokio::sync::oneshot::channel();
        let out = Mutex::new(Some(out));
        let service = service_fn(move |request: Request<Full<bytes::Bytes>>| {
            let out = out.lock().unwrap().take().unwrap();
            let load = Session::load(request.extensions());
            async move {
                let load = tokio::spawn(load);
                crate::support::settled().await;
                if !waits {
                    load.abort();
                    crate::support::settled().await;
                }
                let _ = out.send(load);
                Ok::<_, BoxError>(Response::new(()))
            }
        });
        let layered = LayeredSessionLayer::new(node.sessions.clone()).layer(service);
        let response = layered.oneshot(browser.request()).await.unwrap();
        // A handler that did not get its session may answer as for a visitor: a cache must not give that answer to
        // others.
        assert_eq!(response.headers()[header::VARY], "cookie");
        if waits {
            answers.add_permits(1);
            let session = soon(handed_out.await.unwrap()).await.unwrap().unwrap();
            assert_eq!((session.value::<Theme>(), kind(session.renew().await)), (theme("light"), HEAD_SENT));
        }
    }
}

#[tokio::test]
async fn end_all_needs_memory_or_a_store() {
    let app = App::new();
    for (node, keeps_ends) in nodes(&app).into_iter().map(|(node, memory, store)| (node, memory || store)) {
        let mut browser = signed_in(&node, "ada").await;
        let turns = async |session: Session| {
            [session.end_other_sessions().await, session.end_all_sessions().await].map(|turn| kind(turn).is_none())
        };
        let end_all = node.sessions.end_all_sessions(Principal::new("eve")).await;
        assert_eq!(end_all.is_ok(), keeps_ends);
        if let Err(error) = end_all {
            assert!(error.to_string().contains("MemoryTier"), "the remedy: {error}");
        }
        assert_eq!(browser.visit(&node, turns).await, [keeps_ends; 2]);
        if !keeps_ends {
            set(&mut browser, &node, theme("dark")).await;
            let seen = async |session: Session| (session.principal(), session.value::<Theme>());
            assert_eq!(browser.visit(&node, seen).await, (Some(Principal::new("ada")), theme("dark")));
        }
    }
}
