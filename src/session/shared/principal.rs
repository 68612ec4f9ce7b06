//! The principal of a handle, and the principal's record.

use std::sync::Arc;

use super::{Binding, SessionShared};
use crate::{
    config::{Identity, ResolvedPrincipal},
    cross_site::CrossSite,
    memory::record::Record,
    time::Millis,
};

impl SessionShared {
    /// Returns the signed-in user, unless the session has ended.
    pub(crate) fn principal(&self, now: Millis) -> Option<Arc<ResolvedPrincipal>> {
        match self.binding() {
            Binding::CrossSite(CrossSite::Upgrade | CrossSite::Withheld) => None,
            Binding::Live(_) => self.live(now).ok().and_then(|record| self.principal_for(&record, now)),
            Binding::Anonymous
            | Binding::Fenced(_)
            | Binding::PrincipalOnly
            | Binding::CrossSite(CrossSite::Listed) => self.head_principal.clone(),
        }
    }

    #[inline]
    pub(in crate::session) fn principal_for(
        &self,
        record: &Arc<Record>,
        now: Millis,
    ) -> Option<Arc<ResolvedPrincipal>> {
        // The common case, inlined: the chain has no identity value, or the head names no user.
        match &self.head_principal {
            None if !matches!(self.node.config.identity, Identity::Value { .. }) => None,
            None => self.derive_principal(record, now),
            given => given.clone(),
        }
    }

    fn derive_principal(&self, bound: &Arc<Record>, now: Millis) -> Option<Arc<ResolvedPrincipal>> {
        let Identity::Value { index, derive } = &self.node.config.identity else { return None };
        let (revision, json) = {
            let state = bound.read();
            let stored = state.value(&self.node.config.schema, *index, now)?;
            (Some((*bound.key(), stored.version)), stored.json.clone()?)
        };
        let derived = &self.lazy().derived_principal;
        if let Some((known, principal)) = &*derived.lock()
            && *known == revision
        {
            return principal.clone();
        }
        // Called outside of the lock, since `derive` is code of the application.
        let principal = derive(&json).map(|principal| Arc::new(self.node.config.resolve_principal(principal)));
        *derived.lock() = Some((revision, principal.clone()));
        principal
    }

    /// Returns the principal's record, if this node has the record. A read creates no record.
    pub(in crate::session) fn find_principal(&self, principal: &ResolvedPrincipal) -> Option<Arc<Record>> {
        let key = principal.key();
        if let Some(lazy) = self.lazy.get()
            && let Some(held) = &*lazy.principal.lock()
            && *held.key() == key
        {
            return Some(Arc::clone(held));
        }
        if let Some(record) = self.request_token.principal.as_ref().filter(|record| *record.key() == key) {
            return Some(Arc::clone(record));
        }
        self.node.memory.as_ref()?.principal(&key)
    }

    /// Returns the principal's record, and creates the record if this node has none. The last holder of a record that
    /// was never used drops the record from memory.
    pub(in crate::session) fn principal_record(&self, principal: &ResolvedPrincipal, now: Millis) -> Arc<Record> {
        let make = || {
            let record = Record::principal(principal.key(), self.node.config.principal_idle, now);
            if self.node.store.is_some() { record.never_loaded() } else { record }
        };
        let found = self.find_principal(principal);
        found.unwrap_or_else(|| match &self.node.memory {
            Some(memory) => memory.principal_or_insert(&principal.key(), make),
            None => Arc::new(make()),
        })
    }

    /// Returns the principal's record as [`principal_record`](Self::principal_record), and holds it until the handle
    /// drops.
    pub(in crate::session) fn hold_principal(&self, principal: &ResolvedPrincipal, now: Millis) -> Arc<Record> {
        self.hold_record(self.principal_record(principal, now))
    }

    pub(in crate::session) fn hold_record(&self, record: Arc<Record>) -> Arc<Record> {
        let mut principal = self.lazy().principal.lock();
        if let Some(held) = &*principal
            && held.key() == record.key()
        {
            return Arc::clone(held);
        }
        let before = principal.replace(Arc::clone(&record));
        drop(principal);
        if before.is_some() {
            self.release_principal(before);
            // A clone may have signed another user in since the caller read the principal: the watches subscribe to the
            // record of the present user.
            if let Some(wakers) = self.wakers() {
                self.subscribe_to_records(wakers);
            }
        }
        record
    }

    pub(in crate::session) fn release_principal(&self, held: Option<Arc<Record>>) {
        if let Some(record) = held {
            if let Some(wakers) = self.wakers() {
                record.unsubscribe(wakers);
            }
            if let Some(memory) = &self.node.memory {
                memory.release(record);
            }
        }
    }

    /// Whether no user is signed in, by a cheap check. The check may answer false without a user: an identity value
    /// that no longer names a user counts as a sign-in.
    pub(in crate::session) fn is_anonymous(&self, bound: &Arc<Record>) -> bool {
        match &self.node.config.identity {
            Identity::Value { index, .. } => bound.read().values.slot(*index).is_none(),
            Identity::Nobody | Identity::Head(_) => self.head_principal.is_none(),
        }
    }
}
