//! The shared store of a node, with the node's clock, and with owner ids for the node's audience.

use std::time::Duration;

use smallvec::SmallVec;

use super::{
    Node,
    followed::{Followed, NoticeCount, SentEnd},
};
use crate::{
    config::Identity,
    error::{CloseReason, StoreError, TierError},
    id::OwnerId,
    memory::record::{Record, extras::StoreReading},
    record::{
        change::Mutation,
        life::{End, FENCE, LifeFields, SessionLife, Successor},
        state::{Kind, State},
    },
    tier::{
        Ask, Change, Commit, CommitKind, Committed, Known, Snapshot, StoredEnd, StoredLife, Touch, shared::SharedTier,
    },
    time::{Millis, Wall},
    value::Scope,
    version::Version,
};

/// The maximum number of renewals that a sign-out follows in the store.
const MAX_RENEWALS: usize = 16;

/// The shared store of a node.
#[derive(Clone, Copy)]
pub(crate) struct NodeStore<'a> {
    tier: &'a SharedTier,
    node: &'a Node,
}

/// A read of the store for a record. Begin the reading before the store is asked.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    of_record: StoreReading,
    notices: NoticeCount,
}

impl Reading {
    /// Returns the store's record that memory had merged whole when the reading began.
    pub(crate) fn known(&self) -> Option<Known> {
        self.of_record.known()
    }
}

/// Uses that the store does not know: after an error or a drop, the next load tells the store again.
struct UntoldUse<'a>(SmallVec<[(Touch, &'a Record); 2]>);

impl Drop for UntoldUse<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|(_, record)| record.extras().sync().forget_told_use());
    }
}

/// A commit in the terms of a node.
#[derive(Clone, Copy)]
pub(crate) struct StoreWrite<'a> {
    pub(crate) kind: CommitKind,
    pub(crate) changes: &'a [Change<'a>],
    pub(crate) life: Option<StoredLife>,
    /// The newest version of the owner that this node knows.
    pub(crate) above: Version,
    /// The time at which the store may drop the record.
    pub(crate) until: Millis,
}

impl StoreWrite<'_> {
    /// Returns a write without changes.
    pub(crate) const fn of(kind: CommitKind, until: Millis) -> Self {
        Self { kind, changes: &[], life: None, above: Version::ZERO, until }
    }
}

impl<'a> From<&'a Mutation> for Change<'a> {
    fn from(mutation: &'a Mutation) -> Self {
        let Mutation { name, json, version, replaces, .. } = mutation;
        Self { name, json: json.as_ref(), version: *version, replaces: *replaces }
    }
}

impl Node {
    /// Whether a session that the store has lost is restored: see [`SharedTier::restore_from_cookie`].
    pub(crate) fn restores(&self) -> bool {
        self.store.as_ref().is_some_and(SharedTier::restores)
    }

    pub(crate) fn store(&self) -> Option<NodeStore<'_>> {
        self.store.as_ref().map(|tier| NodeStore { tier, node: self })
    }

    /// Converts an end in the store to node time. The end is kept for as long as a token of the id may open.
    pub(crate) fn stored_end(&self, end: &StoredEnd, now: Millis) -> End {
        let at = self.time.written(Version::at(Wall::of(end.at())), now);
        let follows = matches!(self.config.identity, Identity::Value { .. });
        let successor = end.successor().filter(|_| follows);
        let successor = successor.map_or(Successor::None, |owner| Successor::Stored(Box::new(owner)));
        let until = now.after(self.longest_absolute());
        End { reason: end.reason(), at, until, principal: None, successor }
    }

    /// Returns the session that a renewal on another node began less than a minute ago, if a sign-out of the old
    /// session ends the new session too. With `identify` a sign-out ends no successor: the head of this request may
    /// name another user.
    pub(crate) fn live_successor(&self, end: &StoredEnd) -> Option<OwnerId> {
        let now = self.now();
        let End { successor: Successor::Stored(owner), at, .. } = self.stored_end(end, now) else { return None };
        (now < at.after(FENCE)).then_some(*owner)
    }
}

const SECOND: Duration = Duration::from_secs(1);

