//! The bare client: the crate `redis` without a session, which sends the words of a captured call.

use layered_session::{Sessions, tier::BoxError};
use redis::{Client, Cmd, IntoConnectionInfo, Value, aio::MultiplexedConnection};

use super::{
    proxy::{Call, Proxy},
    site::{Act, Browser, Count, FIRST},
};

/// The places of words in the call of a commit.
const KEY: usize = 3;
const ABOVE: usize = 5;
const CHANNEL: usize = 9;
const FIELD: usize = 11;
const REPLACES: usize = 12;
const ENTRY: usize = 14;
const WORDS: usize = 15;

/// The bytes of a version.
const VERSION: usize = 8;

/// Opens a client with the settings of the sockets that the store has.
pub(crate) fn client(port: u16) -> Result<Client, BoxError> {
    let info = format!("redis://127.0.0.1:{port}").into_connection_info()?;
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    Ok(Client::open(info.set_tcp_settings(tcp))?)
}

/// Opens a connection with the client's own settings.
pub(crate) async fn connection(port: u16) -> Result<MultiplexedConnection, BoxError> {
    Ok(client(port)?.get_multiplexed_async_connection().await?)
}

/// The calls of one `set` and one `update` of a session, as the server got them.
pub(crate) struct Captured {
    pub(crate) set: Call,
    pub(crate) update: Call,
}

impl Captured {
    /// Captures the calls of a new session of a node behind the proxy.
    pub(crate) async fn of_new_session(node: &Sessions, proxy: &Proxy) -> Result<Self, BoxError> {
        let session = Browser::default().visit(node, Act::Begin).await?;
        proxy.take();
        session.set(Count(FIRST)).await?;
        let set = one_write(proxy)?;
        session.update(|count: &mut Count| count.0 += 1).await?;
        Ok(Self { set, update: one_write(proxy)? })
    }

    /// Returns the key of the session.
    pub(crate) fn key(&self) -> &[u8] {
        &self.set[KEY]
    }

    /// Returns the field of the value, and an entry with as many bytes as the script writes.
    pub(crate) fn entry(&self) -> (&[u8], Vec<u8>) {
        (&self.set[FIELD], [&self.set[ABOVE], &*self.set[ENTRY]].concat())
    }
}

fn one_write(proxy: &Proxy) -> Result<Call, BoxError> {
    let (_, mut sent) = proxy.take();
    let call = sent.pop().filter(|call| sent.is_empty() && call.len() == WORDS);
    Ok(call.ok_or("a write of one value is one call of the script")?)
}

pub(crate) fn cmd(words: &[impl AsRef<[u8]>]) -> Cmd {
    let mut cmd = Cmd::new();
    words.iter().for_each(|word| {
        cmd.arg(word.as_ref());
    });
    cmd
}

/// A session that the bare client writes.
pub(crate) struct Bare {
    connection: MultiplexedConnection,
    call: Call,
    /// Whether each commit names the version that the commit replaces.
    replaces: bool,
}

impl Bare {
    /// Makes a first commit, which replaces any version: the captured call has been made already.
    pub(crate) async fn new(connection: &MultiplexedConnection, call: &Call) -> Result<Self, BoxError> {
        let mut bare = Self { connection: connection.clone(), call: call.clone(), replaces: false };
        bare.call[REPLACES].clear();
        bare.commit().await?;
        bare.replaces = !call[REPLACES].is_empty();
        bare.commit().await?;
        Ok(bare)
    }

    /// Sends notices to another channel with a name of the same length, where no node listens.
    pub(crate) fn channel(mut self, name: &str) -> Self {
        assert_eq!(self.call[CHANNEL].len(), name.len());
        self.call[CHANNEL] = name.into();
        self
    }

    /// Makes a commit. The next commit gets the stamp of this commit, as the next commit of a node does.
    pub(crate) async fn commit(&mut self) -> Result<(), BoxError> {
        let answer = cmd(&self.call).query_async(&mut self.connection).await?;
        let Value::Array(parts) = answer else { return Err("the answer of a commit is a list".into()) };
        let (Some(Value::BulkString(outcome)), Some(Value::BulkString(versions))) = (parts.first(), parts.get(2))
        else {
            return Err(format!("a commit was refused: {parts:?}").into());
        };
        let stamp = versions.get(..VERSION).filter(|_| outcome == b"applied");
        let stamp = stamp.ok_or("the answer of a commit has a stamp")?.to_vec();
        if self.replaces {
            self.call[REPLACES].clone_from(&stamp);
        }
        self.call[ABOVE] = stamp;
        Ok(())
    }
}
