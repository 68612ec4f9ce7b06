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
    /// The principal, if one is signed in and the session has not ended.
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
        // Most chains and handles know nobody, and find that out here.
        match &self.head_principal {
            None if !matches!(self.node.config.identity, Identity::Value { .. }) => None,
            None => self.derive_principal(record, now),
            given => given.clone(),
        }
    }

    fn derive_principal(&self, bound: &Arc<Record>, now: Millis) -> Option<Arc<ResolvedPrincipal>> {
        let Identity::Value { index, derive } = &self.node.config.identity else { return None };
        let (mark, json) = {
            let state = bound.read();
            let stored = state.value(&self.node.config.schema, *index, now)?;
            (Some((*bound.key(), stored.version)), stored.json.clone()?)
        };
        let derived = &self.lazy().derived_principal;
        if let Some((known, signed)) = &*derived.lock()
            && *known == mark
        {
            return signed.clone();
        }
        // Outside of the lock: the application's own code runs here.
        let signed = derive(&json).map(|principal| Arc::new(self.node.config.resolve_principal(principal)));
        *derived.lock() = Some((mark, signed.clone()));
        signed
    }

    /// The principal's record if there is one on this node. Reading makes none.
    pub(in crate::session) fn find_principal(&self, signed: &ResolvedPrincipal) -> Option<Arc<Record>> {
        let key = signed.key();
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

    /// The principal's record, made if there is none. Let go of, it goes unless it holds something or was settled.
    pub(in crate::session) fn principal_record(&self, signed: &ResolvedPrincipal, now: Millis) -> Arc<Record> {
        let make = || {
            let record = Record::principal(signed.key(), self.node.config.principal_idle, now);
            if self.node.store.is_some() { record.never_loaded() } else { record }
        };
        let found = self.find_principal(signed);
        found.unwrap_or_else(|| match &self.node.memory {
            Some(memory) => memory.principal_or_insert(&signed.key(), make),
            None => Arc::new(make()),
        })
    }

    /// The principal's record, made if there is none, and held until the handle goes.
    pub(in crate::session) fn hold_principal(&self, signed: &ResolvedPrincipal, now: Millis) -> Arc<Record> {
        self.hold_record(self.principal_record(signed, now))
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
            // A clone may have signed somebody else in since the caller asked who it is: the watches follow who is now.
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

    /// Whether nobody is signed in, as far as that shows at a glance: a value that no longer says who it is may stand.
    pub(in crate::session) fn is_anonymous(&self, bound: &Arc<Record>) -> bool {
        match &self.node.config.identity {
            Identity::Value { index, .. } => bound.read().values.slot(*index).is_none(),
            Identity::Nobody | Identity::Head(_) => self.head_principal.is_none(),
        }
    }
}
