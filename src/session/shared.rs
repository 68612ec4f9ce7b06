//! What a handle and its clones share: which session they are bound to, and who is signed in.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use super::request_token::RequestToken;
use crate::{
    config::{ComputedAnswer, ResolvedPrincipal},
    cross_site::CrossSite,
    error::{CloseReason, WriteError},
    id::RecordKey,
    memory::{EndedSession, record::Record},
    node::{Node, exempt_renewals::HandleId},
    notify::{HandleWakers, WakerSlot},
    record::life::{Lifetime, Successor},
    sync::{Mutex, RwLock},
    time::Millis,
    value::Scope,
    version::Version,
};

mod flags;
mod own_ends;
mod principal;

pub(crate) use self::flags::RequestFlags;
use self::own_ends::OwnEnds;
pub(super) use self::own_ends::{IssuedOrder, OwnEnd};

#[derive(Debug)]
pub(crate) struct SessionShared {
    pub(crate) node: Arc<Node>,
    pub(super) binding: RwLock<Binding>,
    /// The principal, if the head said who it is, or the job; else a value of the session may say it.
    pub(super) head_principal: Option<Arc<ResolvedPrincipal>>,
    /// The count of `end_all_sessions` up to which the principal was looked at.
    pub(super) revocations: AtomicU64,
    pub(super) computed: Box<[ComputedAnswer]>,
    pub(super) request_token: RequestToken,
    pub(crate) flags: RequestFlags,
    pub(super) lazy: OnceLock<Box<LazyState>>,
}

/// What only handles need that write, watch, or read for a principal. Apart, since every request that asks for its
/// session pays for the state of a handle by its size, which is moved into place.
#[derive(Debug, Default)]
pub(super) struct LazyState {
    lifecycle_lock: tokio::sync::Mutex<()>,
    /// The lifetime that this handle was given.
    lifetime: Mutex<Option<Lifetime>>,
    pub(super) own_ends: OwnEnds,
    /// The principal's record, once this handle holds it. One that holds nothing goes with its last holder.
    principal: Mutex<Option<Arc<Record>>>,
    /// The principal that a session's value names, by the session and the value's version.
    derived_principal: Mutex<Option<(ValueRevision, Option<Arc<ResolvedPrincipal>>)>>,
    /// Made for the first watch.
    wakers: OnceLock<Arc<HandleWakers>>,
    /// The session that an inner layer has seen off, for another principal.
    pub(super) left_to_inner: Mutex<Option<RecordKey>>,
}

/// Which session a handle stands for.
#[derive(Clone, Debug)]
pub(crate) enum Binding {
    /// None yet: a write makes one.
    Anonymous,
    Live(Arc<Record>),
    /// The request brought an id that has just ended: none, and a plain write may not make one.
    Fenced(CloseReason),
    /// Another site caused the request, which brought no session, and gets none.
    CrossSite(CrossSite),
    /// A job's: a principal's record alone.
    PrincipalOnly,
}

/// What a change of a value changes: whose record it comes from, and its version there. Computed answers have none.
pub(crate) type ValueRevision = Option<(RecordKey, Version)>;

impl SessionShared {
    /// The state of a handle, to be completed before it is shared.
    pub(super) fn new(node: Arc<Node>, binding: Binding, request_token: RequestToken, upgrade: bool) -> Self {
        Self {
            binding: RwLock::new(binding),
            head_principal: None,
            revocations: AtomicU64::new(0),
            computed: Box::default(),
            request_token,
            flags: RequestFlags::new(upgrade),
            lazy: OnceLock::new(),
            node,
        }
    }

    /// Binds a handle that is not shared yet.
    pub(super) fn bind(&mut self, binding: Binding) {
        *self.binding.get_mut() = binding;
    }

    pub(super) fn lazy(&self) -> &LazyState {
        self.lazy.get_or_init(Box::default)
    }

    /// The wakers of this handle's watches, if there are watches.
    fn wakers(&self) -> Option<&Arc<HandleWakers>> {
        self.lazy.get()?.wakers.get()
    }

    /// Held while a session is made, renewed or ended: clones that write at once make one session, and each turn finds the
    /// session that the turn before has left.
    pub(super) async fn lifecycle_lock(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.lazy().lifecycle_lock.lock().await
    }

    /// The lifetime that this handle was given, with which its next session begins.
    pub(super) fn own_lifetime(&self) -> Option<Lifetime> {
        *self.lazy.get()?.lifetime.lock()
    }

    pub(super) fn set_own_lifetime(&self, lifetime: Option<Lifetime>) {
        *self.lazy().lifetime.lock() = lifetime;
    }

