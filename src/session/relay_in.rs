//! Applies the tokens that a page brings: a relay token's changes, a birth token's session, a turn token's order.

use std::{iter, sync::Arc};

use super::{
    commit::PlannedSession,
    end, lifecycle,
    load::token::CurrentToken,
    relay::{self, OpenedRelay, RelayRefused},
    replace::{SessionStart, StartKind},
    shared::{CookieTokens, OwnEnd, SessionShared},
    sign_in_plan::{self, SignInRequest},
};
use crate::{
    config::ResolvedPrincipal,
    cookie::{
        layout::NONCE_LEN,
        order::{Named, Order, Turn},
        payload::{Entry, EntryOwner, Payload},
        seal::Purpose,
    },
    error::CloseReason,
    id::SessionId,
    memory::record::Record,
    node::accepted_nonces::NotAccepted,
    record::change::Mutation,
    time::Millis,
    value::Json,
    version::Version,
};

/// Applies a token that a page brings. The request has passed the cross-site rule.
pub(crate) async fn apply_relay(shared: &SessionShared, relayed: OpenedRelay) -> Result<(), RelayRefused> {
    shared.flags.touched.set();
    shared.refuse_degraded().map_err(RelayRefused::Write)?;
    if let Some(order) = &relayed.current.payload.order {
        let brought = shared.request_token.cookie_tokens();
        return match order.turn {
            Turn::Remove => apply_removal(shared, order, &relayed, &brought).await,
            Turn::Renew | Turn::SignIn => apply_order(shared, order, &relayed, &brought).await,
        };
    }
    let now = shared.node.now();
    let OpenedRelay { id, purpose, current, nonce, page } = relayed;
    match shared.live(now) {
        Ok(record) if record.id() == id => relay::take_changes(shared, &record, &current, now),
        Ok(_) => Err(RelayRefused::OtherSession),
        Err(Some(reason)) => Err(RelayRefused::Closed(reason)),
        Err(None) if purpose == Purpose::Birth => {
            relay::check_minting(shared, page)?;
            bring_birth(shared, id, &current, nonce, now).await
        }
        // The cookie has idled out, and proves only that the browser had the session. The token tells of a later use,
        // so the session may still live.
        Err(None) if shared.request_token.cookie_tokens().ids == [id] && shared.node.end_reason(&id).is_none() => {
            let record = relay::find_token_record(shared, id, &current, now).await?;
            relay::take_changes(shared, &record, &current, now)?;
            shared.rebind(record);
            Ok(())
        }
        Err(None) => Err(RelayRefused::OtherSession),
    }
}

/// Gives the browser the session that began on its page's socket. A birth token is accepted once, from any browser.
async fn bring_birth(
    shared: &SessionShared,
    id: SessionId,
    current: &CurrentToken,
    nonce: [u8; NONCE_LEN],
    now: Millis,
) -> Result<(), RelayRefused> {
    if !current.is_brief(now) {
        return Err(RelayRefused::Expired);
    }
    let record = relay::find_token_record(shared, id, current, now).await?;
    shared.node.accepted_nonces.accept(nonce, now).map_err(|refused| match refused {
        NotAccepted::Used => RelayRefused::Used,
        NotAccepted::Full => RelayRefused::Busy,
    })?;
    relay::take_changes(shared, &record, current, now)?;
    shared.rebind(record);
    Ok(())
}

/// Ends the ids that a removal names, and removes the cookie if the cookie can be of no other session.
async fn apply_removal(
    shared: &SessionShared,
    order: &Order,
    relayed: &OpenedRelay,
    brought: &CookieTokens,
) -> Result<(), RelayRefused> {
    if brought.is_nothing() {
        return Ok(());
    }
    let now = shared.node.now();
    let named = || iter::once(&relayed.id).chain(&order.begun);
    let names = |id: &SessionId| named().any(|named| named == id);
    // After a renewal the cookie of the next session may be on its way to the browser, and a cookie removal could
    // remove that cookie.
    let turned = brought.ids.iter().any(|id| shared.node.end_reason(id) == Some(CloseReason::Renewed));
    for id in named() {
        let CurrentToken { life, payload, .. } = &relayed.current;
        end::end_id(shared, *id, payload.head.principal, life.absolute_deadline(), now).await?;
    }
    let other = brought.ids.iter().any(|id| !names(id) && shared.node.end_reason(id).is_none());
    // The cookie stays if it may belong to another session: a cookie that this node can't open may be a later login.
    if other || turned || brought.unread {
        return Err(RelayRefused::Closed(CloseReason::Renewed));
    }
    shared.note_own_end(OwnEnd { id: relayed.id, until: now, principal: None, others: Vec::new() });
    Ok(())
}

