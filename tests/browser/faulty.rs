//! A server that fails on purpose, with a page that has the hook and no other script.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use http_body_util::BodyExt;
use layered_session::{
    CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionValue, SessionWriteback, Sessions, WriteError,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{net::TcpListener, sync::Notify, task::AbortHandle};

use crate::Result;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Note(String);

impl SessionValue for Note {
    const NAME: &'static str = "note";
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Size(u8);

impl SessionValue for Size {
    const NAME: &'static str = "size";
}

/// The fate of one POST to the writeback.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The server answers with this status and does not read the POST.
    Status(u16),
    /// The connection breaks before the server reads the POST.
    Cut,
    /// The server stores the POST, and the connection breaks before the answer is complete.
    Lost,
    /// The POST waits for [`Faulty::release`].
    Held,
}

/// The server, which stops when its owner drops the value.
#[derive(Debug)]
pub(crate) struct Faulty {
    address: SocketAddr,
    faults: Arc<Faults>,
    server: AbortHandle,
}

#[derive(Debug, Default)]
struct Faults {
    coming: Mutex<VecDeque<Fault>>,
    bodies: Mutex<Vec<Value>>,
    release: Notify,
    /// Each open stream holds a clone.
    streams: Arc<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faulty {
    pub(crate) async fn start() -> Result<Self> {
        let sessions = Sessions::builder()
            .tier(MemoryTier::builder().build())
            .tier(CookieTier::sealed(KeyRing::generate()?).name("session").plain_http())
            .value::<Note>()
            .value::<Size>()
            .build()?;
        let faults = Arc::<Faults>::default();
        let writeback = SessionWriteback::new(&sessions).allow::<Note>()?.allow::<Size>()?;
        let writeback = writeback.heartbeat(Duration::from_secs(1))?;
        let asset = |kind: &'static str, text: &'static str| get(async move || ([(header::CONTENT_TYPE, kind)], text));
        let app = Router::new()
            .nest_service("/session", writeback)
            .layer(from_fn_with_state(Arc::clone(&faults), fail))
            .route("/", get(page))
            .route("/page.js", asset("text/javascript", include_str!("faulty.js")))
            .route("/renew", post(renew))
            .route("/destroy", post(destroy))
            .layer(LayeredSessionLayer::new(sessions));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(axum::serve(listener, app).into_future()).abort_handle();
        Ok(Self { address, faults, server })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the faults of the next POSTs.
    pub(crate) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.faults.coming).extend(faults);
    }

    /// Lets the held POST continue.
    pub(crate) fn release(&self) {
        self.faults.release.notify_one();
    }

    /// The number of open event streams.
    pub(crate) fn streams(&self) -> usize {
        Arc::strong_count(&self.faults.streams) - 1
    }

    /// The bodies of all POSTs so far, in the order of their arrival.
    pub(crate) fn posts(&self) -> Vec<Value> {
        lock(&self.faults.bodies).clone()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn page() -> impl IntoResponse {
    let policy = "default-src 'none'; script-src 'self'; connect-src 'self'";
    let html = r#"<!doctype html><title>hook</title><script type="module" src="/page.js"></script><body>"#;
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(html))
}

async fn renew(session: Session) -> Result<(), WriteError> {
    session.renew().await
}

async fn destroy(session: Session) -> Result<(), WriteError> {
    session.destroy().await
}

async fn fail(State(faults): State<Arc<Faults>>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        let stream = Arc::clone(&faults.streams);
        let held = move |frame| {
            let _ = &stream;
            frame
        };
        return next.run(request).await.map(|body| Body::new(body.map_frame(held)));
    }
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, 64 << 10).await else { return cut() };
    lock(&faults.bodies).push(serde_json::from_slice(&body).unwrap_or_default());
    let request = Request::from_parts(head, Body::from(body));
    let fault = lock(&faults.coming).pop_front();
    match fault {
        None => next.run(request).await,
        Some(Fault::Status(status)) => StatusCode::from_u16(status).unwrap_or_default().into_response(),
        Some(Fault::Cut) => cut(),
        Some(Fault::Lost) => {
            next.run(request).await;
            cut()
        }
        Some(Fault::Held) => {
            faults.release.notified().await;
            next.run(request).await
        }
    }
}

/// Builds a response whose body ends too early: the browser reports a network error.
fn cut() -> Response {
    let broken = futures_util::stream::iter([Ok("{"), Err("cut")]);
    ([(header::CONTENT_LENGTH, "1000")], Body::from_stream(broken)).into_response()
}