    /// Notes that this handle has ended its session: only this handle and its clones may begin another session.
    pub(super) fn note_own_end(&self, ended: OwnEnd) {
        self.lazy().own_ends.set(ended);
        self.flags.count_own_end();
        // The record has notified its subscribers already: a watch that looked before this note looks again.
        if let Some(wakers) = self.wakers() {
            wakers.notify();
        }
    }

    /// The session that this handle has ended last.
    pub(super) fn own_end(&self) -> Option<OwnEnd> {
        self.lazy.get()?.own_ends.last()
    }

    /// Whether this handle has ended its session, and has begun no other since.
    pub(super) fn has_ended_own(&self) -> bool {
        self.own_end().is_some()
    }

    /// Whether a turn may begin another session where this handle's session is over.
    pub(super) fn may_begin_anew(&self) -> bool {
        self.has_ended_own() || self.flags.may_begin()
    }

    /// Forgets the end, since another session has begun.
    pub(super) fn forget_own_end(&self) {
        self.flags.set_may_begin(false);
        if let Some(lazy) = self.lazy.get() {
            lazy.own_ends.forget();
        }
    }

    pub(crate) fn binding(&self) -> Binding {
        self.binding.read().clone()
    }

    /// Binds the handle to another session. Its watches go along.
    pub(super) fn rebind(&self, bound: Arc<Record>) {
        let Ok(()) = self.rebind_if(bound, || Ok::<_, std::convert::Infallible>(()));
    }

    /// Binds the handle to another session if `turn` has ended the one before, in one step: clones look at the binding
    /// first and then at its record, and are not to take the turn that they go along with for an end.
    pub(super) fn rebind_if<E>(&self, bound: Arc<Record>, turn: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let before = {
            let mut binding = self.binding.write();
            turn()?;
            std::mem::replace(&mut *binding, Binding::Live(bound))
        };
        if let Some(wakers) = self.wakers() {
            if let Binding::Live(old) = before {
                old.unsubscribe(wakers);
            }
            self.subscribe_to_records(wakers);
            wakers.notify();
        }
        Ok(())
    }

    /// The session if it lives; else why not, if it ever did.
    pub(crate) fn live(&self, now: Millis) -> Result<Arc<Record>, Option<CloseReason>> {
        let record = loop {
            let record = match self.binding() {
                Binding::Live(record) => record,
                Binding::Fenced(reason) => return Err(Some(reason)),
                Binding::CrossSite(_) => return Err(Some(CloseReason::CrossSite)),
                Binding::Anonymous | Binding::PrincipalOnly => return Err(None),
            };
            match record.closed(now) {
                None => break record,
                // A clone has renewed it between the two looks, and this handle went along.
                Some(CloseReason::Renewed) if self.bound_key() != Some(*record.key()) => {}
                Some(closed) => return Err(Some(closed)),
            }
        };
        self.check_revoked(&record, now).map_err(Some)?;
        Ok(record)
    }

    /// Why the handle can't be used any more; `None` if it can, be it for the principal's values alone.
    pub(crate) fn close_reason(&self, now: Millis) -> Option<CloseReason> {
        self.live(now).err().flatten().filter(|_| !self.is_principal_only())
    }

    /// Whether another site caused the request, which has no session and gets none.
    pub(super) fn is_cross_site(&self) -> bool {
        matches!(self.binding(), Binding::CrossSite(_))
    }

    /// Whether the request has no session and gets none, and has a principal all the same.
    pub(super) fn is_principal_only(&self) -> bool {
        self.head_principal.is_some() && matches!(self.binding(), Binding::CrossSite(CrossSite::Listed))
    }

    /// # Errors
    ///
    /// `Closed` if the handle can't be used any more.
    pub(crate) fn check_open(&self) -> Result<(), WriteError> {
        self.close_reason(self.node.now()).map_or(Ok(()), |reason| Err(WriteError::closed(reason)))
    }

    /// Ends the session if all of its principal's were ended after its id was minted.
    pub(super) fn check_revoked(&self, bound: &Arc<Record>, now: Millis) -> Result<(), CloseReason> {
        let revocations = self.node.revocations.load(Ordering::Acquire);
        if self.revocations.load(Ordering::Relaxed) == revocations {
            return Ok(());
        }
        if let Some(signed) = self.principal_for(bound, now)
            && let Some(record) = self.find_principal(&signed)
        {
            let not_before = record.not_before(&self.node.time, now);
            let birth = bound.read().birth(&self.node.time, now);
            if birth.is_some_and(|birth| birth <= not_before) {
                if let Some(renewer) = self.node.exempt_renewals.renewer(bound.key()) {
                    // The renewal decides. Until then the session is the renewing handle's alone.
                    return if renewer == self.handle_id() { Ok(()) } else { Err(CloseReason::Revoked) };
                }
                // Another handle may have been faster; either way it is over.
                let _ = self.end(bound, CloseReason::Revoked, now);
                return Err(CloseReason::Revoked);
            }
        }
        self.revocations.store(revocations, Ordering::Relaxed);
        Ok(())
    }

