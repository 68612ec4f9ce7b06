//! The content of the browser's cookie, and the `Set-Cookie` of a response.

use std::{cmp::Reverse, sync::Arc};

use http::HeaderValue;

use super::shared::{Binding, SessionShared};
use crate::{
    cookie::{
        order::Order,
        payload::{Entry, EntryOwner, Head, Writer},
        seal::SealError,
        set_cookie::SetCookie,
    },
    id::RecordKey,
    memory::record::Record,
    record::{
        cookie_sync::CookieSnapshot,
        state::{Kind, State},
        write::Budget,
    },
    throttle::MINUTE,
    time::Millis,
    value::Scope,
};

/// The content that a browser's cookie should have, as the revisions of the two records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CookieContents {
    session: u64,
    principal: Option<(RecordKey, u64)>,
}

impl CookieContents {
    pub(super) fn is_held_by(&self, token: &CookieSnapshot) -> bool {
        // A principal that is in the cookie and is not signed in here is no reason to write the cookie.
        let principal = self.principal.is_none() || self.principal.as_ref() == token.principal.as_deref();
        self.session == token.session && principal
    }
}

/// The content of a cookie at one moment, unsealed.
pub(super) struct CookiePayload {
    ends_with_browser: bool,
    pub(super) written: Writer,
    snapshot: CookieSnapshot,
    /// Whether some values did not fit.
    cut: bool,
}

pub(super) fn trace_unsealable(error: &SealError) {
    tracing::error!(%error, "a session's token can't be sealed, so the browser does not get the session's changes");
}

/// The headers that the session adds to a response.
#[derive(Debug)]
pub(crate) struct ResponseHeaders<'a> {
    pub(crate) touched: bool,
    /// The cookie removals for the places where an earlier deploy put the cookie.
    pub(crate) removals: &'a [HeaderValue],
    pub(crate) cookie: Option<HeaderValue>,
}

/// Returns the `Set-Cookie` of the response, if the response needs one, and notes in the record that the browser gets
/// the cookie.
pub(crate) fn set_cookie(shared: &SessionShared, now: Millis) -> Option<HeaderValue> {
    let cookie = &shared.node.config.cookie;
    if shared.flags.degraded.is_set() {
        // The copy lacks the signed-in user, and the browser's own cookie lacks nothing that this node knows.
        return None;
    }
    let Ok(record) = shared.live(now) else {
        let ended_here = shared.has_ended_own() && !shared.request_token.cookie_tokens().is_nothing();
        return if ended_here { cookie.removal() } else { None };
    };
    if !shared.flags.touched.is_set() || !is_behind(shared, &record, now) {
        return None;
    }
    let CookiePayload { ends_with_browser, written, snapshot, cut } = build_payload(shared, &record, None, now)?;
    note_over_budget(shared, &written, now);
    let ends_in = (!ends_with_browser).then(|| snapshot.deadline.since(now));
    let made = cookie.creation(&shared.node.config.audience, &record.id(), written.finish(), ends_in);
    let SetCookie { header, token, ring } = made.inspect_err(trace_unsealable).ok()??;
    if shared.node.memory.is_some() {
        let fingerprint = shared.node.config.fingerprints.fingerprint(&header.as_bytes()[token], ring);
        record.write().set_cookie(fingerprint, snapshot);
    }
    if cut && let Kind::Session { browser, .. } = &mut record.write().kind {
        browser.has_server_only = true;
    }
    Some(header)
}

/// Returns whether the browser's cookie lacks a change, or should be made anew.
pub(super) fn is_behind(shared: &SessionShared, record: &Arc<Record>, now: Millis) -> bool {
    let contents = || cookie_contents_of(shared, record, now);
    unchanged_cookie(shared, record).is_none_or(|cookie| !contents().is_held_by(cookie))
}

/// Returns the state that the request's cookie held, unless the session's record has changed since, or the session was
/// used for so long that the browser must learn of the later end.
fn unchanged_cookie<'a>(shared: &'a SessionShared, record: &Record) -> Option<&'a CookieSnapshot> {
    let cookie = shared.request_token.cookie.as_ref().filter(|_| shared.request_token.key == Some(*record.key()))?;
    Some(cookie).filter(|cookie| record.revision() == cookie.session && record.used() < cookie.refresh_after)
}

/// Returns whether the browser lacks nothing. Most responses end here, without a look at the clock and without a clone of the
/// record.
fn is_current(shared: &SessionShared) -> bool {
    let unchanged = shared.with_session_record(Scope::Session, |record| {
        let cookie = unchanged_cookie(shared, record)?;
        // If neither the cookie nor the request head names a principal, the cookie lacks no user's values: a sign-in
        // since then would have changed the record.
        let is_anonymous = cookie.principal.is_none() && shared.head_principal.is_none();
        Some((!is_anonymous).then(|| Arc::clone(record)))
    });
    match unchanged.flatten() {
        None => false,
        Some(None) => true,
        // Called outside of the lock, since application code may derive the principal. The time is that of the last
        // use: a principal's record that expires during a request must not take its values out of the cookie.
        Some(Some(record)) => !is_behind(shared, &record, record.used()),
    }
}

#[inline]
pub(super) fn cookie_contents_of(shared: &SessionShared, record: &Arc<Record>, now: Millis) -> CookieContents {
    let principal = shared.principal_for(record, now).map(|principal| {
        let revision =
            shared.find_principal(&principal).map_or(0, |record| record.live(now, State::cookie_revision).unwrap_or(0));
        (principal.key(), revision)
    });
    CookieContents { session: record.revision(), principal }
}

/// Returns the content that the browser's cookie should have now; `None` without a session.
pub(crate) fn cookie_contents(shared: &SessionShared) -> Option<CookieContents> {
    let now = shared.node.now();
    shared.live(now).ok().map(|record| cookie_contents_of(shared, &record, now))
}