impl Node {
    /// Whether memory may answer for the owner of a record without a read of the store.
    pub(crate) fn vouches(&self, record: &Record, now: Millis) -> bool {
        self.store.is_none() || self.followed.vouches(record, now)
    }

    /// Whether a load may use the record of an owner without any call of the store: memory may answer for the owner, and
    /// the store need not be told of a use.
    pub(crate) fn is_settled(&self, record: &Record, idle: Duration, now: Millis) -> bool {
        self.store.is_none() || self.vouches(record, now) && !record.is_use_due(idle, now)
    }

    /// Returns the span for which the store keeps a record after a use. The store is told of a use once per tenth of
    /// the idle lifetime, and the clocks of the nodes may differ.
    fn stored_span(&self, idle: Duration) -> Duration {
        idle.saturating_add(idle / 10).saturating_add(self.time.max_skew)
    }

    /// Returns the time until which the store must keep a session that was used at `used`: no longer than the session's
    /// absolute deadline.
    pub(crate) fn session_until(&self, life: &SessionLife, used: Millis) -> Millis {
        used.after(self.stored_span(life.idle())).min(life.absolute_deadline().after(self.time.max_skew))
    }

    /// Returns the time until which the store must keep a record that was used at `used`. A principal's record stays for
    /// as long as a cookie could bring a removed value back.
    pub(crate) fn stored_until(&self, state: &State, used: Millis) -> Millis {
        match &state.kind {
            Kind::Session { life, .. } => self.session_until(life, used),
            Kind::Principal(principal) => used.after(self.stored_span(principal.idle)).max(state.forget_after(used)),
            Kind::Ended(end) => end.until,
        }
    }

    /// Returns the last use that the store was told of, from the span until the record expires.
    fn told_use(&self, state: &State, left: Duration, now: Millis) -> Millis {
        let span = self.stored_span(state.idle());
        match state.absolute_deadline() {
            // A commit for another reason keeps the record: the end of all sessions of a user, or one of two lifetimes that
            // two nodes have set in the same moment. The span does not show a use.
            _ if left > span.saturating_add(SECOND) => Millis::default(),
            // The absolute deadline comes before the idle deadline, so the span does not show the last use. A second of
            // tolerance: the answer was under way.
            Some(deadline) if deadline.after(self.time.max_skew) <= now.after(left).after(SECOND) => now,
            _ => now.after(left).before(span).min(now),
        }
    }

    /// Converts a session's lifetime for the store.
    pub(crate) fn stored_life(&self, life: &SessionLife) -> StoredLife {
        let deadline = self.time.wall(life.absolute_deadline()).time();
        StoredLife::new(deadline, life.idle(), life.lifetime_version()).until_browser_closes(life.ends_with_browser())
    }

    /// Begins a read of an owner's record. `record` is the record that memory has, if there is one.
    pub(crate) fn begin_read(&self, record: Option<&Record>, owner: &OwnerId) -> Reading {
        Reading { of_record: StoreReading::begin(record), notices: self.followed.notices_of(owner) }
    }

    /// Merges the store's answer for a living owner, and lets memory answer for a while.
    pub(crate) fn merge_answer(
        &self,
        record: &Record,
        (Reading { of_record: reading, notices }, snapshot): (Reading, Snapshot),
        scope: Scope,
        now: Millis,
    ) {
        let span = |record: &Record| Followed::vouched_span(record.read().idle());
        self.note_debt(record, reading.told, &snapshot, now);
        match snapshot {
            Snapshot::Present(stored) => {
                let is_shorter = stored.life().is_some_and(|life| self.merge_stored_life(record, life, now));
                // Before the values: a session that seems idle takes no values.
                self.merge_use(record, stored.left(), is_shorter, now);
                let known = stored.known();
                let is_open = || scope == Scope::Principal || record.closed(now).is_none();
                let was_open = is_open();
                self.merge_stored(record, stored, scope, now);
                let known = (was_open && is_open()).then_some(known);
                record.extras().sync().finish(reading, known, span(record), now);
            }
            Snapshot::Unchanged { left } => {
                self.merge_use(record, left, false, now);
                record.extras().sync().finish_unchanged(reading, span(record), now);
            }
            // The store has no record whose use it could be told of.
            Snapshot::Absent | Snapshot::Ended(_) => {
                record.extras().sync().note_told_use(now);
                record.extras().sync().finish(reading, None, span(record), now);
            }
        }
        self.list(record, scope);
        // Listed before: a later notice finds the record.
        if self.followed.is_outdated(notices) {
            record.extras().sync().suspect();
        }
    }

