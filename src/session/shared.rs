//! The state that a handle and its clones share: the bound session, and the signed-in user.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    config::{ComputedAnswer, ResolvedPrincipal},
    cross_site::CrossSite,
    error::{CloseReason, WriteError, WriteErrorKind},
    id::{RecordKey, SessionId},
    memory::{EndedSession, record::Record},
    node::{Node, exempt_renewals::HandleId},
    notify::{HandleWakers, WakerSlot},
    record::{
        cookie_sync::CookieSnapshot,
        life::{End, Successor},
    },
    sync::RwLock,
    tier::StoredEnd,
    time::Millis,
    value::{Scope, ValueIndex},
    version::Version,
};

mod flags;
mod lazy;
mod principal;

pub(crate) use self::flags::RequestFlags;
pub(super) use self::lazy::{IssuedOrder, OwnEnd};
use self::{flags::Flag, lazy::LazyState};

#[derive(Debug)]
pub(crate) struct SessionShared {
    pub(crate) node: Arc<Node>,
    pub(super) binding: RwLock<Binding>,
    /// The principal that the request's head or the job names. If neither names a principal, the session's identity
    /// value may.
    pub(super) head_principal: Option<Arc<ResolvedPrincipal>>,
    /// The node's count of revocations at the last check of the principal.
    pub(super) revocations: AtomicU64,
    pub(super) computed: Box<[ComputedAnswer]>,
    pub(super) request_token: RequestToken,
    pub(crate) flags: RequestFlags,
    pub(super) lazy: OnceLock<Box<LazyState>>,
}

/// The session that a handle stands for.
#[derive(Clone, Debug)]
pub(crate) enum Binding {
    /// The request has no session yet, and a write begins a session.
    Anonymous,
    Live(Arc<Record>),
    /// The request's id ended within the last minute. The request has no session, and a plain write must not begin a
    /// session.
    Fenced(CloseReason),
    /// Another site caused the request, which has no session and gets none.
    CrossSite(CrossSite),
    /// The handle of a job, for the values of one principal alone.
    PrincipalOnly,
}

/// The record that a value comes from, and the value's version there. Each change of the value changes the pair.
/// Computed answers have no revision.
pub(crate) type ValueRevision = Option<(RecordKey, Version)>;

/// The request's token, and its content.
#[derive(Debug, Default)]
pub(super) struct RequestToken {
    /// The session that the token names.
    pub(super) key: Option<RecordKey>,
    /// The state that the token holds, if the token held all that the browser is to carry.
    pub(super) cookie: Option<CookieSnapshot>,
    /// The user's record, if memory knew the token, and the token holds values of the user or the chain has a store. Held
    /// as long as the handle: the next cookie would lack the values of an evicted record, and a record created after the
    /// eviction would lack the store's values.
    pub(super) principal: Option<Arc<Record>>,
    /// The tokens that the request brought. `None` without a token, and for a single token that memory knew: see `key`.
    pub(super) cookie_tokens: Option<Box<CookieTokens>>,
    /// The values that the records took from the cookie, with their versions.
    pub(super) from_cookie: Box<[(ValueIndex, Version)]>,
}

impl RequestToken {
    /// Returns the tokens that the request brought. An upgrade that another site caused counts as a request without
    /// tokens.
    pub(super) fn cookie_tokens(&self) -> CookieTokens {
        let only = || self.key.map(|key| SessionId::from_bytes(key.0)).into_iter().collect();
        let single = || CookieTokens { ids: only(), unread: false, opened: self.opened() };
        self.cookie_tokens.as_deref().cloned().unwrap_or_else(single)
    }

    /// Returns the number of tokens that opened.
    pub(super) fn opened(&self) -> usize {
        self.cookie_tokens.as_ref().map_or_else(|| usize::from(self.key.is_some()), |tokens| tokens.opened)
    }
}

/// The tokens that a request brought under our cookie's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CookieTokens {
    /// The sessions of genuine tokens before their absolute deadline, without duplicates. A token past its idle
    /// deadline counts too.
    pub(super) ids: Vec<SessionId>,
    /// Whether any value did not open or was not tried: the request has more than four values, or more bytes or pairs
    /// than the scan reads.
    pub(super) unread: bool,
    /// The number of tokens that opened, whatever their deadlines.
    opened: usize,
}

impl CookieTokens {
    /// The tokens of a request whose Cookie fields are too long for the scan.
    pub(super) fn unread() -> Self {
        Self { unread: true, ..Self::default() }
    }

    pub(super) const fn is_nothing(&self) -> bool {
        self.ids.is_empty() && !self.unread
    }

    /// Notes a token that opened. `lives` is false if the token's absolute deadline has come.
    pub(super) fn add(&mut self, id: SessionId, lives: bool) {
        self.opened += 1;
        if lives && !self.ids.contains(&id) {
            self.ids.push(id);
        }
    }
}

