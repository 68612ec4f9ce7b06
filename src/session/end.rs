//! Ends of sessions: of this handle's own, and of all of a user's.

use std::{
    iter,
    sync::{Arc, atomic::Ordering},
};

use super::{
    commit::new_session_id,
    lifecycle::{PlannedSession, SessionStart, StartKind},
    shared::{Binding, IssuedOrder, OwnEnd, SessionShared},
};
use crate::{
    config::ResolvedPrincipal,
    cookie::order::MOST_BEGUN,
    error::{CloseReason, WriteError, WriteErrorKind},
    id::SessionId,
    memory::record::Record,
    record::state::Kind,
    tier::{Commit, CommitKind},
    time::Millis,
    version::Version,
};

impl SessionShared {
    pub(super) async fn destroy(&self) -> Result<(), WriteError> {
        self.touch();
        self.check_head()?;
        let _turning = self.lifecycle_lock().await;
        self.end_own(CloseReason::Destroyed).await
    }

    /// Ends the handle's session, and the session that an order of this handle may begin. The caller holds
    /// [`turning`](Self::lifecycle_lock), so that no clone renews the session meanwhile.
    pub(super) async fn end_own(&self, reason: CloseReason) -> Result<(), WriteError> {
        if matches!(self.binding(), Binding::Fenced(CloseReason::Ambiguous)) {
            // One of the sessions is the user's, and lives on: nobody is to believe that the user has signed out.
            return Err(WriteError::closed(CloseReason::Ambiguous));
        }
        let now = self.node.now();
        let longest = now.after(self.node.longest_absolute());
        // Noted until the end is done: after a failure, or a caller that leaves, the next call takes the orders back.
        let ordered = self.issued_orders();
        for IssuedOrder { id, principal, .. } in &ordered {
            self.end_id(*id, *principal, longest, now).await?;
        }
        let orderer = ordered.last().and_then(|newest| newest.principal);
        let before = self.own_end();
        let mut named: Vec<_> = ordered.iter().rev().map(|ordered| ordered.id).collect();
        named.extend(before.iter().flat_map(|before| iter::once(&before.id).chain(&before.others)));
        // Again where another handle was faster to renew the session.
        while let Some(record) = self.session_to_end(now) {
            let until = record.forget_after().max(record.read().absolute_deadline().unwrap_or(now));
            // The session that an order begins has a life of its own.
            let until = if ordered.is_empty() { until } else { until.max(longest) };
            if let Some(store) = &self.node.store {
                let expires = self.node.time.wall(until).time();
                let kind = CommitKind::End { reason, successor: None };
                let end = Commit::new(self.node.config.owner(&record.id()), kind, &[], expires);
                let doubt = record.begin_store_write();
                store.commit(end, &self.node.time).await?;
                doubt.confirmed();
            }
            let principal = self.principal_for(&record, now).map(|signed| signed.owner.tag()).or(orderer);
            if self.end(&record, reason, now).is_ok() {
                self.forget_lifetime();
                self.forget_issued_orders(&ordered);
                named.truncate(MOST_BEGUN);
                self.note_own_end(OwnEnd { id: record.id(), until, principal, others: named });
                return Ok(());
            }
        }
        self.forget_lifetime();
        self.forget_issued_orders(&ordered);
        // A session that is over is as destroyed as can be, and one that never was stays so.
        if !ordered.is_empty() {
            // The page may have brought the order to another node: the browser has the begun session's cookie then.
            if before.is_none() {
                named.extend(self.bound_key().or(self.request_token.key).map(|key| SessionId::from_bytes(key.0)));
            }
            let principal = before.and_then(|before| before.principal).or(orderer);
            let id = named.remove(0);
            named.truncate(MOST_BEGUN);
            self.note_removal(OwnEnd { id, until: longest, principal, others: named });
        } else if let Err(Some(CloseReason::Destroyed | CloseReason::Revoked | CloseReason::Expired)) = self.live(now) {
            // Ended elsewhere: the application may begin anew, as after an end of its own. The browser keeps its cookie,
            // which may be that of a later login by now. A renewed session goes on in another tab.
            self.flags.may_begin.store(true, Ordering::Release);
        }
        Ok(())
    }