    /// Merges the uses on all nodes. The store is told of uses in steps of a tenth of the idle lifetime, so the last use
    /// may have been later by a tenth. With a shorter lifetime than this node knew, the session may have been over before
    /// the last use here: of the uses before, the change of the lifetime counts, and the uses that the store was told of.
    fn merge_use(&self, record: &Record, left: Duration, is_shorter: bool, now: Millis) {
        let (told, idle, changed) = {
            let state = record.read();
            let version = state.life().map_or(Version::ZERO, SessionLife::lifetime_version);
            (self.told_use(&state, left, now), state.idle(), self.time.written(version, now))
        };
        let used = told.after(idle / 10).min(now);
        if is_shorter {
            record.set_used(used.max(changed));
        } else {
            record.touch(used);
        }
        record.extras().sync().note_told_use(told);
    }

    /// Merges the store's lifetime. Returns whether the idle lifetime is shorter than before.
    pub(crate) fn merge_stored_life(&self, record: &Record, stored: &StoredLife, now: Millis) -> bool {
        self.note_version(stored.version(), now);
        let absolute_deadline = self.time.node(Wall::of(stored.absolute_deadline()));
        let mine = record.read().life().map(SessionLife::fields);
        let Some(mine) = mine else { return false };
        let life = SessionLife::from(LifeFields {
            absolute_deadline,
            idle: stored.idle(),
            ends_with_browser: stored.ends_with_browser(),
            lifetime_version: stored.version(),
            ..mine
        });
        self.raise_longest_absolute(absolute_deadline.since(mine.created));
        record.merge_life(&life, SessionLife::merge_stored, now) && stored.idle() < mine.idle
    }

    /// Lists a session's record under its owner, for notices.
    fn list(&self, record: &Record, scope: Scope) {
        if let (Scope::Session, Some(memory)) = (scope, &self.memory) {
            record.extras().sync().list(|| memory.owners.list(&self.config.owner(&record.id()), *record.key()));
        }
    }

    /// Returns the version up to which all sessions of a principal have ended.
    pub(crate) fn not_before(&self, record: &Record, now: Millis) -> Version {
        match self.store {
            // The store has stamped the birth of each session too, so both versions come from one clock.
            Some(_) => record.read().not_before(),
            None => record.not_before(&self.time, now),
        }
    }

    /// Returns the version at which a session's id was made, to compare with [`not_before`](Self::not_before).
    pub(crate) fn birth(&self, record: &Record, now: Millis) -> Option<Version> {
        let state = record.read();
        match self.store {
            Some(_) => state.life().map(SessionLife::birth),
            None => state.birth(&self.time, now),
        }
    }

    /// Notes that a commit of this node has made or changed a record.
    pub(crate) fn note_stored(&self, record: &Record, known: Known, is_whole: bool, now: Millis) {
        let sync = &record.extras().sync();
        sync.note_commit(known, now);
        if is_whole {
            let idle = record.read().idle();
            self.list(record, Scope::Session);
            sync.vouch(Followed::vouched_span(idle), now);
        }
    }
}

