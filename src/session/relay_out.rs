//! The tokens that a handle makes for its page: the changes that the browser's cookie lacks, and orders, which are the
//! sign-ins and renewals that the page brings.
//!
//! An order is sealed into a turn token, which goes to the order's caller alone. No record, store, stream or other
//! handle has the token: an attacker who planted a cookie before a login doesn't receive the login.

use std::{sync::Arc, time::Duration};

use super::{
    commit::{PlannedSession, new_session_id},
    cookie_out::{self, trace_unsealable},
    relay::{BIRTH, RELAY, RelayToken, TURN, TokenKind},
    replace::{self, Replacement, SessionStart, StartKind},
    shared::{Binding, IssuedOrder, OwnEnd, SessionShared},
    sign_in_plan,
};
use crate::{
    config::ResolvedPrincipal,
    cookie::{
        order::{Named, Order, Turn},
        payload::{Entry, EntryOwner, Head, Writer},
        seal::SealError,
    },
    error::{CloseReason, WriteError, WriteErrorKind},
    id::{PrincipalTag, SessionId},
    memory::record::Record,
    record::{
        change::{BudgetShare, Mutation},
        life::{Lifetime, Predecessor, SessionLife},
    },
    time::Millis,
    value::{Scope, ValueIndex},
    version::Version,
};

/// Returns a relay token, unless this node has meanwhile sealed or opened a cookie with the same content: then the
/// browser has the cookie, or the cookie is on its way. If this response is lost, the next request heals the cookie.
pub(crate) fn relay_unless_sealed(shared: &SessionShared) -> Option<RelayToken> {
    let now = shared.node.now();
    let record = shared.live(now).ok()?;
    if cookie_out::is_sealed(shared, &record, now) && !is_refresh_due_for(&record) { None } else { relay(shared) }
}

/// Returns whether the session was used for so long since the last token that this node knows that the browser must
/// learn of the later end: a browser drops its cookie at the end that the cookie tells.
fn is_refresh_due_for(record: &Arc<Record>) -> bool {
    let refresh_after = record.read().cookie().map(|(_, cookie)| cookie.refresh_after);
    refresh_after.is_some_and(|time| record.used() >= time)
}

pub(crate) fn is_refresh_due(shared: &SessionShared) -> bool {
    shared.live(shared.node.now()).is_ok_and(|record| is_refresh_due_for(&record))
}

/// Returns how often a stream checks whether a refresh is due: every tenth of the idle lifetime, and at most once a
/// second.
pub(crate) fn refresh_interval(shared: &SessionShared) -> Option<Duration> {
    let record = shared.live(shared.node.now()).ok()?;
    record.read().life().map(|life| (life.idle() / 10).max(Duration::from_secs(1)))
}

/// Returns whether the page has anything to bring. The page brings a change until a request has shown that the browser
/// has the change, and brings a mere use only if no later token tells of the use.
fn lacks_changes(shared: &SessionShared, record: &Arc<Record>, now: Millis) -> bool {
    let is_current = |cookie| cookie_out::cookie_contents_of(shared, record, now).is_held_by(cookie);
    let cookie = shared.request_token.cookie.as_ref();
    cookie_out::is_behind(shared, record, now) && (!cookie.is_some_and(is_current) || is_refresh_due_for(record))
}

/// Returns the changes that this browser's cookie lacks, for the page to bring; `None` if the cookie lacks nothing.
/// After this handle's own end, returns the removal of the cookie that no response has removed.
pub(crate) fn relay(shared: &SessionShared) -> Option<RelayToken> {
    shared.flags.touched.set();
    shared.refuse_degraded().ok()?;
    let now = shared.node.now();
    let Ok(record) = shared.live(now) else {
        return if shared.flags.head_sent.is_set() { removal(shared) } else { None };
    };
    if !lacks_changes(shared, &record, now) {
        return None;
    }
    let kind = if record.is_confirmed() { RELAY } else { BIRTH };
    let written = cookie_out::build_payload(shared, &record, None, now)?.written;
    seal(shared, kind, &record.id(), written).inspect_err(trace_unsealable).ok()
}

fn too_long() -> WriteError {
    let message = "the token with the sign-in or renewal would be longer than the 12 KiB that a page may post: grant \
                   fewer or smaller values";
    WriteError::new(WriteErrorKind::TooLarge, message)
}

