//! The socket: one socket per page, for all views. The socket follows each change of the division, also from other
//! tabs, and ends with the session.

use std::{error::Error, time::Duration};

use axum::{
    body::Bytes,
    extract::{
        State,
        ws::{CloseCode, CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code},
    },
    response::Response,
};
use layered_session::{RelayToken, Session, SessionValue, WriteError, WriteErrorKind, tier::BoxError};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, interval, timeout},
};

use crate::{
    values::{CurrentUser, Division},
    views::{self, View},
};

/// The interval of the server's heartbeats. Each heartbeat tells the page this interval. Either side closes a
/// connection that is silent for two and a half intervals.
const HEARTBEAT: Duration = Duration::from_secs(8);
const SILENCE: Duration = Duration::from_secs(20);
/// The longest frame, far longer than any frame of the page.
const FRAME_BYTES: usize = 16 << 10;
/// The read buffer of a socket. The library's own takes 128 KiB for each socket, which is 670 MB for 5,000 pages. The
/// server reads a frame that is longer than the buffer in pieces.
const READ_BUFFER: usize = 4 << 10;
/// The longest wait for a send. A browser that stops reading would otherwise keep its socket past a sign-out, since the
/// server does not poll `closed()` while a send waits.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum FromPage {
    /// The view of a new connection. A reconnection is no act of a person, and does not count as a use of the
    /// session.
    Show {
        view: View,
    },
    Navigate {
        view: View,
    },
    SwitchDivision {
        id: Division,
    },
    Login {
        user: String,
    },
    Logout,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum ToPage {
    Heartbeat { milliseconds: u128 },
    Division(Status),
    View { view: View, html: String },
    StoreSession { relay: String, values: serde_json::Value },
    Error { message: String },
}

/// The division and the facts that the page shows about the division.
#[derive(Serialize)]
pub(crate) struct Status {
    #[serde(rename = "id")]
    pub(crate) division: Division,
    pub(crate) tier: &'static str,
    pub(crate) user: Option<String>,
    /// Whether the socket has a session. A socket without a session does not see a session that begins in another tab.
    session: bool,
}

impl Status {
    pub(crate) fn of(session: &Session) -> Self {
        Self {
            division: session.value(),
            tier: session.value_source::<Division>().tier(),
            user: session.get::<CurrentUser>().map(|user| user.name),
            session: session.created_at().is_some(),
        }
    }
}

pub(crate) async fn upgrade(
    State(open): State<mpsc::Sender<()>>,
    session: Session,
    upgrade: WebSocketUpgrade,
) -> Response {
    let upgrade = upgrade.read_buffer_size(READ_BUFFER).max_message_size(FRAME_BYTES).max_frame_size(FRAME_BYTES);
    upgrade.on_upgrade(async move |mut socket| {
        if let Err(error) = converse(&mut socket, &session).await {
            tracing::debug!(error, "a socket failed");
        }
        drop(open);
    })
}

