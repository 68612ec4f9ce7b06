//! `GET /events`: the report at the beginning and after each change, and the changes themselves.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use serde_json::json;

use super::report::Report;
use crate::{
    live::{ChangeEvent, Next, Wait, changes::Snapshot, close_reason, next_end},
    record::values::ChangeOrigin,
    session::Session,
    time::{Clock, Sleep},
    version::Version,
    writeback::stream::{EventSource, EventText, HEARTBEAT_EVENT, event},
};

/// The delay of a second report after a change. No wake-up tells a stream that a response has brought a change to the
/// browser, which happens soon after the change. Nor does a use of the session by another request wake a stream: the
/// next heartbeat reports the use.
const SETTLED: Duration = Duration::from_millis(250);

/// The events of one inspector's page.
pub(super) struct Reports {
    wait: Wait,
    seen: Snapshot,
    /// The last sent report.
    told: Option<Report>,
    settling: Option<Sleep>,
}

impl Reports {
    pub(super) fn new(session: Session) -> Self {
        let wait = Wait::new(session);
        let seen = Snapshot::of(wait.session(), wait.session().shared().node.now());
        Self { wait, seen, told: None, settling: None }
    }

    fn poll_changes(&mut self, cx: &mut Context<'_>) -> Poll<EventText> {
        let Self { wait, seen, told, settling } = self;
        wait.poll(cx, |session, ended| {
            if let Some(reason) = ended.or_else(|| close_reason(session)) {
                return Next::Item(EventText::Last(event("closed", &format_args!("\"{reason}\""))));
            }
            let shared = session.shared();
            let now = shared.node.now();
            let survey = Snapshot::of(session, now);
            let changes = seen.diff(&survey, session);
            *seen = survey;
            // The report is sent before the changes, so that a reader of a change finds the outcome in the report.
            let mut text = news(session, told).unwrap_or_default();
            if !changes.is_empty() {
                let changes: Vec<_> = changes.iter().map(change).collect();
                text += &event("changes", &json!({ "now": now.0, "changes": changes }));
            }
            let until = next_end(session, shared.node.config.schema.iter().map(|(index, _)| index), now);
            if text.is_empty() {
                return Next::Idle(until);
            }
            *settling = Some(shared.node.time.clock.sleep(SETTLED));
            Next::Last(EventText::More(text), until)
        })
    }

    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        let Some(sleep) = &mut self.settling else { return Poll::Pending };
        ready!(sleep.as_mut().poll(cx));
        self.settling = None;
        news(self.wait.session(), &mut self.told).map_or(Poll::Pending, Poll::Ready)
    }
}

/// Returns the report as an event, if the report differs from the last sent report.
fn news(session: &Session, told: &mut Option<Report>) -> Option<String> {
    let report = Report::of(session);
    if told.as_ref() == Some(&report) {
        return None;
    }
    let time = &session.shared().node.time;
    let text = event("report", &report.told_at(time.wall(time.now())));
    *told = Some(report);
    Some(text)
}

impl EventSource for Reports {
    fn clock(&self) -> &dyn Clock {
        &*self.wait.session().shared().node.time.clock
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<EventText> {
        match self.poll_changes(cx) {
            Poll::Pending => self.poll_settled(cx).map(EventText::More),
            told => told,
        }
    }

    fn heartbeat(&mut self) -> String {
        news(self.wait.session(), &mut self.told).unwrap_or_else(|| HEARTBEAT_EVENT.to_owned())
    }
}

fn change(changed: &ChangeEvent) -> serde_json::Value {
    let of = |kind: &str, name: &str, version: &Version, origin: &ChangeOrigin| {
        let origin = match origin {
            ChangeOrigin::Local => "fresh",
            ChangeOrigin::Remote => "carried",
        };
        json!({ "kind": kind, "name": name, "version": version.to_string(), "origin": origin })
    };
    match changed {
        ChangeEvent::Set { name, version, origin } => of("set", name, version, origin),
        ChangeEvent::Removed { name, version, origin } => of("removed", name, version, origin),
        ChangeEvent::Expired { name } => json!({ "kind": "expired", "name": name }),
        ChangeEvent::Cleared { version } => json!({ "kind": "cleared", "version": version.to_string() }),
        ChangeEvent::Renewed => json!({ "kind": "renewed" }),
        ChangeEvent::CaughtUp => json!({ "kind": "caught_up" }),
        ChangeEvent::Closed(reason) => json!({ "kind": "closed", "reason": reason.to_string() }),
    }
}
