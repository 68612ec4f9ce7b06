//! A proxy between the browser and a server that falls silent, cuts connections and rewrites heads, as real proxies do.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    select,
    sync::Notify,
    task::AbortHandle,
};

use crate::Result;

#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    orders: Arc<Orders>,
    accepting: AbortHandle,
}

/// A text in the heads of requests, and the text that replaces it.
#[derive(Clone, Debug)]
struct Rewrite {
    /// Only heads whose first line contains this text change.
    target: &'static str,
    from: String,
    to: String,
}

#[derive(Debug, Default)]
struct Orders {
    silence: Notify,
    cut: Notify,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> Result<Self> {
        Self::run(target, |_| None).await
    }

    /// Starts a proxy that sends the server this host in place of the page's host.
    pub(crate) async fn with_host(target: SocketAddr, host: &str) -> Result<Self> {
        let field = |host| format!("Host: {host}\r\n");
        Self::run(target, |address| Some(Rewrite { target: "", from: field(address), to: field(host.to_owned()) }))
            .await
    }

    /// Starts a proxy that makes each event stream look like another site's request, so that the server refuses the
    /// stream.
    pub(crate) async fn with_foreign_streams(target: SocketAddr) -> Result<Self> {
        let field = |site| format!("Sec-Fetch-Site: {site}\r\n");
        Self::run(target, |_| Some(Rewrite { target: "events", from: field("same-origin"), to: field("cross-site") }))
            .await
    }

    async fn run(target: SocketAddr, rewrite: impl FnOnce(String) -> Option<Rewrite>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let rewrite = rewrite(address.to_string());
        let orders = Arc::<Orders>::default();
        let shared = Arc::clone(&orders);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, target, Arc::clone(&shared), rewrite.clone()));
            }
        });
        Ok(Self { address, orders, accepting: accepting.abort_handle() })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Stops all traffic of the present connections, and leaves them open. Later connections work.
    pub(crate) fn silence(&self) {
        self.orders.silence.notify_waiters();
    }

    /// Closes the present connections.
    pub(crate) fn cut(&self) {
        self.orders.cut.notify_waiters();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(client: TcpStream, target: SocketAddr, orders: Arc<Orders>, rewrite: Option<Rewrite>) {
    let Ok(upstream) = TcpStream::connect(target).await else { return };
    let ((from_client, mut to_client), (mut from_server, to_server)) = (client.into_split(), upstream.into_split());
    select! {
        () = orders.cut.notified() => {}
        () = orders.silence.notified() => std::future::pending().await,
        _ = copy(&mut from_server, &mut to_client) => {}
        () = requests(from_client, to_server, rewrite) => {}
    }
}

/// Reads a head in a single read, since a browser sends each head in a single piece.
async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, rewrite: Option<Rewrite>) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut piece).await {
        let head = str::from_utf8(&piece[..len]).ok().zip(rewrite.as_ref());
        let sent = match head
            .filter(|(head, rewrite)| head.lines().next().is_some_and(|line| line.contains(rewrite.target)))
        {
            Some((head, Rewrite { from, to: other, .. })) => to.write_all(head.replace(from, other).as_bytes()).await,
            None => to.write_all(&piece[..len]).await,
        };
        if sent.is_err() {
            return;
        }
    }
}