impl<'a> NodeStore<'a> {
    pub(super) const fn node(self) -> &'a Node {
        self.node
    }

    pub(crate) async fn read(self, owner: OwnerId, known: Option<Known>) -> Result<Snapshot, TierError> {
        self.tier.read_one(ask(owner, known), &self.node.time).await
    }

    /// Reads two owners in one call of the store.
    pub(crate) async fn read_both(
        self,
        first: (OwnerId, Option<Known>),
        second: (OwnerId, Option<Known>),
    ) -> Result<(Snapshot, Snapshot), TierError> {
        let asks = [ask(first.0, first.1), ask(second.0, second.1)];
        let mut snapshots = self.tier.read(&asks, &self.node.time).await?.into_iter();
        let mut next = || snapshots.next().expect("a read has a snapshot for each ask");
        Ok((next(), next()))
    }

    /// Whether the node remembers that the store has no record of an owner.
    pub(crate) fn knows_absent(self, owner: &OwnerId) -> bool {
        self.tier.knows_absent(owner, &self.node.time)
    }

    /// Makes the next read of an owner ask the store, also if the node remembers that the store has no such record.
    pub(crate) fn forget_absent(self, owner: &OwnerId) {
        self.tier.forget_absent(owner);
    }

    /// Makes the next read of each owner ask the store, as [`forget_absent`](Self::forget_absent) does.
    pub(crate) fn forget_reads(self) {
        self.tier.forget_reads();
    }

    /// Tells the store of the uses up to `used` that are due. A failure is no failure of the load: the store keeps the records for
    /// longer than a tenth of their idle lifetime, and a later load tells the store again.
    pub(crate) async fn touch(self, records: &[(OwnerId, &Record)], used: Millis) {
        let now = self.node.now();
        let mut due: SmallVec<[(Touch, &Record); 2]> = SmallVec::new();
        for (owner, record) in records {
            let state = record.read();
            if record.extras().sync().tells_use(state.idle(), used) {
                let touch = Touch::new(*owner, self.node.stored_until(&state, used).since(now));
                let lifetime = state.life().map(SessionLife::lifetime_version);
                due.push((touch.by_lifetime(lifetime), record));
            }
        }
        if !due.is_empty() {
            let touches: SmallVec<[Touch; 2]> = due.iter().map(|(touch, _)| *touch).collect();
            let untold = UntoldUse(due);
            if self.tier.touch(&touches, &self.node.time).await.is_ok() {
                std::mem::forget(untold);
            }
        }
    }

    pub(crate) async fn commit(self, owner: OwnerId, write: StoreWrite<'_>) -> Result<Committed, TierError> {
        let StoreWrite { kind, changes, life, above, until } = write;
        // A span, since the store's clock may differ from this node's clock.
        let keep = until.since(self.node.now());
        self.tier.commit(Commit { owner, kind, changes, life, above, keep, node: self.node.id }, &self.node.time).await
    }

    /// Changes the record of an owner in memory. Restores a session that the store has lost first, if the chain restores
    /// sessions.
    pub(crate) async fn commit_to(
        self,
        record: &Record,
        owner: OwnerId,
        write: StoreWrite<'_>,
    ) -> Result<Committed, TierError> {
        match self.commit(owner, write).await? {
            Committed::Absent if self.node.restores() && record.read().life().is_some() => {
                record.extras().sync().owe();
                self.pay_debt(record, self.node.now()).await?;
                self.commit(owner, write).await
            }
            committed => Ok(committed),
        }
    }

    /// Ends a session. The store may forget the end at `until`.
    pub(crate) async fn end(
        self,
        owner: OwnerId,
        reason: CloseReason,
        successor: Option<OwnerId>,
        until: Millis,
    ) -> Result<Committed, TierError> {
        let committed = self.commit(owner, StoreWrite::of(CommitKind::End { reason, successor }, until)).await?;
        if let Committed::Retired(_) = committed {
            let at = self.node.now();
            self.node.followed.note_end(SentEnd { owner, reason, successor, at, until });
        }
        Ok(committed)
    }

    /// Ends a session, and each session that a renewal on another node has made of it within the last minute. Returns the
    /// earlier end, if the session had ended before.
    pub(crate) async fn end_line(
        self,
        owner: OwnerId,
        reason: CloseReason,
        until: Millis,
    ) -> Result<Option<StoredEnd>, TierError> {
        let (mut owner, mut earlier) = (owner, None);
        for _ in 0..MAX_RENEWALS {
            let Committed::Ended(end) = self.end(owner, reason, None, until).await? else { return Ok(earlier) };
            earlier.get_or_insert(end);
            match self.node.live_successor(&end) {
                Some(successor) => owner = successor,
                None => return Ok(earlier),
            }
        }
        // The session that the last renewal began may still live, so `Ok` would report a sign-out that did not happen.
        let cause = format!("the session was renewed more than {MAX_RENEWALS} times in a minute");
        Err(TierError::new(self.tier.name(), StoreError::other(cause)))
    }
}

fn ask(owner: OwnerId, known: Option<Known>) -> Ask {
    let ask = Ask::new(owner);
    known.map_or(ask, |known| ask.unless(known))
}
