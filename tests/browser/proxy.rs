//! A proxy between a browser and its server whose connections can go silent.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    select,
    sync::Notify,
    task::AbortHandle,
};

use crate::Result;

/// A proxy that can go silent, as a network address translation does that has forgotten its connections.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    silence: Arc<Notify>,
    accepting: AbortHandle,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let silence = Arc::<Notify>::default();
        let shared = Arc::clone(&silence);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, target, Arc::clone(&shared)));
            }
        });
        Ok(Self { address, silence, accepting: accepting.abort_handle() })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Passes nothing more over the connections that there are. Later connections are passed.
    pub(crate) fn silence(&self) {
        self.silence.notify_waiters();
    }
}

async fn pass(mut client: TcpStream, target: SocketAddr, silence: Arc<Notify>) {
    let Ok(mut upstream) = TcpStream::connect(target).await else { return };
    select! {
        _ = copy_bidirectional(&mut client, &mut upstream) => {}
        () = silence.notified() => std::future::pending().await,
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
