//! Server-sent events: the parts of a stream, for every source of events.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};

use crate::time::{Clock, Sleep};

/// The interval of heartbeats: proxies cut a silent connection, most often after 30 or 60 seconds.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// An event that carries nothing. A page that misses it for several intervals knows that its connection is dead; an
/// `EventSource` tells a page of no comment, so that a comment would show a proxy alone.
pub(crate) const HEARTBEAT_EVENT: &str = "event: heartbeat\ndata: null\n\n";

/// A source of events.
pub(crate) trait EventSource {
    fn clock(&self) -> &dyn Clock;

    /// Is ready with the next event. The stream polls only when the connection has room.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<EventText>;

    /// The event after a long silence.
    fn heartbeat(&mut self) -> String {
        HEARTBEAT_EVENT.to_owned()
    }
}

/// Events as text.
pub(crate) enum EventText {
    More(String),
    /// The last events of the stream.
    Last(String),
}

/// The stream of a source: its events, heartbeats while the source is silent, and the end.
pub(crate) struct EventStream<T> {
    source: T,
    interval: Duration,
    heartbeat: Option<Sleep>,
    over: bool,
}

impl<T> EventStream<T> {
    pub(crate) const fn new(source: T, interval: Duration) -> Self {
        Self { source, interval, heartbeat: None, over: false }
    }
}

impl<T: EventSource + Unpin> Body for EventStream<T> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Self { source, interval, heartbeat, over } = self.get_mut();
        if *over {
            return Poll::Ready(None);
        }
        let text = match source.poll_event(cx) {
            Poll::Ready(EventText::More(text)) => text,
            Poll::Ready(EventText::Last(text)) => {
                *over = true;
                text
            }
            Poll::Pending => {
                let clock = source.clock();
                let silence = heartbeat.get_or_insert_with(|| clock.sleep(*interval));
                ready!(silence.as_mut().poll(cx));
                source.heartbeat()
            }
        };
        *heartbeat = None;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(text)))))
    }
}

/// One event, of JSON. A type that keeps text as it came may have line breaks between its tokens, which would end the
/// event; within its strings there are none.
pub(crate) fn event(name: &str, data: &dyn fmt::Display) -> String {
    let data = data.to_string().replace(['\n', '\r'], " ");
    format!("event: {name}\ndata: {data}\n\n")
}