pub(super) fn is_sealed(shared: &SessionShared, record: &Arc<Record>, now: Millis) -> bool {
    let contents = cookie_contents_of(shared, record, now);
    let state = record.read();
    state.life().is_none() || state.cookie().is_some_and(|(_, held)| contents.is_held_by(&held))
}

/// Returns the whole content of a cookie, also as the payload of an order. A payload does not count as a use of the
/// session: an open page, which is told of the writes of a job, must not keep the session alive after the page's user
/// has left (OWASP ASVS 7.3.1).
///
/// The payload is written while the values are read, under the records' locks: a list of copies in between was a fifth
/// of the cost of a cookie.
pub(super) fn build_payload(
    shared: &SessionShared,
    record: &Arc<Record>,
    order: Option<&Order>,
    now: Millis,
) -> Option<CookiePayload> {
    let schema = &shared.node.config.schema;
    let principal = shared.principal_for(record, now);
    let mut cut = false;
    let wall = |at| shared.node.time.wall(at);
    let (head, mut written, session, deadline, refresh_after) = {
        let state = record.read();
        let life = state.life()?;
        let deadline = life.deadline(record.used());
        let head = Head {
            issued: wall(now),
            idle_deadline: wall(deadline),
            life: life.fields().map(wall),
            principal: principal.as_deref().map(|principal| principal.owner.tag()),
            predecessor: life.predecessor(&shared.node.time, now),
        };
        let mut written = Writer::new(&head, order);
        for (name, stored) in state.cookie_entries(schema) {
            cut |= !written.entry(Entry::of(EntryOwner::Session, name, stored));
        }
        (head, written, state.revision(), deadline, life.refresh_after(deadline, now))
    };
    let principal = principal.as_deref().map(|principal| {
        let revision = shared.find_principal(principal).map_or(0, |record| {
            let read = record.live(now, |state| {
                for (name, stored) in state.cookie_entries(schema) {
                    cut |= !written.entry(Entry::of(EntryOwner::Principal, name, stored));
                }
                state.cookie_revision()
            });
            read.unwrap_or(0)
        });
        (principal.key(), revision)
    });
    if written.entries_len() > room(shared) {
        written = rewrite(shared, &head, order, &written);
        cut = true;
    }
    let ends_with_browser = head.life.ends_with_browser;
    let snapshot = CookieSnapshot { deadline, sealed: now, refresh_after, session, principal: principal.map(Arc::new) };
    Some(CookiePayload { ends_with_browser, written, snapshot, cut })
}

/// Returns the maximum bytes of the entries in the largest cookie.
fn room(shared: &SessionShared) -> usize {
    shared.node.config.max_budget.session + shared.node.config.max_budget.principal
}

/// Traces a cookie that is over the budget, as after a deploy that lowered the budget: at most once a minute.
fn note_over_budget(shared: &SessionShared, written: &Writer, now: Millis) {
    let Budget { session, principal, .. } = shared.node.config.budget;
    let bytes = written.entries_len();
    if bytes <= session + principal {
        return;
    }
    let Some(left_out) = shared.node.over_budget.due(1, now, MINUTE) else { return };
    let mut entries: Vec<_> = written.entries().collect();
    entries.sort_unstable_by_key(|entry| Reverse(entry.len()));
    let largest: Vec<_> = entries.iter().take(3).map(Entry::text).collect();
    tracing::warn!(
        largest = largest.join(", "),
        over = bytes - session - principal,
        left_out,
        "a session's cookie is longer than `CookieTier::max_bytes`, and is sent whole: check that the proxies in front \
         accept the cookie, or make the largest values smaller"
    );
}

/// Writes the entries again without the oldest entries, until the rest fits: two nodes may have accepted values that
/// together are too large for a cookie. The oldest values stay in the records.
fn rewrite(shared: &SessionShared, head: &Head, order: Option<&Order>, written: &Writer) -> Writer {
    let mut entries: Vec<_> = written.entries().collect();
    while entries.iter().map(Entry::len).sum::<usize>() > room(shared) {
        let oldest = entries.iter().enumerate().min_by_key(|(_, entry)| entry.version).map(|(at, _)| at);
        let Some(oldest) = oldest else { break };
        let name = entries.swap_remove(oldest).text();
        shared.node.traces.cut_cookie(name, shared.node.now());
    }
    let mut anew = Writer::new(head, order);
    for entry in entries {
        anew.entry(entry);
    }
    anew
}

/// Returns the headers for a response whose head is about to leave.
pub(crate) fn response_headers(shared: &SessionShared, upgrade: bool) -> ResponseHeaders<'_> {
    shared.flags.head_sent.set();
    let touched = !upgrade && shared.flags.touched.is_set();
    let mut out = ResponseHeaders { touched, removals: &[], cookie: None };
    if upgrade || is_left_to_inner(shared) {
        return out;
    }
    if touched && !is_current(shared) {
        out.cookie = set_cookie(shared, shared.node.now());
    }
    let removes = match shared.request_token.opened() {
        0 => false,
        1 => out.cookie.is_some(),
        // A request that another site caused must not remove a cookie that the browser withheld.
        _ => !matches!(shared.binding(), Binding::CrossSite(_)),
    };
    if removes {
        out.removals = shared.node.config.cookie.former_removals();
    }
    out
}

/// Returns whether an inner layer has added the headers for this handle's session.
fn is_left_to_inner(shared: &SessionShared) -> bool {
    let left = shared.lazy.get().and_then(|lazy| *lazy.left_to_inner.lock());
    left.is_some() && left == shared.bound_key() && !shared.has_ended_own()
}
