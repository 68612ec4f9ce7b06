//! The stream of server-sent events, for every source of events.

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

/// The default interval of heartbeats: proxies cut a silent connection, most often after 30 or 60 seconds.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// An event without data. A page that hears no event for several intervals knows that its connection is dead. A comment
/// line would reach only the proxies: an `EventSource` does not show comments to the page.
pub(crate) const HEARTBEAT_EVENT: &str = "event: heartbeat\ndata: null\n\n";

/// A source of events.
pub(crate) trait EventSource {
    fn clock(&self) -> &dyn Clock;

    /// Returns the next event. The stream polls only when the connection has room.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<EventText>;

    /// Returns the event for an interval without events.
    fn heartbeat(&mut self) -> String {
        HEARTBEAT_EVENT.to_owned()
    }
}

/// The text of one or more events.
pub(crate) enum EventText {
    More(String),
    /// The last events of the stream.
    Last(String),
}

/// The body with the events of a source, and with heartbeats while the source is silent.
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

/// Formats one event with JSON as its data. A type that keeps raw JSON may have line breaks between the tokens, which
/// would end the event, so a space replaces each. A JSON string has no line break.
pub(crate) fn event(name: &str, data: &dyn fmt::Display) -> String {
    let data = data.to_string().replace(['\n', '\r'], " ");
    format!("event: {name}\ndata: {data}\n\n")
}