    /// The same for all clones of a handle, and another for all other handles.
    pub(super) fn handle_id(&self) -> HandleId {
        std::ptr::from_ref(self).addr()
    }

    /// Ends a record, unless it is over already, and counts what it no longer takes.
    pub(super) fn end(&self, record: &Arc<Record>, reason: CloseReason, now: Millis) -> Result<(), CloseReason> {
        self.end_as(record, reason, Successor::None, now)
    }

    /// The same, with what comes after.
    pub(super) fn end_as(
        &self,
        record: &Arc<Record>,
        reason: CloseReason,
        sequel: Successor,
        now: Millis,
    ) -> Result<(), CloseReason> {
        let signed = self.principal_for(record, now);
        let ended = record.end(reason, signed.map(|signed| signed.owner.tag()), sequel, now);
        self.node.account(record, now);
        ended
    }

    /// Looks at the handle's own session in place, where nothing else has a say in a value of this scope: the session is
    /// not a fenced or refused one, no principal's sessions were ended since the last look, and a value of principal scope
    /// is the browser's while nobody is signed in, which nobody can do through this handle while its binding is locked.
    pub(super) fn with_session_record<T>(&self, scope: Scope, look: impl FnOnce(&Arc<Record>) -> T) -> Option<T> {
        let settled = self.revocations.load(Ordering::Relaxed) == self.node.revocations.load(Ordering::Acquire);
        if !settled {
            return None;
        }
        match &*self.binding.read() {
            Binding::Live(record) if scope == Scope::Session || self.is_anonymous(record) => Some(look(record)),
            _ => None,
        }
    }

    pub(super) fn bound_key(&self) -> Option<RecordKey> {
        match &*self.binding.read() {
            Binding::Live(record) => Some(*record.key()),
            _ => None,
        }
    }

    /// Registers a watch: the slot is notified of every change that this handle can see.
    pub(crate) fn subscribe(&self) -> WakerSlot {
        let wakers = self.lazy().wakers.get_or_init(Arc::default);
        // The slot is registered before the handle subscribes, and both before the watch reads: no change is missed.
        let slot = wakers.register();
        self.subscribe_to_records(wakers);
        slot
    }

    fn subscribe_to_records(&self, wakers: &Arc<HandleWakers>) {
        let now = self.node.now();
        self.node.subscribers.subscribe(wakers);
        // Under the binding's lock: a rebind unsubscribes from this record after this subscription.
        if let Binding::Live(bound) = &*self.binding.read() {
            bound.subscribe(wakers);
        }
        if let Some(signed) = self.principal(now) {
            self.hold_principal(&signed, now);
            // What is held now, by whomever: what is let go of is left under the same lock or after it.
            if let Some(held) = &*self.lazy().principal.lock() {
                held.subscribe(wakers);
            }
        }
    }

    /// Whose record a value of a scope is in now, if there is one.
    pub(super) fn record_of(&self, scope: Scope, now: Millis) -> Option<Arc<Record>> {
        if scope == Scope::Principal
            && let Some(signed) = self.principal(now)
        {
            return self.find_principal(&signed);
        }
        self.live(now).ok()
    }

    /// Using what is the principal's is use of the session too.
    pub(super) fn touch_session(&self, now: Millis) {
        if let Ok(record) = self.live(now) {
            record.touch(now);
        }
    }
}

impl Drop for SessionShared {
    fn drop(&mut self) {
        let Some(lazy) = self.lazy.get() else { return };
        if let Some(wakers) = lazy.wakers.get() {
            self.node.subscribers.unsubscribe(wakers);
            if let Binding::Live(record) = self.binding() {
                record.unsubscribe(wakers);
            }
        }
        let held = lazy.principal.lock().take();
        self.release_principal(held);
    }
}

/// What a request gets whose id has ended, if it has.
pub(super) fn fenced(record: &Record, now: Millis) -> Option<Binding> {
    record.end_of().map(|end| EndedSession::of(end, now).into())
}

/// For a minute a request with an ended id gets nothing, so that it can't come in the way of its successor.
impl From<EndedSession> for Binding {
    fn from(ended: EndedSession) -> Self {
        match ended {
            EndedSession::Recently(end) => Self::Fenced(end.reason),
            EndedSession::LongAgo => Self::Anonymous,
        }
    }
}
