//! Sessions without a server, over every kind of chain.

use axum::{Extension, Router, routing::get};
use http::{Method, Request};
use http_body_util::Full;
use layered_session::{
    CookieTier, MemoryTier, Principal, Session, Sessions, SessionsBuilder, SharedTier, WriteErrorKind,
    testing::{Operation, SpyStore, session},
};
use tower::ServiceExt;

use super::chain;
use crate::support::{Division, Theme, User, Visits, ring};

/// Every kind of chain: with memory or without, with a shared store or without.
fn chains() -> [SessionsBuilder; 4] {
    [
        chain(true),
        chain(false),
        chain(true).tier(SharedTier::new(SpyStore::new())),
        chain(false).tier(SharedTier::new(SpyStore::new())),
    ]
}

fn dark() -> Theme {
    Theme("dark".into())
}

fn ada() -> User {
    User("ada".into())
}

#[tokio::test]
async fn handle_has_prepared_values() {
    for sessions in chains() {
        let sessions = sessions.build().unwrap();
        let setup = || session(&sessions);
        for begun in [
            setup().with(dark()).with(Division(3)).signed_in(ada()),
            setup().signed_in(ada()).with(Division(3)).with(dark()),
        ] {
            let session = begun.await.unwrap();
            assert_eq!(session.principal(), Some(Principal::new("ada")));
            assert_eq!((session.value(), session.value()), (dark(), Division(3)));
            assert!(!session.is_new(), "an earlier request made the session");
        }
        let anonymous = setup().with(dark()).await.unwrap();
        assert_eq!((anonymous.principal(), anonymous.value()), (None, dark()));
        let visitor = setup().await.unwrap();
        assert!(visitor.is_new() && visitor.principal().is_none());
    }
}

#[tokio::test]
async fn handle_can_renew_and_sign_in() {
    for sessions in chains() {
        let sessions = sessions.build().unwrap();
        let handle = async || session(&sessions).with(dark()).await.unwrap();
        let renewed = handle().await;
        renewed.renew().await.unwrap();
        assert_eq!(renewed.value::<Theme>(), dark());
        let signed = handle().await;
        signed.sign_in(ada()).await.unwrap();
        assert_eq!(signed.principal(), Some(Principal::new("ada")));
        let destroyed = handle().await;
        destroyed.destroy().await.unwrap();
        assert_eq!(destroyed.get::<Theme>(), None);
        let visitor = session(&sessions).await.unwrap();
        visitor.set(dark()).await.unwrap();
        assert_eq!(visitor.value::<Theme>(), dark());
    }
}

#[tokio::test]
async fn identify_reads_prepared_request() {
    let identified = |memory: bool| {
        let builder = Sessions::builder();
        let builder = if memory { builder.tier(MemoryTier::builder().build()) } else { builder };
        let builder = builder.tier(CookieTier::sealed(ring())).value::<Division>();
        builder.identify(|head| {
            let named = head.headers.get("x-user").and_then(|name| name.to_str().ok());
            named.or_else(|| head.extensions.get::<&'static str>().copied()).map(Principal::new)
        })
    };
    for memory in [true, false] {
        let sessions = identified(memory).build().unwrap();
        let request = || Request::builder().header("x-user", "ada").body(()).unwrap();
        for begun in [
            session(&sessions).header("x-user", "ada"),
            session(&sessions).extension("ada"),
            session(&sessions).request(request()),
        ] {
            let session = begun.with(Division(3)).await.unwrap();
            assert_eq!((session.principal(), session.value()), (Some(Principal::new("ada")), Division(3)));
        }
        if memory {
            let bob = session(&sessions).extension("bob").await.unwrap();
            assert_eq!(bob.value::<Division>(), Division(-1));
            let ada = session(&sessions).extension("ada").await.unwrap();
            assert_eq!(ada.value::<Division>(), Division(3), "another browser of the user reads the value");
        }
    }
}

#[tokio::test]
async fn prepared_request_feeds_extractors() {
    let sessions = chain(true).resolve::<Visits>().build().unwrap();
    let routes = Router::new().route(
        "/page",
        get(async |session: Session, Extension(Visits(visits)): Extension<Visits>| {
            format!("{} {visits}", session.value::<Theme>().0)
        }),
    );
    let request = Request::get("/page").body(Full::<bytes::Bytes>::default()).unwrap();
    let setup = session(&sessions).with(dark()).with(Visits(2)).request(request);
    let response = routes.oneshot(setup.into_request().await.unwrap()).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert_eq!(body, "dark 2");
}

#[tokio::test]
async fn cross_site_request_begins_no_session() {
    let sessions = chain(true).build().unwrap();
    let request = || {
        let form = Request::builder().method(Method::POST).header("sec-fetch-site", "cross-site");
        form.header("origin", "https://evil.example").body(()).unwrap()
    };
    let refused = session(&sessions).request(request()).await.unwrap();
    assert_eq!(refused.set(dark()).await.unwrap_err().kind(), WriteErrorKind::Closed);
    let brought = session(&sessions).request(request()).with(dark()).await.unwrap();
    assert_eq!(brought.value::<Theme>(), dark(), "the values were written before");
}

#[tokio::test]
async fn failed_setup_names_cause() {
    let store = SpyStore::new();
    let sessions = chain(true).tier(SharedTier::new(store.clone())).build().unwrap();
    for (setup, message) in [
        (session(&sessions).with(Division(9)), "the values or the sign-in of the test's session failed: "),
        (session(&sessions).with(Visits(1)), "`visits` is not declared"),
        (
            session(&sessions).signed_in(Theme("ada".into())),
            "`theme` can't sign a user in: use the type that `identify_by` names",
        ),
        (session(&sessions).header("no name", "x"), "the request can't be built"),
    ] {
        let error = setup.await.unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    let browser = session(&sessions).with(dark()).into_request().await.unwrap();
    assert!(browser.headers().contains_key("cookie"));
    store.take_operations();
    store.fail();
    let cold = session(&sessions).with(dark()).await.unwrap_err().to_string();
    assert!(cold.contains("the shared store `spy` failed"), "{cold}");
    assert!(matches!(store.take_operations()[..], [Operation::Create]));
}
