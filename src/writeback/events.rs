//! `GET /events`: what a page may read, now and as it changes, as server-sent events.
//!
//! Nothing is queued: each look compares the values' versions with those last sent, when the connection has room for
//! more. A slow page skips what it missed, and costs a writer nothing.

use std::{
    convert::Infallible,
    fmt::{self, Write},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};

use crate::{
    live::{Said, Wait, closed, ends},
    session::{Look, Mark, Session, browser::Stand},
    value::Number,
    version::Sleep,
};

/// A silent connection is taken for dead by proxies, most often after 30 or 60 seconds.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// A change that a request made travels in its response. Only one that no cookie has been sealed for by then is relayed.
const RELAY_DELAY: Duration = Duration::from_millis(200);

/// The event stream of one page.
pub(super) struct Events {
    wait: Wait,
    /// What the page may read.
    shown: Box<[Number]>,
    /// What of each it was last sent.
    seen: Vec<Mark>,
    stage: Stage,
    /// The state that the browser was last given.
    given: Option<Stand>,
    relay: Option<Sleep>,
    heartbeat: Option<Sleep>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Opening,
    Open,
    Over,
}

impl Events {
    pub(super) fn new(session: Session, shown: &[Number]) -> Self {
        let given = session.core().stand();
        let (shown, seen) = (shown.into(), vec![None; shown.len()]);
        Self { wait: Wait::new(session), shown, seen, stage: Stage::Opening, given, relay: None, heartbeat: None }
    }

    /// What changed since the last look, as events.
    fn poll_changes(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        let Self { wait, shown, seen, stage, given, relay, .. } = self;
        wait.poll(cx, |session| {
            if let Some(reason) = closed(session) {
                *stage = Stage::Over;
                return Said::Some(event("closed", &format_args!("\"{reason}\"")));
            }
            let core = session.core();
            if relay.is_none() && core.stand() != *given {
                *relay = Some(core.chain.clock.sleep_until(core.chain.clock.now() + RELAY_DELAY));
            }
            let opening = *stage == Stage::Opening;
            let (mut set, mut removed) = (Vec::new(), Vec::new());
            for (number, seen) in shown.iter().zip(seen.iter_mut()) {
                let declared = core.chain.schema.at(*number);
                // As the type itself writes it: a source's own bytes may hold line breaks, which would end the event.
                let (answer, mark) =
                    core.resolve(*number, core.chain.now(), Look::Glance, |json| (declared.normalize)(json));
                if !opening && mark == *seen {
                    continue;
                }
                *seen = mark;
                match answer {
                    Some((json, _)) => set.push((declared.name, json)),
                    None => removed.push(declared.name),
                }
            }
            *stage = Stage::Open;
            let mut text = String::new();
            if opening {
                let has_session = core.stand().is_some();
                text += &event("state", &format_args!("{{\"session\":{has_session},\"values\":{}}}", Object(&set)));
                return Said::Some(text);
            }
            if !set.is_empty() {
                text += &event("set", &Object(&set));
            }
            if !removed.is_empty() {
                text += &event("removed", &serde_json::json!(removed));
            }
            let until = ends(session, shown.iter().copied());
            if text.is_empty() { Said::Nothing(until) } else { Said::All(text, until) }
        })
    }

    /// What is to be said after some time.
    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        let core = self.wait.session().core();
        if self.relay.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready()) {
            self.relay = None;
            self.given = core.stand();
            if let Some(token) = core.relay_unless_sealed() {
                return Poll::Ready(event("relay", &format_args!("\"{token}\"")));
            }
        }
        let clock = &core.chain.clock;
        let heartbeat = self.heartbeat.get_or_insert_with(|| clock.sleep_until(clock.now() + HEARTBEAT));
        heartbeat.as_mut().poll(cx).map(|()| ":\n\n".to_owned())
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.stage == Stage::Over {
            return Poll::Ready(None);
        }
        let text = match this.poll_changes(cx) {
            Poll::Ready(text) => text,
            Poll::Pending => ready!(this.poll_timers(cx)),
        };
        this.heartbeat = None;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(text)))))
    }
}

/// One event; the data is JSON without line breaks.
fn event(name: &str, data: &dyn fmt::Display) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

/// Names and their JSON as one object. Names need no escape: their alphabet has none that would.
struct Object<'a>(&'a [(&'static str, Bytes)]);

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('{')?;
        for (at, (name, json)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}\"{name}\":{}", String::from_utf8_lossy(json))?;
        }
        f.write_char('}')
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("stage", &self.stage).finish_non_exhaustive()
    }
}
