//! An application on loopback that records the heads of its requests.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    extract::{
        Path, Request, State,
        ws::{CloseFrame, Message, WebSocketUpgrade},
    },
    http::{HeaderMap, HeaderName},
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::{any, get},
};
use layered_session::{
    CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionValue, SessionWriteback, Sessions,
    SessionsBuilder, WriteError,
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::AbortHandle};

use crate::Result;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Note(String);

impl SessionValue for Note {
    const NAME: &'static str = "note";
}

/// The application, which stops when its owner drops the value.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<HeaderMap>>>,
    server: AbortHandle,
}

impl App {
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with(|sessions| sessions).await
    }

    pub(crate) async fn start_with(settings: impl FnOnce(SessionsBuilder) -> SessionsBuilder) -> Result<Self> {
        let sessions = Sessions::builder()
            .tier(MemoryTier::builder().build())
            .tier(CookieTier::sealed(KeyRing::generate()?).name("session").plain_http())
            .value::<Note>();
        let sessions = settings(sessions).build()?;
        let seen = Arc::<Mutex<Vec<HeaderMap>>>::default();
        let app = Router::new()
            .route("/note", get(async |session: Session| session.value::<Note>().0))
            .route("/note/{text}", get(set))
            .route("/fill", get(fill))
            .route("/forget", get(async |session: Session| session.destroy().await))
            .route("/live", any(live))
            .route("/static", get(async || "static"))
            .nest_service("/session", SessionWriteback::new(&sessions).allow::<Note>()?)
            .layer(LayeredSessionLayer::new(sessions))
            .layer(from_fn_with_state(Arc::clone(&seen), note_head));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(axum::serve(listener, app).into_future()).abort_handle();
        Ok(Self { address, seen, server })
    }

    /// Returns the values of a header in all requests so far.
    pub(crate) fn seen(&self, name: &str) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let name = HeaderName::try_from(name).expect("a header's name");
        seen.iter().flat_map(|head| head.get_all(&name)).map(|value| format!("{value:?}")).collect()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn note_head(State(seen): State<Arc<Mutex<Vec<HeaderMap>>>>, request: Request, next: Next) -> Response {
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.headers().clone());
    next.run(request).await
}

async fn set(session: Session, Path(text): Path<String>) -> Result<String, WriteError> {
    session.set(Note(text.clone())).await?;
    Ok(text)
}

/// Writes the longest note that fits the cookie, and answers with the note's length.
async fn fill(session: Session) -> Result<String, WriteError> {
    let mut room = 8_192;
    while session.set(Note("x".repeat(room))).await.is_err() {
        room -= 16;
    }
    Ok(room.to_string())
}

/// Sends the session's close reason over the socket, or the note.
async fn live(session: Session, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async move |mut socket| {
        let mut notes = session.watch::<Note>();
        let message = tokio::select! {
            biased;
            reason = session.closed() => {
                Message::Close(Some(CloseFrame { code: reason.close_code(), reason: reason.to_string().into() }))
            }
            note = notes.next() => Message::text(note.unwrap_or_default().0),
        };
        if socket.send(message).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    })
}
