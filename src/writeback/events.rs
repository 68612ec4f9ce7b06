//! `GET /events`: the exposed values, at the beginning and at each change, as server-sent events.
//!
//! Nothing is queued: each poll compares the values with the last sent values, when the connection has room for more.
//! So a slow page skips changes, and a writer never waits for a page.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use super::{
    body::is_exact_in_pages,
    stream::{EventSource, EventText, event},
};
use crate::{
    error::CloseReason,
    live::{Next, Wait, close_reason, next_end},
    session::{
        Session, ValueRevision,
        cookie_out::{self, CookieContents},
        read, relay_out,
    },
    time::{Clock, Sleep},
    value::{Json, ValueIndex},
};

/// The delay before a relay: the response of the request that made a change brings the change to the browser. A change
/// is relayed only if no cookie with the change has been sealed by then.
const RELAY_DELAY: Duration = Duration::from_millis(200);

/// The events of one page's connection.
pub(super) struct Events {
    wait: Wait,
    /// The values that the page may read.
    shown: Box<[ValueIndex]>,
    /// The last sent copy of each value. The bytes are compared too, since two nodes may have written at the same
    /// version.
    seen: Vec<(ValueRevision, Option<Json>)>,
    opening: bool,
    /// The cookie contents that the browser was last given, by a response or a relay.
    given: Option<CookieContents>,
    relay: Option<Sleep>,
    /// The timer of the next check for a due refresh: a use of the session without a change wakes no stream.
    due: Option<Sleep>,
    heartbeat: Duration,
}

impl Events {
    pub(super) fn new(session: Session, shown: &[ValueIndex], heartbeat: Duration) -> Self {
        let given = cookie_out::cookie_contents(session.shared());
        let (shown, seen) = (shown.into(), vec![(None, None); shown.len()]);
        Self { wait: Wait::new(session), shown, seen, opening: true, given, relay: None, due: None, heartbeat }
    }

    /// Returns the changes since the last poll, as events.
    fn poll_changes(&mut self, cx: &mut Context<'_>) -> Poll<EventText> {
        let Self { wait, shown, seen, opening, given, relay, heartbeat, .. } = self;
        let over = |reason: CloseReason| Next::Item(EventText::Last(event("closed", &format_args!("\"{reason}\""))));
        wait.poll(cx, |session, ended| {
            if let Some(reason) = ended.or_else(|| close_reason(session)) {
                return over(reason);
            }
            let shared = session.shared();
            let now = shared.node.now();
            if relay.is_none() && cookie_out::cookie_contents(shared) != *given {
                *relay = Some(shared.node.time.clock.sleep(RELAY_DELAY));
            }
            let opening = std::mem::take(opening);
            let (mut set, mut removed) = (Vec::new(), Vec::new());
            for (index, seen) in shown.iter().zip(seen.iter_mut()) {
                let declared = shared.node.config.schema.get(*index);
                let look = match read::peek(shared, Some(*index), now) {
                    Ok(look) => look,
                    Err(reason) => return over(reason),
                };
                // Compare the stored bytes: a type with a `HashMap` may encode the same value in another order each
                // time.
                let now_seen = (look.revision(), look.json().cloned());
                if !opening && now_seen == *seen {
                    continue;
                }
                *seen = now_seen;
                // Encoded by the type, since a source may format its JSON in another way.
                match read::answer(shared, *index, &look, now, |json| (declared.normalize)(json)) {
                    Some((json, _)) if is_exact_in_pages(&json) => set.push((declared.name, json)),
                    // The page may have an older value, which must not stay.
                    Some(_) => {
                        shared.node.traces.inexact_number((*index, declared.name), now);
                        removed.push(declared.name);
                    }
                    None => removed.push(declared.name),
                }
            }
            let mut text = String::new();
            if opening {
                let (session, user) = (read::session_mark(shared), read::user_mark(shared));
                let (heartbeat, values) = (heartbeat.as_millis(), object(&set));
                let marks = format_args!(r#""session":"{session}","user":"{user}""#);
                text += &event("state", &format_args!(r#"{{{marks},"heartbeat":{heartbeat},"values":{values}}}"#));
                return Next::Item(EventText::More(text));
            }
            if !set.is_empty() {
                text += &event("set", &object(&set));
            }
            if !removed.is_empty() {
                text += &event("removed", &serde_json::json!(removed));
            }
            let until = next_end(session, shown.iter().copied(), now);
            if text.is_empty() { Next::Idle(until) } else { Next::Last(EventText::More(text), until) }
        })
    }

    /// Checks from time to time whether the browser's cookie is due for a refresh, after uses of the session.
    fn poll_due(&mut self, cx: &mut Context<'_>) {
        let Self { wait, relay, due, .. } = self;
        let shared = wait.session().shared();
        while relay.is_none() {
            let Some(interval) = relay_out::refresh_interval(shared) else { return };
            let sleep = due.get_or_insert_with(|| shared.node.time.clock.sleep(interval));
            if sleep.as_mut().poll(cx).is_pending() {
                return;
            }
            *due = None;
            if relay_out::is_refresh_due(shared) {
                *relay = Some(shared.node.time.clock.sleep(RELAY_DELAY));
            }
        }
    }

    /// Returns a relay of the changes that no response has brought to the browser within [`RELAY_DELAY`].
    fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        let shared = self.wait.session().shared();
        let Some(sleep) = &mut self.relay else { return Poll::Pending };
        ready!(sleep.as_mut().poll(cx));
        self.relay = None;
        self.given = cookie_out::cookie_contents(shared);
        let token = relay_out::relay_unless_sealed(shared);
        token.map_or(Poll::Pending, |token| Poll::Ready(event("relay", &format_args!("\"{token}\""))))
    }
}

impl EventSource for Events {
    fn clock(&self) -> &dyn Clock {
        &*self.wait.session().shared().node.time.clock
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<EventText> {
        match self.poll_changes(cx) {
            Poll::Pending => {
                self.poll_due(cx);
                self.poll_relay(cx).map(EventText::More)
            }
            told => told,
        }
    }
}

/// Encodes names and their JSON as one object. A name has no character that JSON escapes.
fn object(values: &[(&str, Json)]) -> String {
    let members = values.iter().map(|(name, json)| format!("\"{name}\":{}", String::from_utf8_lossy(json)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}
