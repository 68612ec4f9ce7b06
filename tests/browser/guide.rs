//! The page with its own socket, from the guide's chapter on live pages: the script is the chapter's, and the socket's
//! code follows the chapter.

use std::net::Ipv4Addr;

use axum::{
    Router,
    extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade},
    http::header::CONTENT_TYPE,
    response::{Html, Response},
    routing::{any, get},
};
use layered_session::{
    CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionValue, SessionWriteback, Sessions,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::AbortHandle};

use crate::{Result, browser::Browser, tab::Tab};

#[derive(Default, Serialize, Deserialize)]
struct Division(u32);

impl SessionValue for Division {
    const NAME: &'static str = "division";
}

const PAGE: &str = "<!doctype html><title>guide</title><script type=module src=/page.js></script>";

/// The chapter's script that opens a socket, with a page that shows the values.
fn script() -> Result<String> {
    let chapter = include_str!("../../src/guide/live_pages.md");
    let mut scripts = chapter.split("```js\n").skip(1).filter_map(|rest| rest.split("```").next());
    let script = scripts.find(|script| script.contains("new WebSocket")).ok_or("no script with a socket")?;
    Ok(format!(
        "{script}\nglobalThis.shown = null;\nfunction show(division) {{ globalThis.shown = division; }}\n\
         globalThis.alert = (text) => {{ globalThis.told = text; }};\n\
         globalThis.say = (text) => socket.send(text);\nglobalThis.stands = () => [visitor, socket.readyState === 1];\n"
    ))
}

async fn live(session: Session, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async move |mut socket| {
        converse(&mut socket, &session).await.ok();
    })
}

async fn converse(socket: &mut WebSocket, session: &Session) -> Result {
    let mut divisions = session.watch::<Division>();
    loop {
        tokio::select! {
            biased;
            closed = session.closed() => {
                let frame = CloseFrame { code: closed.close_code(), reason: closed.to_string().into() };
                return Ok(socket.send(Message::Close(Some(frame))).await?);
            }
            Some(Division(id)) = divisions.next() => {
                tell(socket, json!({ "division": id, "session": session.created_at().is_some() })).await?;
            }
            message = socket.recv() => match message.transpose()? {
                Some(Message::Text(command)) => {
                    if let Err(refused) = obey(session, &command).await {
                        tell(socket, json!({ "error": refused.to_string() })).await?;
                    }
                    if let Some(token) = session.relay() {
                        tell(socket, json!({ "relay": token.as_str() })).await?;
                    }
                }
                Some(_) => {}
                None => return Ok(()),
            },
        }
    }
}

async fn obey(session: &Session, command: &str) -> Result {
    match command {
        "logout" => session.sign_out().await?,
        id => session.set(Division(id.parse()?)).await?,
    }
    Ok(())
}

async fn tell(socket: &mut WebSocket, json: Value) -> Result {
    Ok(socket.send(Message::text(json.to_string())).await?)
}

struct Guide {
    url: String,
    server: AbortHandle,
}

impl Guide {
    async fn start() -> Result<Self> {
        let sessions = Sessions::builder()
            .tier(MemoryTier::builder().build())
            .tier(CookieTier::sealed(KeyRing::generate()?).plain_http())
            .value::<Division>()
            .build()?;
        let script = script()?;
        let app = Router::new()
            .route("/", get(async || Html(PAGE)))
            .route("/page.js", get(async move || ([(CONTENT_TYPE, "text/javascript")], script)))
            .route("/live", any(live))
            .nest_service("/session", SessionWriteback::new(&sessions))
            .layer(LayeredSessionLayer::new(sessions));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}/", listener.local_addr()?);
        let server = tokio::spawn(axum::serve(listener, app).into_future()).abort_handle();
        Ok(Self { url, server })
    }
}

impl Drop for Guide {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Tab {
    async fn say(&self, command: &str) -> Result {
        self.evaluate(&format!("say('{command}')")).await.map(drop)
    }

    /// Waits until the page shows the division.
    async fn is_shown(&self, division: u32) -> Result {
        self.until("shown", division).await
    }

    /// Waits until the socket is open, and belongs to a visitor or to a session.
    async fn stands(&self, visitor: bool) -> Result {
        self.until("stands()", json!([visitor, true])).await
    }
}

/// Opens two tabs of one visitor. Their sockets have no session.
async fn two_visitors() -> Result<(Guide, Browser, Tab, Tab)> {
    let guide = Guide::start().await?;
    let browser = Browser::at(guide.url.clone()).await?;
    let (one, other) = (browser.open_away().await?, browser.open_away().await?);
    for tab in [&one, &other] {
        tab.stands(true).await?;
    }
    Ok((guide, browser, one, other))
}

#[tokio::test]
async fn second_tab_joins_the_first_session() -> Result {
    let (_guide, browser, one, other) = two_visitors().await?;
    one.say("3").await?;
    one.is_shown(3).await?;
    other.is_shown(3).await?;
    other.stands(false).await?;
    other.say("4").await?;
    one.is_shown(4).await?;
    browser.open_away().await?.is_shown(4).await
}

#[tokio::test]
async fn refused_write_closes_no_socket() -> Result {
    let (_guide, _browser, one, _other) = two_visitors().await?;
    one.say("three").await?;
    one.until("typeof globalThis.told", "string").await?;
    one.say("3").await?;
    one.is_shown(3).await
}

#[tokio::test]
async fn logout_on_the_socket_removes_the_cookie() -> Result {
    let (_guide, _browser, one, other) = two_visitors().await?;
    one.say("3").await?;
    other.is_shown(3).await?;
    one.say("logout").await?;
    for tab in [&one, &other] {
        tab.is_shown(0).await?;
        tab.stands(true).await?;
    }
    assert_eq!(one.cookie().await?, None);
    Ok(())
}
