use std::{sync::Arc, time::Duration};

use super::{
    cookie_out::{self, trace_unsealable},
    order,
    relay::{BIRTH_PREFIX, RELAY_PREFIX, RelayToken},
    shared::SessionShared,
};
use crate::{cookie::seal::Purpose, memory::record::Record, record::state::Kind, time::Millis};

/// A relay token, unless this node has meanwhile sealed a cookie that holds all of it, or opened one: then the
/// browser has it, or has it on the way. Should that response be lost, the next request heals the cookie.
pub(crate) fn relay_unless_sealed(shared: &SessionShared) -> Option<RelayToken> {
    let now = shared.node.now();
    let record = shared.live(now).ok()?;
    if cookie_out::is_sealed(shared, &record, now) && !is_refresh_due_for(&record) { None } else { relay(shared) }
}

/// Whether the session was used since the last token that this node knows of, by so much that the browser is to be told:
/// a browser drops its cookie at the end that it was told.
fn is_refresh_due_for(record: &Arc<Record>) -> bool {
    let due = record.read().cookie().map(|(_, known)| known.refresh_after);
    due.is_some_and(|due| record.used() >= due)
}

pub(crate) fn is_refresh_due(shared: &SessionShared) -> bool {
    shared.live(shared.node.now()).is_ok_and(|record| is_refresh_due_for(&record))
}

/// How often a stream looks whether the browser's copy is due: a tenth of the idle lifetime, and no more than once a
/// second.
pub(crate) fn refresh_interval(shared: &SessionShared) -> Option<Duration> {
    let record = shared.live(shared.node.now()).ok()?;
    match &record.read().kind {
        Kind::Session { life, .. } => Some((life.idle() / 10).max(Duration::from_secs(1))),
        _ => None,
    }
}

/// Whether there is anything to bring. A change is brought until a request has shown that the browser has it; mere use
/// only where no later token tells of it.
fn lacks_changes(shared: &SessionShared, record: &Arc<Record>, now: Millis) -> bool {
    let carried = |in_step| cookie_out::cookie_contents_of(shared, record, now).is_held_by(in_step);
    let brought = shared.request_token.cookie.as_ref();
    cookie_out::is_behind(shared, record, now) && (!brought.is_some_and(carried) || is_refresh_due_for(record))
}

/// The changes that this browser's cookie lacks, for the page to bring; none if it lacks none. After this handle's own
/// end, the removal of the cookie that no response has taken away.
pub(crate) fn relay(shared: &SessionShared) -> Option<RelayToken> {
    shared.flags.touched.set();
    let now = shared.node.now();
    let Ok(record) = shared.live(now) else {
        return if shared.flags.head_sent.is_set() { order::removal(shared) } else { None };
    };
    if !lacks_changes(shared, &record, now) {
        return None;
    }
    let birth = !record.is_confirmed();
    let (purpose, prefix) = if birth { (Purpose::Birth, BIRTH_PREFIX) } else { (Purpose::Relay, RELAY_PREFIX) };
    let mut text = Vec::from(prefix);
    let payload = cookie_out::build_payload(shared, &record, now)?.written.finish();
    let sealed =
        shared.node.config.cookie.seal(&shared.node.config.audience, purpose, &record.id(), payload, &mut text);
    sealed.inspect_err(trace_unsealable).ok()?;
    String::from_utf8(text).ok().map(RelayToken::new)
}
