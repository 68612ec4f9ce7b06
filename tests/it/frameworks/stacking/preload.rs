//! The extensions at the beginning of the handler: resolved values and sessions. The layer waits for both with a
//! preload, and not without.

use std::convert::Infallible;

use axum::{Extension, Router, body::Body, routing::get};
use http::{Extensions, Request, Response, header};
use http_body_util::BodyExt;
use layered_session::{
    DefaultTier, LayeredSessionLayer, MissingSessionKind, Principal, Session, Sessions,
    testing::ManualClock,
    tier::{Found, TierFuture},
};
use tower::{Layer, ServiceExt, service_fn};

use super::{darken, pages, send, sessions, theme};
use crate::support::{Browser, ScriptedSource, Theme, builder, chain, cookie, memory, nothing, ring, source};

/// A source whose answer takes a wait.
fn slow() -> ScriptedSource {
    source("slow", |_| {
        TierFuture::boxed(async {
            tokio::task::yield_now().await;
            Found::value(&Theme("slow".into()))
        })
    })
}

#[tokio::test]
async fn source_sees_head_except_in_jobs() {
    let asked = source("asked", |lookup| {
        let theme = lookup.head().and_then(|head| head.headers.get("x-theme")?.to_str().ok());
        theme.map_or_else(nothing, |theme| TierFuture::ready(Found::value(&Theme(theme.into()))))
    });
    let sessions = builder(&ring(), &ManualClock::new()).tier(asked).build().unwrap();
    let layer = LayeredSessionLayer::new(sessions.clone());
    for app in [pages().layer(layer.clone()), pages().layer(layer.preload())] {
        let request = Request::get("/").header("x-theme", "dark").body(Body::empty()).unwrap();
        let body = app.oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "dark");
    }
    let job = sessions.for_principal(Principal::new("ada")).await.unwrap();
    assert_eq!(job.value_source::<Theme>().tier(), "default");
}

fn resolving(waits: bool) -> Sessions {
    let builder = chain(memory(), cookie(&ring()), &ManualClock::new()).resolve::<Theme>();
    if waits { builder.tier(slow()).build().unwrap() } else { builder.tier(DefaultTier::new()).build().unwrap() }
}

async fn extension(theme: Option<Extension<Theme>>) -> String {
    theme.map_or_else(|| "none".into(), |Extension(Theme(theme))| theme)
}

#[tokio::test]
async fn extensions_contain_resolved_value() {
    let app = Router::new().route("/", get(extension).post(darken)).layer(LayeredSessionLayer::new(resolving(false)));
    let mut browser = Browser::new();
    let (_, headers, said) = send(&app, &mut browser, "GET", "/").await;
    assert_eq!((said.as_str(), headers.get(header::VARY).is_some()), ("", true));
    send(&app, &mut browser, "POST", "/").await;
    assert_eq!(send(&app, &mut browser, "GET", "/").await.2, "dark");
}

#[tokio::test]
async fn preload_waits_for_slow_values() {
    let layer = LayeredSessionLayer::new(resolving(true));
    let app = Router::new().route("/", get(extension).post(darken)).layer(layer.clone().preload());
    let mut browser = Browser::new();
    assert_eq!(send(&app, &mut browser, "GET", "/").await.2, "slow");
    send(&app, &mut browser, "POST", "/").await;
    assert_eq!(send(&app, &mut browser, "GET", "/").await.2, "dark");
    // Without the preload the layer does not wait, and a handler that asks for the session still gets the session.
    let app = Router::new().route("/", get(extension)).route("/session", get(theme)).layer(layer);
    assert_eq!(send(&app, &mut browser, "GET", "/").await.2, "none");
    assert_eq!(send(&app, &mut browser, "GET", "/session").await.2, "dark");
}

#[tokio::test]
async fn from_extensions_never_waits() {
    let seen = |sessions: Sessions| {
        let service = service_fn(async |request: Request<()>| {
            Ok::<_, Infallible>(Response::new(Session::from_extensions(request.extensions()).is_some()))
        });
        LayeredSessionLayer::new(sessions).layer(service).oneshot(Request::new(()))
    };
    assert!(seen(sessions()).await.unwrap().into_body());
    assert!(!seen(resolving(true)).await.unwrap().into_body());
    assert!(Session::from_extensions(&Extensions::new()).is_none());
    let missing = Session::load(&Extensions::new()).await.unwrap_err();
    assert_eq!(missing.kind(), MissingSessionKind::NoLayer);
}
