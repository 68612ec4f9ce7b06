//! What the browser is to carry, and the cookie of a response.

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
        budget::Budget,
        cookie_sync::CookieSnapshot,
        state::{Kind, State},
    },
    throttle::MINUTE,
    time::Millis,
    value::Scope,
};

/// What there is for a browser to carry, by the stamps of its records' states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CookieContents {
    session: u64,
    principal: Option<(RecordKey, u64)>,
}

impl CookieContents {
    pub(super) fn is_held_by(&self, token: &CookieSnapshot) -> bool {
        // Somebody who is not signed in here just now is no reason to write the cookie.
        let principal = self.principal.is_none() || self.principal.as_ref() == token.principal.as_deref();
        self.session == token.session && principal
    }
}

/// All that a browser is to carry at one moment, unsealed.
pub(super) struct CookiePayload {
    ends_with_browser: bool,
    pub(super) written: Writer,
    in_step: CookieSnapshot,
    /// Not all of it fitted.
    cut: bool,
}

pub(super) fn trace_unsealable(error: &SealError) {
    tracing::error!(%error, "the session can't be sealed");
}

/// What a response's head is to be given.
#[derive(Debug)]
pub(crate) struct ResponseHeaders<'a> {
    pub(crate) touched: bool,
    /// `Set-Cookie` for each place where an earlier deploy put the cookie.
    pub(crate) removals: &'a [HeaderValue],
    pub(crate) cookie: Option<HeaderValue>,
}

/// The `Set-Cookie` that the response is to carry, if it is to carry one.
pub(crate) fn set_cookie(shared: &SessionShared, now: Millis) -> Option<HeaderValue> {
    let cookie = &shared.node.config.cookie;
    let record = match shared.live(now) {
        Ok(record) => record,
        Err(_) => {
            let ended_here = shared.has_ended_own() && !shared.request_token.cookie_tokens().is_nothing();
            return if ended_here { cookie.removal() } else { None };
        }
    };
    if !shared.flags.touched.is_set() || !is_behind(shared, &record, now) {
        return None;
    }
    let CookiePayload { ends_with_browser, written, in_step, cut } = build_payload(shared, &record, now)?;
    note_over_budget(shared, &written, now);
    let ends_in = (!ends_with_browser).then(|| in_step.deadline.since(now));
    let made = cookie.creation(&shared.node.config.audience, &record.id(), written.finish(), ends_in);
    let SetCookie { header, token, ring } = made.inspect_err(trace_unsealable).ok()??;
    if shared.node.memory.is_some() {
        let fingerprint = shared.node.config.fingerprints.fingerprint(&header.as_bytes()[token], ring);
        record.write().set_cookie(fingerprint, in_step);
    }
    if cut && let Kind::Session { browser, .. } = &mut record.write().kind {
        browser.has_server_only = true;
    }
    Some(header)
}

/// Whether the browser lacks something that it is to carry, or its cookie should be made anew.
pub(super) fn is_behind(shared: &SessionShared, record: &Arc<Record>, now: Millis) -> bool {
    let contents = || cookie_contents_of(shared, record, now);
    unchanged_cookie(shared, record).is_none_or(|cookie| !contents().is_held_by(cookie))
}

/// Returns what the request's cookie held, unless the session's record has changed since, or was used for so long that the
/// browser is to be told.
fn unchanged_cookie<'a>(shared: &'a SessionShared, record: &Record) -> Option<&'a CookieSnapshot> {
    let cookie = shared.request_token.cookie.as_ref().filter(|_| shared.request_token.key == Some(*record.key()))?;
    Some(cookie).filter(|cookie| record.revision() == cookie.session && record.used() < cookie.refresh_after)
}

/// Whether the session's record alone shows that the browser lacks nothing. Most responses find that out here, without a
/// look at the time and without a session of their own.
fn is_plainly_current(shared: &SessionShared) -> bool {
    let current = shared.with_session_record(Scope::Session, |record| {
        // Nobody was signed in then. A turn of the session changes its record, and the request's head names nobody.
        let anonymous = |cookie: &CookieSnapshot| cookie.principal.is_none() && shared.head_principal.is_none();
        unchanged_cookie(shared, record).is_some_and(anonymous)
    });
    current.unwrap_or(false)
}

pub(super) fn cookie_contents_of(shared: &SessionShared, record: &Arc<Record>, now: Millis) -> CookieContents {
    CookieContents { session: record.revision(), principal: principal_contents(shared, record, now) }
}

#[inline]
fn principal_contents(shared: &SessionShared, bound: &Arc<Record>, now: Millis) -> Option<(RecordKey, u64)> {
    shared.principal_for(bound, now).map(|signed| {
        let carried =
            shared.find_principal(&signed).map_or(0, |record| record.live(now, State::cookie_revision).unwrap_or(0));
        (signed.key(), carried)
    })
}

/// What the browser is to carry now; none without a session.
pub(crate) fn cookie_contents(shared: &SessionShared) -> Option<CookieContents> {
    let now = shared.node.now();
    shared.live(now).ok().map(|record| cookie_contents_of(shared, &record, now))
}

