//! How a write becomes true: the store first, then memory, then whoever waits.

use std::sync::{Arc, atomic::Ordering};

use super::{
    lifecycle::PlannedSession,
    shared::{Binding, SessionShared},
};
use crate::{
    error::{CloseReason, TierError, WriteError, WriteErrorKind},
    id::{OwnerId, RecordKey, SessionId},
    memory::{IdTaken, Memory, record::Record},
    record::{
        change::{IncomingValue, Mutation},
        cookie_sync::CookieSync,
        life::SessionLife,
        state::{Kind, State},
        values::{StoredValue, ValueSlot},
        write_context::{BudgetShare, CommitRejected, IncomingFrom, WriteContext, WriteScope},
    },
    tier::{Commit, CommitKind, Committed, StoredRecord},
    time::Millis,
    value::{MAX_NAME, Scope, ValueIndex},
    version::Version,
};

/// Losing so often in a row means that something else writes in a loop.
pub(super) const MAX_ATTEMPTS: usize = 32;

/// Where a commit goes.
pub(super) struct WriteTarget {
    pub(super) record: Arc<Record>,
    pub(super) scope: Scope,
    pub(super) extent: WriteScope,
    pub(super) share: BudgetShare,
}

impl WriteTarget {
    pub(super) const fn session(record: Arc<Record>) -> Self {
        Self { record, scope: Scope::Session, extent: WriteScope::Values, share: BudgetShare::Ordinary }
    }

    pub(super) fn principal(record: Arc<Record>) -> Self {
        Self { scope: Scope::Principal, ..Self::session(record) }
    }
}

/// A record of which nobody knows yet. Dropped, by an error or by a client that leaves while a store thinks, it goes.
#[must_use]
pub(super) struct InsertGuard<'a> {
    memory: Option<&'a Memory>,
    key: RecordKey,
}

impl InsertGuard<'_> {
    pub(super) fn keep(mut self) {
        self.memory = None;
    }
}

impl Drop for InsertGuard<'_> {
    fn drop(&mut self) {
        if let Some(memory) = self.memory {
            memory.forget(&self.key);
        }
    }
}

/// Why a commit changed nothing.
#[derive(Debug)]
pub(super) enum CommitFailure {
    /// Something else was written meanwhile: look again.
    Outdated,
    Error(WriteError),
}

impl From<WriteError> for CommitFailure {
    fn from(error: WriteError) -> Self {
        Self::Error(error)
    }
}

impl From<TierError> for CommitFailure {
    fn from(error: TierError) -> Self {
        Self::Error(error.into())
    }
}

impl From<CommitFailure> for WriteError {
    fn from(loss: CommitFailure) -> Self {
        match loss {
            CommitFailure::Outdated => {
                Self::new(WriteErrorKind::Contended, "other writers were faster 32 times in a row: try again")
            }
            CommitFailure::Error(error) => error,
        }
    }
}

/// Tries what replaces nothing again where a store finds it outdated all the same, as one may that only ever compares.
pub(super) async fn retry_outdated<T, F>(attempt: impl Fn() -> F) -> Result<T, WriteError>
where
    F: Future<Output = Result<T, CommitFailure>>,
{
    for _ in 0..MAX_ATTEMPTS {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(CommitFailure::Outdated) => {}
            Err(loss) => return Err(loss.into()),
        }
    }
    Err(CommitFailure::Outdated.into())
}

impl SessionShared {
    /// Makes changes of values of one scope, all or none.
    ///
    /// Cancel safe: dropped before the store answers, the store decides, and memory asks it again; without a store
    /// nothing is awaited once the change begins.
    pub(crate) async fn commit(
        &self,
        scope: Scope,
        extent: WriteScope,
        changes: &[Mutation],
    ) -> Result<Version, WriteError> {
        retry_outdated(|| self.try_commit(scope, extent, changes)).await
    }

