//! Futures and streams, polled without a wait or with a limit.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{Either, select},
};
use http_body::Body;
use http_body_util::BodyExt;
use layered_session::{SessionValue, Watch, testing::ManualClock};
use tokio::task::JoinHandle;

/// The heartbeat event of a stream without news.
pub(crate) const BEAT: &str = "event: heartbeat\ndata: null\n\n";

/// The result of a future that is ready at the first poll.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    future.now_or_never()
}

/// All events that a stream has ready now.
pub(crate) fn told<B>(stream: &mut B) -> String
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut told = String::new();
    while let Some(Some(Ok(frame))) = at_once(stream.frame()) {
        told.push_str(std::str::from_utf8(frame.data_ref().expect("no trailers")).unwrap());
    }
    told
}

/// A page that waits for a value after a first poll. From here on only a change wakes the page.
pub(crate) async fn waiting_for<V>(mut watch: Watch<V>, value: V) -> JoinHandle<()>
where
    V: SessionValue + Default + PartialEq,
{
    let waiting = tokio::spawn(async move { while watch.next().await.expect("the session lives") != value {} });
    settled().await;
    waiting
}

/// Lets every task run until the task waits.
pub(crate) async fn settled() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

/// Waits within a limit: a test that would hang fails.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("the future is ready within 20 seconds")
}

/// Waits for a future, and advances the clock by a millisecond whenever nothing else is to do.
pub(crate) async fn ticking<T>(clock: &ManualClock, future: impl Future<Output = T>) -> T {
    let ticks = async {
        loop {
            settled().await;
            clock.advance(Duration::from_millis(1));
        }
    };
    match select(Box::pin(future), Box::pin(ticks)).await {
        Either::Left((done, _)) => done,
        Either::Right((never, _)) => never,
    }
}