    pub(super) async fn end_all_sessions(&self) -> Result<(), WriteError> {
        self.touch();
        self.check_head()?;
        let _turning = self.lifecycle_lock().await;
        let now = self.node.now();
        // As `destroy` does: another tab's renewal may be faster, and a further one faster than the look at its user.
        let signed = loop {
            let record = self.session_to_end(now);
            match self.signed_in(record.clone(), now) {
                Ok((_, signed)) => break signed,
                Err(error) if record.is_none_or(|record| record.closed(now).is_none()) => return Err(error),
                Err(_) => {}
            }
        };
        self.check_ends_kept()?;
        // First, so that the stamp does not take this handle's own end for somebody else's.
        self.end_own(CloseReason::Revoked).await?;
        self.revoke(&signed);
        Ok(())
    }

    pub(super) async fn end_other_sessions(&self) -> Result<(), WriteError> {
        self.touch();
        self.check_can_set_cookie()?;
        let _turning = self.lifecycle_lock().await;
        let now = self.node.now();
        let (record, signed) = self.signed_in(self.live(now).ok(), now)?;
        self.check_ends_kept()?;
        let id = new_session_id()?;
        let _sparing = self.node.exempt_renewals.exempt(*record.key(), self.handle_id());
        let stamp = self.revoke(&signed);
        let drawn = Some(PlannedSession { id, birth: self.node.time.fresh(now, stamp) });
        self.replace_session(&record, &SessionStart { kind: StartKind::Renewal, planned: drawn, changes: &[] }, now)
            .await
    }

    /// # Errors
    ///
    /// Where no tier would know at the next request that a principal's sessions have ended.
    pub(crate) fn check_ends_kept(&self) -> Result<(), WriteError> {
        if self.node.memory.is_none() {
            let message = "the end of all sessions is stored in memory, and this chain has none: \
                           add `.tier(MemoryTier::builder().build())`";
            return Err(WriteError::new(WriteErrorKind::NoMemory, message));
        }
        Ok(())
    }

    /// The session and the principal, for a turn that concerns all sessions of the principal.
    fn signed_in(
        &self,
        bound: Option<Arc<Record>>,
        now: Millis,
    ) -> Result<(Arc<Record>, Arc<ResolvedPrincipal>), WriteError> {
        let bound = bound.ok_or_else(|| match self.live(now) {
            Err(None) => WriteError::new(
                WriteErrorKind::Invalid,
                "there is no session, so nobody is signed in; a job calls `Sessions::end_all_sessions`",
            ),
            Err(Some(reason)) => WriteError::closed(reason),
            Ok(_) => WriteError::closed(CloseReason::Renewed),
        })?;
        let nobody = || match bound.closed(now) {
            // Another request was faster: the record no longer says whose it was.
            Some(reason) => WriteError::closed(reason),
            None => WriteError::new(WriteErrorKind::Invalid, "nobody is signed in, so no user has sessions to end"),
        };
        let signed = self.principal_for(&bound, now).ok_or_else(nobody)?;
        Ok((bound, signed))
    }

    /// Ends all sessions of a principal whose ids were minted up to now. Returns the stamp.
    pub(crate) fn revoke(&self, signed: &ResolvedPrincipal) -> Version {
        let now = self.node.now();
        let record = self.hold_principal(signed, now);
        let version = {
            let mut state = record.write();
            record.reset_if_idle(&mut state, now);
            let time = &self.node.time;
            // Other nodes' counters of this very millisecond are not known here: the ids that they minted in it go too.
            let version = time.fresh(now, Version::ZERO).max(Version::last_at(time.wall(now)));
            time.note_version(version, now);
            if let Kind::Principal { not_before, revoked, idle, .. } = &mut state.kind {
                (*not_before, *revoked) = (version, now);
                // Kept until the last cookie sealed before can no longer open.
                *idle = (*idle).max(self.node.longest_absolute());
            }
            version
        };
        record.touch(now);
        self.account(&record, now);
        self.node.revocations.fetch_add(1, Ordering::AcqRel);
        record.notify_all();
        version
    }
}