    /// Makes changes of values of both scopes: of each owner all or none, and none at all where an owner's are refused.
    ///
    /// Cancel safe for each owner, as [`commit`](Self::commit) is.
    pub(crate) async fn commit_of_owners(&self, changes: impl Iterator<Item = Mutation>) -> Result<(), WriteError> {
        let now = self.node.now();
        let signed = self.principal(now);
        // While nobody is signed in, the session owns the values of both scopes.
        let is_users = |change: &Mutation| match self.node.config.schema.get(change.index).scope {
            Scope::Session => false,
            Scope::Principal => signed.is_some(),
        };
        let (users, sessions): (Vec<_>, Vec<_>) = changes.partition(is_users);
        if let (Some(signed), false, false) = (&signed, users.is_empty(), sessions.is_empty()) {
            let refused = |refused: CommitRejected| WriteError::from(refused.into_failure());
            let record = self.hold_principal(signed, now);
            record.check_budget(&users, self.node.write_context(Scope::Principal, now)).map_err(refused)?;
            let terms = self.node.write_context(Scope::Session, now);
            match self.writable(now)? {
                Some(bound) => bound.check_budget(&sessions, terms).map_err(refused)?,
                None => self.empty_session(now).check_budget(&sessions, terms).map_err(refused)?,
            }
        }
        for (scope, changes) in [(Scope::Session, sessions), (Scope::Principal, users)] {
            if !changes.is_empty() {
                self.commit(scope, WriteScope::Values, &changes).await?;
            }
        }
        Ok(())
    }

    /// The state of a session that a write would begin.
    pub(super) fn empty_session(&self, now: Millis) -> State {
        let life = SessionLife::begin(Version::ZERO, now, self.node.config.lifetime);
        State::new(Kind::Session { life, browser: CookieSync::default() })
    }

    pub(super) async fn try_commit(
        &self,
        scope: Scope,
        extent: WriteScope,
        changes: &[Mutation],
    ) -> Result<Version, CommitFailure> {
        self.touch();
        self.check_head()?;
        loop {
            let before = self.bound_key();
            match self.commit_here(scope, extent, changes).await {
                // A clone has renewed the session meanwhile, and this handle went along: so does the write.
                Err(CommitFailure::Error(error))
                    if error.kind() == WriteErrorKind::Closed && before != self.bound_key() => {}
                committed => return committed,
            }
        }
    }

    pub(super) fn bound_key(&self) -> Option<RecordKey> {
        match &*self.binding.read() {
            Binding::Live(record) => Some(*record.key()),
            _ => None,
        }
    }

    async fn commit_here(
        &self,
        scope: Scope,
        extent: WriteScope,
        changes: &[Mutation],
    ) -> Result<Version, CommitFailure> {
        let now = self.node.now();
        if scope == Scope::Principal
            && let Some(signed) = self.principal(now)
        {
            // Without a store the cookie is the only copy that outlives this process, and it needs a session.
            if self.node.store.is_none() && matches!(self.binding(), Binding::Anonymous) {
                let terms = self.node.write_context(scope, now);
                self.hold_principal(&signed, now).check_budget(changes, terms).map_err(CommitRejected::into_failure)?;
                self.begin_with(&[], Version::ZERO, now).await?;
            }
            if self.is_principal_only() {
                // Written as by a job: no session may begin here, so no cookie of this browser keeps a copy.
                if self.node.store.is_none() && self.node.memory.is_none() {
                    return Err(WriteError::closed(CloseReason::CrossSite).into());
                }
            } else if let Some(bound) = self.writable(now)? {
                bound.touch(now);
            }
            let record = self.hold_principal(&signed, now);
            return self
                .write(&WriteTarget { extent, ..WriteTarget::principal(record) }, CommitKind::Upsert, changes, now)
                .await;
        }
        match self.writable(now)? {
            Some(bound) => {
                let target = WriteTarget { extent, ..WriteTarget::session(bound) };
                self.write(&target, CommitKind::Update, changes, now).await
            }
            None => self.begin_with(changes, Version::ZERO, now).await,
        }
    }

    /// The session to write to; none if a write is to make it.
    pub(super) fn writable(&self, now: Millis) -> Result<Option<Arc<Record>>, WriteError> {
        match self.live(now) {
            Ok(record) => Ok(Some(record)),
            Err(Some(reason)) => Err(WriteError::closed(reason)),
            Err(None) => Ok(None),
        }
    }