impl SessionShared {
    /// Creates the state of a handle. The load completes the state before any handle shares it.
    pub(super) fn new(node: Arc<Node>, binding: Binding, request_token: RequestToken, upgrade: bool) -> Self {
        Self {
            binding: RwLock::new(binding),
            head_principal: None,
            revocations: AtomicU64::new(0),
            computed: Box::default(),
            request_token,
            flags: RequestFlags { upgrade: Flag::new(upgrade), ..RequestFlags::default() },
            lazy: OnceLock::new(),
            node,
        }
    }

    /// Binds the state before any handle shares it.
    pub(super) fn bind(&mut self, binding: Binding) {
        *self.binding.get_mut() = binding;
    }

    /// Returns the number of sessions that this handle has ended. A watch that began before the last end is over.
    pub(crate) fn own_ends(&self) -> u32 {
        self.flags.own_ends.load(Ordering::Acquire)
    }

    pub(crate) fn binding(&self) -> Binding {
        self.binding.read().clone()
    }

    /// Binds the handle to another session. The handle's watches follow.
    pub(super) fn rebind(&self, bound: Arc<Record>) {
        let Ok(()) = self.rebind_if(bound, || Ok::<_, std::convert::Infallible>(()));
    }

    /// Runs `turn`, which ends the bound session, and binds the handle to another session if `turn` succeeds. Both
    /// happen under the binding's write lock: a clone reads the binding first and then its record, and must not take
    /// its own renewal for an end.
    pub(super) fn rebind_if<T, E>(&self, bound: Arc<Record>, turn: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let (turned, before) = {
            let mut binding = self.binding.write();
            (turn()?, std::mem::replace(&mut *binding, Binding::Live(bound)))
        };
        if let Some(wakers) = self.wakers() {
            if let Binding::Live(old) = before {
                old.unsubscribe(wakers);
            }
            self.subscribe_to_records(wakers);
            wakers.notify();
        }
        Ok(turned)
    }

