//! Real clients and proxies with the layer: Java, curl, nginx and haproxy, each with its own defaults.
//!
//! `tests/interop.sh` installs the programs and runs these tests.

mod app;
mod caches;
mod programs;

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::{
    app::App,
    programs::{Folder, Proxy, run},
};

type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// The time limit of a wait. Only a failing test waits for the whole limit.
const PATIENCE: Duration = Duration::from_secs(20);

// ---- clients

async fn java(client: &str, app: &App, paths: &[&str]) -> Result<Vec<String>> {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/Client.java");
    let urls = paths.iter().map(|path| format!("http://{}{path}", app.address));
    run("java", [program, client].map(str::to_owned).into_iter().chain(urls).collect()).await
}

// `java.net.CookieManager` quotes the value of a cookie that has a Max-Age.
#[tokio::test]
async fn java_url_connection_keeps_the_session() -> Result {
    let app = App::start().await?;
    let lines = java("HttpURLConnection", &app, &["/note/kept", "/note", "/note"]).await?;
    assert_eq!(lines, ["kept", "kept", "kept"]);
    let cookies = app.seen("cookie");
    assert_eq!(cookies.len(), 2);
    assert!(cookies[0].contains("$Version"), "{cookies:?}");
    Ok(())
}

// `java.net.http.HttpClient` offers `Upgrade: h2c` with each request over plain http.
#[tokio::test]
async fn java_http_client_keeps_the_session() -> Result {
    let app = App::start().await?;
    let lines = java("HttpClient", &app, &["/note/kept", "/note", "/note/again", "/note"]).await?;
    assert_eq!(lines, ["kept", "kept", "again", "again"]);
    assert!(app.seen("upgrade").iter().any(|upgrade| upgrade.contains("h2c")), "{:?}", app.seen("upgrade"));
    Ok(())
}

async fn curl(arguments: &[&str]) -> Result<Vec<String>> {
    let common = ["--silent", "--show-error", "--max-time", "20"];
    run("curl", common.iter().chain(arguments).map(|&argument| argument.to_owned()).collect()).await
}

#[tokio::test]
async fn curl_offering_http2_keeps_the_session() -> Result {
    let (app, folder) = (App::start().await?, Folder::new()?);
    let jar = folder.file("jar").display().to_string();
    for (path, note) in [("/note/kept", "kept"), ("/note", "kept")] {
        let url = format!("http://{}{path}", app.address);
        assert_eq!(curl(&["--http2", "--cookie", &jar, "--cookie-jar", &jar, &url]).await?, [note]);
    }
    assert!(app.seen("upgrade")[0].contains("h2c"));
    Ok(())
}

#[tokio::test]
async fn oversized_body_is_refused_before_curl_sends() -> Result {
    let (app, folder) = (App::start().await?, Folder::new()?);
    let body = folder.file("body");
    std::fs::write(&body, vec![b'x'; 1 << 20])?;
    let body = format!("@{}", body.display());
    let url = format!("http://{}/session", app.address);
    let headers = ["Expect: 100-continue", "Content-Type: application/json", "Sec-Fetch-Site: same-origin"];
    let mut arguments =
        vec!["--output", "/dev/null", "--write-out", "%{http_code} %{size_upload}", "--data-binary", &body];
    arguments.extend(headers.iter().flat_map(|header| ["--header", header]));
    arguments.extend(["--expect100-timeout", "15", &url]);
    assert_eq!(curl(&arguments).await?, ["413 0"]);
    Ok(())
}

// ---- proxies

// nginx limits the head of a response to 4 kB by default, and answers 502 to a longer head.
#[tokio::test]
async fn full_cookie_fits_default_proxy_buffers() -> Result {
    let (app, folder) = (App::start().await?, Folder::new()?);
    for (name, proxy) in
        [("nginx", Proxy::nginx(app.address, "").await?), ("haproxy", Proxy::haproxy(app.address).await?)]
    {
        let jar = folder.file(name).display().to_string();
        for path in ["/fill", "/note/short", "/fill", "/note"] {
            let (cookies, url) = (["--cookie", &jar, "--cookie-jar", &jar], proxy.url(path));
            let answer = curl(&[&cookies[..], &["--write-out", "\n%{http_code}", &url]].concat()).await?;
            assert_eq!(answer.last().map(String::as_str), Some("200"), "{name}: {path}");
        }
    }
    Ok(())
}

/// Opens the socket as a page on the proxy's address does, and returns the first message.
async fn socket(proxy: &Proxy) -> Result<Message> {
    let mut request = format!("ws://{}/live", proxy.address).into_client_request()?;
    request.headers_mut().insert("origin", format!("http://{}", proxy.address).parse()?);
    let (mut socket, _) = connect_async(request).await?;
    let message = timeout(PATIENCE, socket.next()).await?.ok_or("the socket ended")??;
    socket.close(None).await.ok();
    socket.flush().await.ok();
    Ok(message)
}

// nginx sends the application's own address as `Host` unless its configuration changes the header.
#[tokio::test]
async fn socket_refusal_explains_a_changed_host() -> Result {
    let app = App::start().await?;
    let proxy = Proxy::nginx(app.address, "").await?;
    let Message::Close(Some(close)) = socket(&proxy).await? else { return Err("not closed".into()) };
    assert_eq!((u16::from(close.code), close.reason.as_str()), (1008, "cross-site"));

    let kept = Proxy::nginx(app.address, "proxy_set_header Host $http_host;").await?;
    assert_eq!(socket(&kept).await?, Message::text(""));
    let passed = Proxy::haproxy(app.address).await?;
    assert_eq!(socket(&passed).await?, Message::text(""));
    Ok(())
}

#[tokio::test]
async fn listed_origin_passes_despite_changed_host() -> Result {
    // The test reserves the address before the application starts, as an operator knows the address in advance.
    let reserved = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let app = App::start_with(|sessions| sessions.public_origins([format!("http://{reserved}")])).await?;
    let proxy = Proxy::nginx_at(reserved, app.address, "").await?;
    assert_eq!(socket(&proxy).await?, Message::text(""));
    Ok(())
}

#[tokio::test]
async fn events_pass_proxies_without_delay() -> Result {
    let app = App::start().await?;
    for proxy in [Proxy::nginx(app.address, "").await?, Proxy::haproxy(app.address).await?] {
        let mut stream = TcpStream::connect(proxy.address).await?;
        let head = "GET /session/events HTTP/1.1\r\nHost: proxy\r\nSec-Fetch-Site: same-origin\r\nAccept: text/event-stream\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        let (mut read, mut piece) = (Vec::new(), [0; 4096]);
        timeout(PATIENCE, async {
            while !read.windows(12).any(|window| window == b"event: state") {
                let len = stream.read(&mut piece).await?;
                if len == 0 {
                    return Err("the stream ended".into());
                }
                read.extend_from_slice(&piece[..len]);
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        })
        .await??;
    }
    Ok(())
}
