//! A proxy between the browser and a server: it goes silent, cuts connections, and rewrites `Host`, as real ones do.

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

/// The target's host as it reads in `Host`, and the host that takes its place.
type Rewrite = Option<(String, String)>;

#[derive(Debug, Default)]
struct Orders {
    silence: Notify,
    cut: Notify,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> Result<Self> {
        Self::run(target, None).await
    }

    /// A proxy that gives the server this host in place of the page's.
    pub(crate) async fn with_host(target: SocketAddr, host: &str) -> Result<Self> {
        Self::run(target, Some(host.to_owned())).await
    }

    async fn run(target: SocketAddr, host: Option<String>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let rewrite: Rewrite = host.map(|host| (format!("Host: {address}\r\n"), format!("Host: {host}\r\n")));
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

    /// Passes nothing more over the connections that there are, and leaves them open. Later connections are passed.
    pub(crate) fn silence(&self) {
        self.orders.silence.notify_waiters();
    }

    /// Closes the connections that there are.
    pub(crate) fn cut(&self) {
        self.orders.cut.notify_waiters();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(client: TcpStream, target: SocketAddr, orders: Arc<Orders>, rewrite: Rewrite) {
    let Ok(upstream) = TcpStream::connect(target).await else { return };
    let ((from_client, mut to_client), (mut from_server, to_server)) = (client.into_split(), upstream.into_split());
    select! {
        () = orders.cut.notified() => {}
        () = orders.silence.notified() => std::future::pending().await,
        _ = copy(&mut from_server, &mut to_client) => {}
        () = requests(from_client, to_server, rewrite) => {}
    }
}

/// A browser sends each head in a single piece.
async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, rewrite: Rewrite) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut piece).await {
        let sent = match &rewrite {
            Some((host, other)) => match String::from_utf8(piece[..len].to_vec()) {
                Ok(head) => to.write_all(head.replace(host, other).as_bytes()).await,
                Err(_) => to.write_all(&piece[..len]).await,
            },
            None => to.write_all(&piece[..len]).await,
        };
        if sent.is_err() {
            return;
        }
    }
}