    /// Returns the record of the live session.
    ///
    /// # Errors
    ///
    /// The reason why the session is over or refused; `None` if the handle has had no session.
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
                // A clone renewed the session after the binding was read, and has bound this handle to the new session.
                Some(CloseReason::Renewed) if self.bound_key() != Some(*record.key()) => {}
                Some(closed) => return Err(Some(closed)),
            }
        };
        self.check_revoked(&record, now).map_err(Some)?;
        Ok(record)
    }

    /// Returns the reason why the handle can no longer be used; `None` if the handle can be used, even for the
    /// principal's values alone.
    pub(crate) fn close_reason(&self, now: Millis) -> Option<CloseReason> {
        self.live(now).err().flatten().filter(|_| !self.is_principal_only())
    }

    /// Whether the request has no session and gets none, since another site caused the request.
    pub(super) fn is_cross_site(&self) -> bool {
        matches!(self.binding(), Binding::CrossSite(_))
    }

    /// Whether the request has a principal, but no session and gets none.
    pub(super) fn is_principal_only(&self) -> bool {
        self.head_principal.is_some() && matches!(self.binding(), Binding::CrossSite(CrossSite::Listed))
    }

    /// # Errors
    ///
    /// `Unavailable` if the handle has a copy of its session.
    pub(crate) fn refuse_degraded(&self) -> Result<(), WriteError> {
        if self.flags.degraded.is_set() {
            let message = "the shared store did not answer when this session was loaded, so the handle only reads: \
                           try again with a new request";
            return Err(WriteError::new(WriteErrorKind::Unavailable, message));
        }
        Ok(())
    }

    /// # Errors
    ///
    /// `Closed` if the handle can no longer be used.
    pub(crate) fn check_open(&self) -> Result<(), WriteError> {
        self.close_reason(self.node.now()).map_or(Ok(()), |reason| Err(WriteError::closed(reason)))
    }

    /// Ends the session if all sessions of its principal were ended after the session got its id.
    ///
    /// # Errors
    ///
    /// `Revoked` if the session has ended for this reason.
    pub(super) fn check_revoked(&self, bound: &Arc<Record>, now: Millis) -> Result<(), CloseReason> {
        let revocations = self.node.revocations.load(Ordering::Acquire);
        if self.revocations.load(Ordering::Relaxed) == revocations {
            return Ok(());
        }
        if let Some(principal) = self.principal_for(bound, now)
            && let Some(record) = self.find_principal(&principal)
        {
            let not_before = self.node.not_before(&record, now);
            let birth = self.node.birth(bound, now);
            if birth.is_some_and(|birth| birth <= not_before) {
                if let Some(renewer) = self.node.exempt_renewals.renewer(bound.key()) {
                    // The renewal that is under way decides whether the session lives. Until then only the renewing
                    // handle may use the session.
                    return if renewer == self.handle_id() { Ok(()) } else { Err(CloseReason::Revoked) };
                }
                // An error means that another handle has ended the session already.
                let _ = self.end(bound, CloseReason::Revoked, now);
                return Err(CloseReason::Revoked);
            }
        }
        self.revocations.store(revocations, Ordering::Relaxed);
        Ok(())
    }

    /// Returns an id that the clones of a handle share, and no other handle has.
    pub(super) fn handle_id(&self) -> HandleId {
        std::ptr::from_ref(self).addr()
    }

    /// Ends a session's record, and updates the byte count of memory.
    ///
    /// # Errors
    ///
    /// The reason of an earlier end, if the record has ended already.
    pub(super) fn end(&self, record: &Arc<Record>, reason: CloseReason, now: Millis) -> Result<(), CloseReason> {
        self.end_as(record, reason, Successor::None, now, now)
    }

    /// Ends a session's record by the end in the store. Returns the reason.
    pub(super) fn end_as_stored(&self, record: &Arc<Record>, end: &StoredEnd, now: Millis) -> CloseReason {
        let End { reason, at, successor, .. } = self.node.stored_end(end, now);
        // An error means that this node knows the end already.
        let _ = self.end_as(record, reason, successor, at, now);
        reason
    }

    /// Ends a session's record as [`end`](Self::end) does, as of `at`, and names the successor in the tombstone.
    pub(super) fn end_as(
        &self,
        record: &Arc<Record>,
        reason: CloseReason,
        successor: Successor,
        at: Millis,
        now: Millis,
    ) -> Result<(), CloseReason> {
        let principal = self.principal_for(record, now);
        let ended = record.end(reason, principal.map(|principal| principal.owner.tag()), successor, at, now);
        self.node.account(record, now);
        ended
    }

    /// Runs `look` on the record of the handle's session, if the binding alone decides about values of this scope: the
    /// session is neither fenced nor refused, and no principal's sessions were ended since the last check. The binding
    /// decides about values of principal scope only if no user is signed in: then the session owns the values. The lock
    /// on the binding keeps this handle from a sign-in meanwhile.
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

    /// Registers a watch. The slot is notified of every change that this handle can see.
    pub(crate) fn subscribe(&self) -> WakerSlot {
        let wakers = self.lazy().wakers.get_or_init(Arc::default);
        // The slot is registered before the handle subscribes, and both before the watch reads: the watch misses no
        // change.
        let slot = wakers.register();
        self.subscribe_to_records(wakers);
        slot
    }

    fn subscribe_to_records(&self, wakers: &Arc<HandleWakers>) {
        let now = self.node.now();
        self.node.subscribers.subscribe(wakers);
        // The read lock on the binding orders this subscription before the `unsubscribe` of a rebind.
        if let Binding::Live(bound) = &*self.binding.read() {
            bound.extras().subscribers.subscribe(wakers);
            self.follow(bound);
        }
        if let Some(principal) = self.principal(now) {
            self.hold_principal(&principal, now);
            // Subscribes to the record that is held now, since a clone may have replaced the record that
            // `hold_principal` held. A clone takes a record out of `principal` only under this lock, and unsubscribes
            // from the record after that. So no subscription stays behind.
            if let Some(held) = &*self.lazy().principal.lock() {
                held.extras().subscribers.subscribe(wakers);
                self.follow(held);
            }
        }
    }

    /// Lets the follower of the store's notices read the record. Memory does not have the copy of a degraded handle, and
    /// the copy must not get the user back.
    fn follow(&self, record: &Arc<Record>) {
        if self.node.store.is_some() && !self.flags.degraded.is_set() {
            self.node.followed.watch(record);
        }
    }

    /// Returns the record that holds the values of a scope now, if there is one.
    pub(in crate::session) fn record_of(&self, scope: Scope, now: Millis) -> Option<Arc<Record>> {
        if scope == Scope::Principal
            && let Some(principal) = self.principal(now)
        {
            return self.find_principal(&principal);
        }
        self.live(now).ok()
    }

    /// Touches the session: a use of the principal's values is a use of the session too.
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

/// Returns the binding for a request whose id has ended; `None` if the record has not ended.
pub(super) fn fenced(record: &Record, now: Millis) -> Option<Binding> {
    record.end_of().map(|end| EndedSession::of(end, now).into())
}

/// For a minute after the end a request with the ended id gets no session, and can begin none by a write: a late
/// request must not replace the cookie of the successor.
impl From<EndedSession> for Binding {
    fn from(ended: EndedSession) -> Self {
        match ended {
            EndedSession::Recently(end) => Self::Fenced(end.reason),
            EndedSession::LongAgo => Self::Anonymous,
        }
    }
}