async fn apply_order(
    shared: &SessionShared,
    order: &Order,
    relayed: &OpenedRelay,
    brought: &CookieTokens,
) -> Result<(), RelayRefused> {
    let OpenedRelay { id, current, .. } = relayed;
    let (id, payload, now) = (*id, &current.payload, shared.node.now());
    if !current.is_brief(now) {
        return Err(RelayRefused::Expired);
    }
    if shared.node.accepted_nonces.contains(&relayed.nonce) {
        return Err(RelayRefused::Used);
    }
    let Some(begun) = order.begun.first() else { return Err(RelayRefused::NotGenuine) };
    let planned = PlannedSession { id: *begun, birth: current.believed_version(order.birth, &shared.node.time) };
    // The first entry of a sign-in names the user.
    let first = payload.entries(EntryOwner::Begun).next().filter(|_| order.turn == Turn::SignIn);
    let user = first.map(|entry| change(shared, &entry)).transpose()?;
    let user = user.and_then(|user| sign_in_plan::named_principal(shared, &user));
    if order.named == Named::Ended {
        let principal = user.as_ref().map(|user| user.owner.tag()).or(payload.head.principal);
        end::end_id(shared, id, principal, current.life.absolute_deadline(), now).await?;
    }
    let record = named_session(shared, order, relayed, brought, now).await?;
    let _lifecycle = shared.lifecycle_lock().await;
    check_order(shared, payload, user, planned, record.as_ref(), now)?;
    if let Some(record) = &record
        && shared.bound_key() != Some(*record.key())
    {
        shared.rebind(record.clone());
    }
    let changes: Vec<_> =
        payload.entries(EntryOwner::Begun).map(|entry| change(shared, &entry)).collect::<Result<_, _>>()?;
    let turned = match (order.turn, changes.split_first()) {
        (Turn::SignIn, Some((user, grants))) => {
            let adopts = order.adopts.iter().filter_map(|name| shared.node.config.schema.index_by_name(name));
            let user = sign_in_plan::user_change(shared, user.json.clone().ok_or(RelayRefused::NotGenuine)?)?;
            let adopt = &adopts.collect::<Vec<_>>();
            let request = SignInRequest { user, grants, adopt, planned: Some(planned), may_begin: record.is_none() };
            sign_in_plan::sign_in_with(shared, request).await
        }
        (Turn::SignIn, None) => return Err(RelayRefused::NotGenuine),
        (Turn::Renew | Turn::Remove, _) => {
            let start = SessionStart {
                kind: StartKind::Renewal { above: Version::ZERO },
                planned: Some(planned),
                changes: &changes,
                adopt: &[],
            };
            match &record {
                Some(_) => lifecycle::renew_with(shared, &start).await,
                None => lifecycle::begin_session(shared, &start, now).await,
            }
        }
    };
    turned.map_err(RelayRefused::Write)?;
    // The session that the order began may leave memory within the minute of the order, and only the noted nonce then
    // refuses the order a second time. The order has succeeded, even if the set of nonces is full.
    let _ = shared.node.accepted_nonces.accept(relayed.nonce, now);
    Ok(())
}

/// Returns the living session that an order names, once the request has shown that it comes from the session's browser.
async fn named_session(
    shared: &SessionShared,
    order: &Order,
    relayed: &OpenedRelay,
    brought: &CookieTokens,
    now: Millis,
) -> Result<Option<Arc<Record>>, RelayRefused> {
    let id = relayed.id;
    let brings_it = brought.ids.contains(&id);
    let living = |other: &&SessionId| **other != id && shared.node.end_reason(other).is_none();
    if brought.ids.iter().any(|other| living(&other)) {
        return Err(RelayRefused::OtherSession);
    }
    if !brings_it {
        // The request brought no token of a living session: only tokens of ended ids, or cookies that did not open.
        if !order.no_cookie || brought.unread {
            return Err(RelayRefused::OtherSession);
        }
        relay::check_minting(shared, relayed.page)?;
    }
    if order.named != Named::Living {
        return Ok(None);
    }
    let record = match shared.live(now) {
        Ok(record) if record.id() == id => record,
        Ok(_) => return Err(RelayRefused::OtherSession),
        // The request brought no cookie, or a cookie that has idled out. The token tells of a later use.
        Err(_) => relay::find_token_record(shared, id, &relayed.current, now).await?,
    };
    relay::take_changes(shared, &record, &relayed.current, now)?;
    Ok(Some(record))
}

/// # Errors
///
/// `OtherUser` if the signed-in user has changed since the order, `Closed(Revoked)` if all sessions of a user have
/// ended since, and `Used` if another request has carried out the order.
fn check_order(
    shared: &SessionShared,
    payload: &Payload,
    user: Option<Arc<ResolvedPrincipal>>,
    planned: PlannedSession,
    record: Option<&Arc<Record>>,
    now: Millis,
) -> Result<(), RelayRefused> {
    let present = match record {
        Some(record) => shared.principal_for(record, now),
        None => shared.head_principal.clone(),
    };
    if present.as_ref().map(|principal| principal.owner.tag()) != payload.head.principal {
        return Err(RelayRefused::OtherUser);
    }
    let is_revoked = |principal: Arc<ResolvedPrincipal>| {
        shared.find_principal(&principal).is_some_and(|record| shared.node.not_before(&record, now) >= planned.birth)
    };
    if [present, user].into_iter().flatten().any(is_revoked) {
        return Err(RelayRefused::Closed(CloseReason::Revoked));
    }
    if shared.node.is_known(&planned.id) { Err(RelayRefused::Used) } else { Ok(()) }
}

/// Returns the mutation of a value that an order grants. A value that this build does not declare can't be granted.
fn change(shared: &SessionShared, entry: &Entry<'_>) -> Result<Mutation, RelayRefused> {
    let index = shared.node.config.schema.index_by_bytes(entry.name).ok_or(RelayRefused::NotGenuine)?;
    let (name, json) = (shared.node.config.schema.get(index).name, entry.json.map(Json::from));
    Ok(Mutation { index, name, json, version: None, replaces: None })
}
