//! Server-sent events: what a stream of them is made of, whoever tells.

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

/// Whoever has something to say.
pub(crate) trait EventSource {
    fn clock(&self) -> &dyn Clock;

    /// Ready when there is something. It is asked only when the connection has room for it.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<EventText>;

    /// What is said after a long silence.
    fn heartbeat(&mut self) -> String {
        HEARTBEAT_EVENT.to_owned()
    }
}

/// What is said: events as text.
pub(crate) enum EventText {
    More(String),
    /// This, and nothing after it.
    Last(String),
}

/// A teller's stream: what it says, heartbeats where it is silent, and the end.
pub(crate) struct EventStream<T> {
    teller: T,
    interval: Duration,
    heartbeat: Option<Sleep>,
    over: bool,
}

impl<T> EventStream<T> {
    pub(crate) const fn new(teller: T, interval: Duration) -> Self {
        Self { teller, interval, heartbeat: None, over: false }
    }
}

impl<T: EventSource + Unpin> Body for EventStream<T> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Self { teller, interval, heartbeat, over } = self.get_mut();
        if *over {
            return Poll::Ready(None);
        }
        let text = match teller.poll_event(cx) {
            Poll::Ready(EventText::More(text)) => text,
            Poll::Ready(EventText::Last(text)) => {
                *over = true;
                text
            }
            Poll::Pending => {
                let clock = teller.clock();
                let silence = heartbeat.get_or_insert_with(|| clock.sleep(*interval));
                ready!(silence.as_mut().poll(cx));
                teller.heartbeat()
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