async fn converse(socket: &mut WebSocket, session: &Session) -> Result<(), BoxError> {
    let mut divisions = session.watch::<Division>(); // the present division first, then each change from anywhere
    let mut heartbeat = interval(HEARTBEAT);
    let mut heard = Instant::now();
    let mut view = None;
    loop {
        tokio::select! {
            biased; // no values after the end of the session
            reason = session.closed() => return close(socket, reason.close_code(), &reason.to_string()).await,
            Some(id) = divisions.next() => {
                send(socket, ToPage::Division(Status::of(session))).await?;
                if let Some(view) = view {
                    send(socket, ToPage::View { view, html: views::render(view, id) }).await?;
                }
            }
            _ = heartbeat.tick() => {
                if heard.elapsed() >= SILENCE {
                    return Err("the browser has gone silent".into());
                }
                timeout(PATIENCE, socket.send(Message::Ping(Bytes::new()))).await??;
                send(socket, ToPage::Heartbeat { milliseconds: HEARTBEAT.as_millis() }).await?;
            }
            frame = socket.recv() => {
                heard = Instant::now();
                let text = match frame {
                    Some(Ok(Message::Text(text))) => text,
                    Some(Ok(Message::Binary(_))) => {
                        refuse(socket, "frames are text here").await?;
                        continue;
                    }
                    Some(Ok(_)) => continue, // axum answers pings and the closing handshake by itself
                    // The frame is too large, or no WebSocket frame at all: the server can't read later frames.
                    Some(Err(error)) => {
                        refuse(socket, error.to_string()).await?;
                        return close(socket, close_code::SIZE, "a frame was not readable").await;
                    }
                    None => return Ok(()), // the browser has left
                };
                match serde_json::from_str(&text) {
                    Ok(FromPage::Show { view: next }) => {
                        view = Some(next);
                        let html = views::render(next, session.value::<Division>());
                        send(socket, ToPage::View { view: next, html }).await?;
                    }
                    Ok(FromPage::Navigate { view: next }) => {
                        session.touch().await.ok(); // an ended session ends the loop through `closed()`
                        view = Some(next);
                        let html = views::render(next, session.value::<Division>());
                        send(socket, ToPage::View { view: next, html }).await?;
                        // The browser drops its cookie at the cookie's end, even while the socket is in use: the relay
                        // token brings a cookie with a later end.
                        if let Some(relay) = session.relay() {
                            bring(socket, &relay, json!({})).await?;
                        }
                    }
                    Ok(FromPage::SwitchDivision { id }) => match session.set(id).await {
                        Ok(()) => store(socket, session, id).await?,
                        Err(error) => {
                            refuse(socket, reason_of(&error)).await?;
                            if error.kind() == WriteErrorKind::Closed {
                                return close(socket, close_code::POLICY, &error.to_string()).await;
                            }
                        }
                    },
                    // No later response could carry a cookie: the page brings the sign-in to the writeback. The example
                    // has no password; an application checks the password here.
                    Ok(FromPage::Login { user }) => match session.sign_in(CurrentUser { name: user }).by_page() {
                        Ok(order) => bring(socket, &order, json!({})).await?,
                        Err(error) => refuse(socket, reason_of(&error)).await?,
                    },
                    // The session ends at once, and the page brings the removal of the cookie to the writeback.
                    Ok(FromPage::Logout) => match session.sign_out().await {
                        Ok(()) => if let Some(removal) = session.relay() {
                            bring(socket, &removal, json!({})).await?;
                        },
                        Err(error) => refuse(socket, reason_of(&error)).await?,
                    },
                    Err(error) => refuse(socket, error.to_string()).await?,
                }
            }
        }
    }
}

/// Sends the relay token of the write. No response head follows that could carry a cookie, so the page's hook takes the
/// sealed changes to the writeback instead. Without a relay token, the browser holds this write already.
async fn store(socket: &mut WebSocket, session: &Session, id: Division) -> Result<(), BoxError> {
    let Some(relay) = session.relay() else { return Ok(()) };
    bring(socket, &relay, json!({ (Division::NAME): id })).await
}

async fn bring(socket: &mut WebSocket, relay: &RelayToken, values: serde_json::Value) -> Result<(), BoxError> {
    send(socket, ToPage::StoreSession { relay: relay.to_string(), values }).await
}

/// Returns the text of `validate` without the wire name around the text.
fn reason_of(error: &WriteError) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

async fn refuse(socket: &mut WebSocket, message: impl Into<String>) -> Result<(), BoxError> {
    send(socket, ToPage::Error { message: message.into() }).await
}

async fn send(socket: &mut WebSocket, event: ToPage) -> Result<(), BoxError> {
    let text = serde_json::to_string(&event)?;
    Ok(timeout(PATIENCE, socket.send(Message::text(text))).await??)
}

/// Sends the reason, and waits for the browser's own close frame: a reset of the connection may lose the reason.
async fn close(socket: &mut WebSocket, code: CloseCode, reason: &str) -> Result<(), BoxError> {
    let reason = Utf8Bytes::from(reason);
    timeout(PATIENCE, async {
        socket.send(Message::Close(Some(CloseFrame { code, reason }))).await?;
        while let Some(Ok(_)) = socket.recv().await {}
        Ok(())
    })
    .await?
}