    /// Makes a session that holds the changes. If a clone was faster, they go into that one.
    async fn begin_with(&self, changes: &[Mutation], above: Version, now: Millis) -> Result<Version, CommitFailure> {
        let _turning = self.lifecycle_lock().await;
        match self.binding() {
            Binding::Anonymous => {}
            Binding::PrincipalOnly => {
                let message = "a handle of `Sessions::for_principal` has no session to keep values of session scope";
                return Err(WriteError::new(WriteErrorKind::Invalid, message).into());
            }
            _ => {
                let record = self.writable(now)?.ok_or_else(|| WriteError::closed(CloseReason::Expired))?;
                return match changes {
                    [] => Ok(Version::ZERO),
                    _ => self.write(&WriteTarget::session(record), CommitKind::Update, changes, now).await,
                };
            }
        }
        let (record, version) = self.create_session(changes, BudgetShare::Ordinary, None, above, now).await?;
        if self.head_has_left() {
            tracing::debug!(
                "a session begins after the response head has left: its cookie reaches the browser only by a token of \
                 `Session::relay`, which the page brings"
            );
        }
        self.flags.begun_here.store(true, Ordering::Relaxed);
        self.rebind(record);
        self.forget_own_end();
        Ok(version)
    }

    /// A new session with its first values, record to nobody yet.
    pub(super) async fn create_session(
        &self,
        changes: &[Mutation],
        share: BudgetShare,
        drawn: Option<PlannedSession>,
        above: Version,
        now: Millis,
    ) -> Result<(Arc<Record>, Version), CommitFailure> {
        let id = drawn.map_or_else(new_session_id, |drawn| Ok(drawn.id))?;
        let known = self.principal(now).and_then(|signed| self.find_principal(&signed));
        let ended = known.map_or(Version::ZERO, |record| record.not_before(&self.node.time, now));
        let birth = drawn.map_or_else(|| self.node.time.fresh(now, above.max(ended)), |drawn| drawn.birth);
        let (bound, made) = self.insert_record(id, self.begin_life(birth, now), now)?;
        let target = WriteTarget { share, ..WriteTarget::session(Arc::clone(&bound)) };
        let version = self.write(&target, CommitKind::Create, changes, now).await?;
        made.keep();
        Ok((bound, version))
    }

    /// The life of a session that this handle begins, by a first write or a sign-in.
    pub(super) fn begin_life(&self, birth: Version, now: Millis) -> SessionLife {
        let mut life = SessionLife::begin(birth, now, self.node.config.lifetime);
        if let Some(lifetime) = self.own_lifetime() {
            life.set_lifetime(lifetime, birth, Millis::default());
        }
        life
    }

    /// Puts the record of a new id into memory, to be taken out again unless it is kept.
    ///
    /// # Errors
    ///
    /// Where the id is in use already, or has ended: an order that is carried out a second time.
    pub(super) fn insert_record(
        &self,
        id: SessionId,
        life: SessionLife,
        now: Millis,
    ) -> Result<(Arc<Record>, InsertGuard<'_>), WriteError> {
        let key = RecordKey(*id.as_bytes());
        let memory = self.node.memory.as_ref();
        let make = || Record::session(key, life, now);
        let record = match memory {
            Some(memory) => {
                memory.create(&key, now, make).map_err(|IdTaken| WriteError::closed(CloseReason::Renewed))?
            }
            None => Arc::new(make()),
        };
        Ok((record, InsertGuard { memory, key }))
    }