pub(super) fn is_sealed(shared: &SessionShared, record: &Arc<Record>, now: Millis) -> bool {
    let stand = cookie_contents_of(shared, record, now);
    let state = record.read();
    match &state.kind {
        Kind::Session { .. } => state.cookie().is_some_and(|(_, held)| stand.is_held_by(&held)),
        _ => true,
    }
}

/// Everything that the browser is to carry. That is no use of the session: a page that is open, and hears of what a job
/// writes, must not keep it alive when nobody is there (OWASP ASVS 7.3.1).
///
/// Written as it is read, under the records' locks: a list of copies in between was a fifth of what a cookie costs.
pub(super) fn build_payload(shared: &SessionShared, record: &Arc<Record>, now: Millis) -> Option<CookiePayload> {
    build_payload_with(shared, record, None, now)
}

/// The payload of an order for this session, with everything that the browser is to carry.
pub(super) fn build_order_payload(
    shared: &SessionShared,
    record: &Arc<Record>,
    order: &Order,
    now: Millis,
) -> Option<Writer> {
    build_payload_with(shared, record, Some(order), now).map(|parcel| parcel.written)
}

fn build_payload_with(
    shared: &SessionShared,
    bound: &Arc<Record>,
    order: Option<&Order>,
    now: Millis,
) -> Option<CookiePayload> {
    let schema = &shared.node.config.schema;
    let signed = shared.principal_for(bound, now);
    let mut cut = false;
    let wall = |at| shared.node.time.wall(at);
    let (head, mut written, session, deadline, due) = {
        let state = bound.read();
        let Kind::Session { life, .. } = &state.kind else { return None };
        let deadline = life.deadline(bound.used());
        let head = Head {
            issued: wall(now),
            idle_deadline: wall(deadline),
            life: life.fields().map(wall),
            principal: signed.as_deref().map(|signed| signed.owner.tag()),
            predecessor: life.predecessor(&shared.node.time, now),
        };
        let mut written = Writer::new(&head, order);
        for (name, stored) in state.cookie_entries(schema) {
            cut |= !written.entry(Entry::of(EntryOwner::Session, name, stored));
        }
        (head, written, state.revision(), deadline, life.refresh_after(deadline, now))
    };
    let principal = signed.as_deref().map(|signed| {
        let carried = shared.find_principal(signed).map_or(0, |record| {
            let read = record.live(now, |state| {
                for (name, stored) in state.cookie_entries(schema) {
                    cut |= !written.entry(Entry::of(EntryOwner::Principal, name, stored));
                }
                state.cookie_revision()
            });
            read.unwrap_or(0)
        });
        (signed.key(), carried)
    });
    if written.entries_len() > room(shared) {
        written = rewrite(shared, &head, order, &written);
        cut = true;
    }
    let ends_with_browser = head.life.ends_with_browser;
    let in_step =
        CookieSnapshot { deadline, sealed: now, refresh_after: due, session, principal: principal.map(Arc::new) };
    Some(CookiePayload { ends_with_browser, written, in_step, cut })
}

/// The bytes that there are for entries in the largest cookie.
fn room(shared: &SessionShared) -> usize {
    shared.node.config.max_budget.session + shared.node.config.max_budget.principal
}

/// Traces that a cookie is over the budget, as after a deploy that lowered the budget: at most once a minute.
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
        "a cookie is over `CookieTier::max_bytes`, and is sent whole: see that the proxies in front take it, or make \
         its values smaller"
    );
}

/// Writes the entries again without the oldest, until they fit: two nodes can accept values apart that together are too
/// much for a cookie. The oldest stay in the records.
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

/// The head is about to leave: what it must say of caches, and whether it carries a cookie.
pub(crate) fn response_headers(shared: &SessionShared, upgrade: bool) -> ResponseHeaders<'_> {
    shared.flags.head_sent.set();
    if upgrade {
        return ResponseHeaders { touched: false, removals: &[], cookie: None };
    }
    let touched = shared.flags.touched.is_set();
    if is_left_to_inner(shared) {
        return ResponseHeaders { touched, removals: &[], cookie: None };
    }
    let due = touched && !is_plainly_current(shared);
    let cookie = if due { set_cookie(shared, shared.node.now()) } else { None };
    let removes = match shared.request_token.opened() {
        0 => false,
        1 => cookie.is_some(),
        // What another site makes a browser send must not take a cookie that the browser withheld.
        _ => !matches!(shared.binding(), Binding::CrossSite(_)),
    };
    ResponseHeaders {
        touched,
        removals: if removes { shared.node.config.cookie.former_removals() } else { &[] },
        cookie,
    }
}

/// Whether an inner layer has seen this handle's session off.
fn is_left_to_inner(shared: &SessionShared) -> bool {
    let seen_off = shared.lazy.get().and_then(|lazy| *lazy.left_to_inner.lock());
    seen_off.is_some() && seen_off == shared.bound_key() && !shared.has_ended_own()
}
