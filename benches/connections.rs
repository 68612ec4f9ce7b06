//! Memory of an open page: a WebSocket of axum with a watch, and an event stream of the writeback, each over HTTP/1.1.
//! `benches/README.md` has the figures.

use allocation_counter::measure;
use axum::{
    Router,
    extract::{FromRequest, Request, ws::WebSocketUpgrade},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use layered_session::{
    CookieTier, DefaultTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionValue, SessionWriteback,
    Sessions, testing::Client, tier::BoxError,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    runtime::Builder,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Count(i64);

impl SessionValue for Count {
    const NAME: &'static str = "count";
}

fn main() -> Result<(), BoxError> {
    // `cargo test --benches` runs each bench once, without a measurement.
    let pages = if std::env::args().any(|argument| argument == "--bench") { 2_000 } else { 20 };
    println!("{:<44} {:>10}", "one open page", "bytes");
    for (page, path) in [
        ("WebSocket, read buffer of axum's own", "/live"),
        ("WebSocket, read buffer of 4 KiB", "/live/small"),
        ("event stream", "/session/events"),
    ] {
        println!("{page:<44} {:>10}", bytes_of_a_page(path, pages)?);
    }
    Ok(())
}

/// Returns the bytes that the server has allocated for each of `pages` open pages, without the bytes of the pipes. Each
/// page has its own session.
fn bytes_of_a_page(path: &str, pages: usize) -> Result<u64, BoxError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let app = app()?;
    let heads = (0..pages).map(|_| runtime.block_on(head(&app, path))).collect::<Result<Vec<_>, _>>()?;
    let mut open = Vec::with_capacity(pages);
    let mut failed = None;
    let used = measure(|| {
        for head in &heads {
            match runtime.block_on(open_page(&app, head)) {
                Ok(page) => open.push(page),
                Err(error) => failed = Some(error),
            }
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let mut pipes = Vec::with_capacity(pages);
    let idle = measure(|| pipes.extend((0..pages).map(|_| duplex(PIPE))));
    Ok((used.bytes_current - idle.bytes_current).unsigned_abs() / pages as u64)
}

/// The size of a pipe in bytes, which must hold the longest head.
const PIPE: usize = 1 << 10;

/// Connects, sends the head of a request, reads the response's head, and lets the server send the first value.
async fn open_page(app: &Router, head: &str) -> Result<DuplexStream, BoxError> {
    let (mut page, server) = duplex(PIPE);
    let service = TowerToHyperService::new(app.clone());
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service);
    tokio::spawn(connection.with_upgrades());
    page.write_all(head.as_bytes()).await?;
    let mut answer = [0; PIPE];
    let read = page.read(&mut answer).await?;
    if !(answer.starts_with(b"HTTP/1.1 101") || answer.starts_with(b"HTTP/1.1 200")) {
        return Err(String::from_utf8_lossy(&answer[..read]).into());
    }
    // The server sends the first value, in a frame or an event.
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    Ok(page)
}

/// The head of a page's request, with the cookie of a new session.
async fn head(app: &Router, path: &str) -> Result<String, BoxError> {
    let begun = Client::new(app.clone()).get("/begin").await?;
    let cookie = begun.cookies().first().ok_or("a first write sends the cookie")?.stripped().to_string();
    let upgrade = match path.starts_with("/live") {
        true => {
            "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        }
        false => "accept: text/event-stream\r\n",
    };
    Ok(format!(
        "GET {path} HTTP/1.1\r\nhost: app.example\r\nsec-fetch-site: same-origin\r\ncookie: {cookie}\r\n{upgrade}\r\n"
    ))
}

fn app() -> Result<Router, BoxError> {
    let sessions = Sessions::builder()
        .tier(MemoryTier::builder().max_bytes(4 << 30).build())
        .tier(CookieTier::sealed(KeyRing::generate()?))
        .tier(DefaultTier::new())
        .value::<Count>()
        .build()?;
    Ok(Router::new()
        .route("/begin", get(begin))
        .route("/live", any(|request| live(request, None)))
        .route("/live/small", any(|request| live(request, Some(4 << 10))))
        .nest_service("/session", SessionWriteback::new(&sessions).expose::<Count>()?)
        .layer(LayeredSessionLayer::new(sessions)))
}

async fn begin(request: Request) -> String {
    let session = Session::load(request.extensions()).await.expect("the layer is there");
    session.set(Count(1)).await.map_or_else(|error| error.to_string(), |()| "begun".to_owned())
}

/// A socket that sends each value and reads frames, as `examples/division` does.
async fn live(request: Request, read_buffer: Option<usize>) -> Response {
    let session = Session::load(request.extensions()).await.expect("the layer is there");
    let upgrade = match WebSocketUpgrade::from_request(request, &()).await {
        Ok(upgrade) => upgrade,
        Err(refused) => return refused.into_response(),
    };
    let upgrade = match read_buffer {
        Some(bytes) => upgrade.read_buffer_size(bytes),
        None => upgrade,
    };
    upgrade.on_upgrade(async move |mut socket| {
        let mut counts = session.watch::<Count>();
        loop {
            tokio::select! {
                Some(Count(count)) = counts.next() => {
                    if socket.send(count.to_string().into()).await.is_err() {
                        return;
                    }
                }
                frame = socket.recv() => if frame.is_none() { return },
                _ = session.closed() => return,
            }
        }
    })
}