/// The session of an order, as the order's handle sees the session.
enum OrderBase {
    Living(Arc<Record>),
    /// Ended by this handle, or before its request. The time is the last moment at which a token of the id can open.
    Ended(SessionId, Millis),
    Nothing,
}

/// Seals an order for this handle's page: the sign-in of a user, or a renewal.
pub(super) fn order(
    shared: &SessionShared,
    user: Option<Mutation>,
    grants: Vec<Mutation>,
    adopts: &[ValueIndex],
) -> Result<RelayToken, WriteError> {
    shared.flags.touched.set();
    shared.refuse_degraded()?;
    if shared.node.memory.is_none() {
        let message = "`by_page` and `renew_by_page` need a memory tier, since without memory no sign-out could end \
                       the session that the token begins: add `.tier(MemoryTier::builder().build())`";
        return Err(WriteError::new(WriteErrorKind::NoMemory, message));
    }
    let now = shared.node.now();
    let turn = if user.is_some() { Turn::SignIn } else { Turn::Renew };
    let base = order_base(shared, turn, now)?;
    let named = user.as_ref().and_then(|user| sign_in_plan::named_principal(shared, user));
    let mut planned = plan_session(shared, named.as_deref(), now)?;
    let changes: Vec<_> = user.into_iter().chain(grants).collect();
    check_fit(shared, &base, turn, planned, &changes, now)?;
    let principal = named.or_else(|| shared.principal(now)).map(|principal| principal.owner.tag());
    planned.id = shared.note_order(IssuedOrder { id: planned.id, turn, principal })?;
    let (named, no_cookie) = match &base {
        OrderBase::Living(record) => (Named::Living, !record.is_confirmed()),
        // After this handle's own end the browser may have no cookie: the response to the handle's request has removed
        // the cookie, or the page has brought the cookie removal.
        OrderBase::Ended(..) => (Named::Ended, shared.has_ended_own()),
        OrderBase::Nothing => (Named::Nothing, true),
    };
    let adopts = adopts.iter().map(|index| shared.node.config.schema.get(*index).name.into()).collect();
    let (begun, birth) = (vec![planned.id], planned.birth);
    let order = Order { turn, named, no_cookie, begun, birth, adopts };
    // If no session lives, the principal from the request's head is signed in.
    let bare = |until| {
        let principal = shared.head_principal.as_ref().map(|principal| principal.owner.tag());
        bare_payload(shared, &order, principal, until, now)
    };
    let (id, mut written) = match base {
        OrderBase::Living(record) => {
            let payload = cookie_out::build_payload(shared, &record, Some(&order), now);
            (record.id(), payload.ok_or_else(|| WriteError::closed(CloseReason::Expired))?.written)
        }
        OrderBase::Ended(id, until) => (id, bare(until)),
        OrderBase::Nothing => (planned.id, bare(now.after(shared.node.config.lifetime.absolute))),
    };
    for change in &changes {
        let json = change.json.as_deref();
        let entry = Entry { owner: EntryOwner::Begun, name: change.name.as_bytes(), version: planned.birth, json };
        if !written.entry(entry) {
            return Err(too_long());
        }
    }
    seal_turn(shared, &id, written)
}

/// Returns the cookie removal of the session that this handle has ended, for the page to bring.
pub(super) fn removal(shared: &SessionShared) -> Option<RelayToken> {
    let OwnEnd { id, until, principal, others } = shared.own_end()?;
    let now = shared.node.now();
    let (turn, named, birth) = (Turn::Remove, Named::Ended, Version::ZERO);
    let order = Order { turn, named, no_cookie: true, begun: others, birth, adopts: Vec::new() };
    seal_turn(shared, &id, bare_payload(shared, &order, principal, until, now)).ok()
}