    /// Writes to one record: the store, if there is one, then memory.
    pub(super) async fn write(
        &self,
        target: &WriteTarget,
        kind: CommitKind,
        changes: &[Mutation],
        now: Millis,
    ) -> Result<Version, CommitFailure> {
        let terms = self.node.write_context(target.scope, now).for_share(target.share);
        let terms = WriteContext { scope: target.extent, ..terms };
        let Some(store) = &self.node.store else {
            let committed = target.record.commit(changes, terms);
            self.account(&target.record, now);
            return committed.map_err(|refused| refused.into_failure());
        };
        let _passing = target.record.renew_gate_shared().await;
        target.record.check_budget(changes, terms).map_err(CommitRejected::into_failure)?;
        // The use is when the write begins: nobody is told meanwhile that the session is over, which the answer would undo.
        target.record.touch(now);
        let removes = target.scope == Scope::Principal && changes.iter().any(|change| change.json.is_none());
        // A removal must be there for as long as a cookie could bring the value back.
        let expires = match removes {
            true => target.record.expires().max(now.after(terms.tombstones)),
            false => target.record.expires(),
        };
        let expires = self.node.time.wall(expires).time();
        // Until the store's word is in memory, memory can't be relied on for this owner.
        let doubt = target.record.begin_store_write();
        let owner = match target.scope {
            Scope::Session => self.node.config.owner(&SessionId::from_bytes(target.record.key().0)),
            Scope::Principal => OwnerId::from_hash(target.record.key().0),
        };
        let commit = Commit::new(owner, kind, changes, expires);
        let committed = store.commit(commit, &self.node.time).await?;
        match committed {
            Committed::Applied(version) => {
                self.node.note_version(version, now);
                let stamped: Vec<_> = changes
                    .iter()
                    .map(|change| Mutation {
                        version: Some(change.version.unwrap_or(version)),
                        replaces: None,
                        ..change.clone()
                    })
                    .collect();
                let taken = target.record.commit(&stamped, WriteContext { now: self.node.now(), ..terms });
                doubt.confirmed();
                self.account(&target.record, now);
                taken.map_err(CommitRejected::into_failure)?;
                Ok(version)
            }
            Committed::Outdated(stored) => {
                target.record.merge(
                    IncomingFrom::Store,
                    self.incoming_values(stored, target.scope, now).into_iter(),
                    terms,
                    None,
                );
                doubt.confirmed();
                // Counted from here on, whether or not another attempt follows.
                self.account(&target.record, now);
                Err(CommitFailure::Outdated)
            }
            Committed::Absent | Committed::Ended(_) => {
                let _ = self.end(&target.record, CloseReason::Destroyed, now);
                doubt.confirmed();
                Err(WriteError::closed(CloseReason::Destroyed).into())
            }
        }
    }

    /// A store's record, as values to merge.
    pub(super) fn incoming_values(
        &self,
        stored: StoredRecord,
        scope: Scope,
        now: Millis,
    ) -> Vec<IncomingValue<'static>> {
        let schema = &self.node.config.schema;
        // Of another program, if no build of this one can have declared it; and no token could be read that carried it.
        let ours = stored.entries.into_iter().filter(|entry| entry.name.len() <= MAX_NAME);
        let entries = ours.map(|entry| {
            // The store's order counts, whatever clock it goes by: an update compares with its version.
            self.node.note_version(entry.version, now);
            let stored = StoredValue::new(entry.version, entry.json, self.node.time.written(entry.version, now));
            match schema.index_by_name(&entry.name) {
                Some(index) => IncomingValue::Declared(ValueSlot::incoming(index, stored)),
                None => IncomingValue::Undeclared(entry.name.into(), stored),
            }
        });
        // A session's record may hold values of either scope, a principal's only its own.
        let fits = |entry: &IncomingValue<'_>| match entry {
            IncomingValue::Declared(copy) => {
                scope == Scope::Session || schema.get(copy.index).scope == Scope::Principal
            }
            IncomingValue::Undeclared(..) => true,
        };
        entries.filter(fits).collect()
    }

    /// The stored answers of a source or of defaults don't count as something to remove.
    pub(super) fn has_stored(&self, index: ValueIndex, now: Millis) -> bool {
        let record = self.record_of(self.node.config.schema.get(index).scope, now);
        record.is_some_and(|(_, record)| {
            let schema = &self.node.config.schema;
            let live = |state: &State| {
                let copies = [state.slot(schema, index, now), state.values.unread(index)];
                copies.into_iter().flatten().any(|copy| copy.value.json.is_some())
            };
            record.live(now, live).unwrap_or(false)
        })
    }
}

impl CommitRejected {
    pub(super) fn into_failure(self) -> CommitFailure {
        match self {
            Self::Outdated => CommitFailure::Outdated,
            Self::Closed(reason) => CommitFailure::Error(WriteError::closed(reason)),
            Self::TooLarge(oversize) => {
                let error = WriteError::new(WriteErrorKind::TooLarge, oversize.to_string());
                CommitFailure::Error(error.named(oversize.largest.iter().map(|(name, _)| *name)))
            }
        }
    }
}

pub(super) fn new_session_id() -> Result<SessionId, WriteError> {
    SessionId::mint().map_err(|error| {
        WriteError::new(WriteErrorKind::Unavailable, "the operating system gave no randomness for a session id")
            .caused_by(error)
    })
}