fn order_base(shared: &SessionShared, turn: Turn, now: Millis) -> Result<OrderBase, WriteError> {
    match shared.live(now) {
        Ok(record) => return Ok(OrderBase::Living(record)),
        Err(Some(_)) if shared.has_ended_own() => {}
        Err(Some(_)) if turn == Turn::SignIn && matches!(shared.binding(), Binding::Fenced(_)) => {}
        Err(Some(reason)) => return Err(WriteError::closed(reason)),
        Err(None) if matches!(shared.binding(), Binding::PrincipalOnly) => {
            let message = "a handle of `Sessions::for_principal` belongs to no page, so no page can bring its sign-in \
                           or renewal: use the handle of a request or socket";
            return Err(WriteError::new(WriteErrorKind::Invalid, message));
        }
        Err(None) if shared.has_ended_own() => {}
        Err(None) if turn == Turn::SignIn => return Ok(OrderBase::Nothing),
        Err(None) => {
            let message = "there is no session to renew: write a value first";
            return Err(WriteError::new(WriteErrorKind::Invalid, message));
        }
    }
    if let Some(ended) = shared.own_end() {
        return Ok(OrderBase::Ended(ended.id, ended.until));
    }
    let longest = now.after(shared.node.longest_absolute());
    let key = shared.request_token.key;
    Ok(key.map_or(OrderBase::Nothing, |key| OrderBase::Ended(SessionId::from_bytes(key.0), longest)))
}

/// Plans the id and the birth of the session that an order begins.
fn plan_session(
    shared: &SessionShared,
    user: Option<&ResolvedPrincipal>,
    now: Millis,
) -> Result<PlannedSession, WriteError> {
    // The page has brought an order of this handle, so the browser is in another session by now, and this handle can
    // make no further order.
    if shared.orders().iter().any(|order| shared.node.is_known(&order.id)) {
        return Err(WriteError::closed(CloseReason::Renewed));
    }
    let time = &shared.node.time;
    let known = user.and_then(|principal| shared.find_principal(principal));
    let above = known.map_or(Version::ZERO, |record| shared.node.not_before(&record, now));
    Ok(PlannedSession { id: new_session_id()?, birth: time.fresh(now, above) })
}

/// Checks that the values of the turn would fit the browser if the turn happened now.
fn check_fit(
    shared: &SessionShared,
    base: &OrderBase,
    turn: Turn,
    planned: PlannedSession,
    changes: &[Mutation],
    now: Millis,
) -> Result<(), WriteError> {
    let kind = match turn {
        Turn::SignIn => StartKind::SignIn { above: Version::ZERO },
        Turn::Renew | Turn::Remove => StartKind::Renewal { above: Version::ZERO },
    };
    let start = SessionStart { kind, planned: Some(planned), changes, adopt: &[] };
    let fitted = match base {
        OrderBase::Living(record) => {
            let predecessor = Predecessor { id: record.id(), shares_end: false };
            let replacement = Replacement::new(shared, &start, predecessor, false, now);
            let checked =
                record.live(now, |state| replace::successor_state(shared, state, &replacement, now).map(drop));
            checked.map_err(WriteError::closed)?
        }
        OrderBase::Ended(..) | OrderBase::Nothing => {
            let context = shared.node.write_context(Scope::Session, now).for_share(BudgetShare::Whole);
            shared.node.empty_session(now).check_budget(changes, context)
        }
    };
    Ok(fitted?)
}

/// Returns the payload of an order for a session that doesn't live: the order, without values of a session.
fn bare_payload(
    shared: &SessionShared,
    order: &Order,
    principal: Option<PrincipalTag>,
    until: Millis,
    now: Millis,
) -> Writer {
    let wall = |at| shared.node.time.wall(at);
    let (span, issued) = (until.since(now), wall(now));
    let lifetime = Lifetime { idle: span, absolute: span, ends_with_browser: false };
    let life = SessionLife::begin(Version::at(issued), now, lifetime).fields().map(wall);
    Writer::new(&Head { life, issued, idle_deadline: wall(until), principal, predecessor: None }, Some(order))
}

/// Seals a turn token. The seal fails only for a payload that is too long.
fn seal_turn(shared: &SessionShared, id: &SessionId, written: Writer) -> Result<RelayToken, WriteError> {
    seal(shared, TURN, id, written).map_err(|SealError| too_long())
}

fn seal(
    shared: &SessionShared,
    (prefix, purpose): TokenKind,
    id: &SessionId,
    written: Writer,
) -> Result<RelayToken, SealError> {
    let config = &shared.node.config;
    let mut text = Vec::from(prefix);
    config.cookie.seal(&config.audience, purpose, id, written.finish(), &mut text)?;
    Ok(RelayToken(String::from_utf8(text).expect("a prefix and base64url are text")))
}
