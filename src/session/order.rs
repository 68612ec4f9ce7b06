//! Turns that a page brings: a handle whose response head has left orders one, and the writeback carries the order out.
//!
//! The order is sealed into a turn token. It goes to its caller alone: no record, store, stream or other handle has it, so
//! that nobody who planted a cookie before a login receives the login.

use std::{iter, sync::Arc};

use super::{
    commit::new_session_id,
    current_token::CurrentToken,
    lifecycle::{PlannedSession, Replacement, SessionStart, SignInRequest, StartKind},
    relay::{OpenedRelay, RelayRefused, RelayToken, TURN_PREFIX},
    request_token::CookieTokens,
    shared::{Binding, IssuedOrder, OwnEnd, SessionShared},
};
use crate::{
    config::{Identity, ResolvedPrincipal},
    cookie::{
        order::{Named, Order, Turn},
        payload::{Entry, EntryOwner, Head, Payload, Writer},
        seal::{MAX_TURN_LEN, Purpose, sealed_len},
    },
    error::{CloseReason, WriteError, WriteErrorKind},
    id::{PrincipalTag, RecordKey, SessionId},
    memory::{SessionLookup, record::Record},
    record::{
        change::Mutation,
        life::{End, Lifetime, Predecessor, SessionLife, Successor},
        write_context::BudgetShare,
    },
    tier::{Commit, CommitKind, Committed},
    time::Millis,
    value::{Json, Scope, ValueIndex},
    version::Version,
};

/// A turn as the application orders it.
pub(super) struct Ordering {
    pub(super) turn: Turn,
    pub(super) user: Option<Mutation>,
    pub(super) grants: Vec<Mutation>,
    pub(super) adopts: Vec<ValueIndex>,
}

fn too_long() -> WriteError {
    let message = "the order would be longer than the 12 KiB that a page may bring: grant less";
    WriteError::new(WriteErrorKind::TooLarge, message)
}

/// The session that an order speaks of, as its handle sees the session.
enum OrderBase {
    Living(Arc<Record>),
    /// Ended by this handle, or before its request came. The time is the last at which a token of the id could open.
    Ended(SessionId, Millis),
    Nothing,
}

impl SessionShared {
    /// Seals an order for this handle's page.
    pub(super) fn order(&self, ordering: &Ordering) -> Result<RelayToken, WriteError> {
        self.touch();
        if self.node.memory.is_none() {
            let message = "an order needs memory, where a sign-out ends the session that the order would begin: \
                           add `.tier(MemoryTier::builder().build())`";
            return Err(WriteError::new(WriteErrorKind::NoMemory, message));
        }
        let now = self.node.now();
        let ordered = self.order_base(ordering.turn, now)?;
        let user = ordering.user.as_ref().and_then(|user| self.signs_in(user));
        let mut drawn = self.plan_session(user.as_deref(), now)?;
        let changes: Vec<_> = ordering.user.iter().chain(&ordering.grants).cloned().collect();
        self.check_fit(&ordered, ordering.turn, drawn, &changes, now)?;
        let principal = user.or_else(|| self.principal(now)).map(|signed| signed.owner.tag());
        drawn.id = self.note_issued_order(IssuedOrder { id: drawn.id, turn: ordering.turn, principal })?;
        let (named, no_cookie) = match &ordered {
            OrderBase::Living(record) => (Named::Living, !record.is_confirmed()),
            // The response to this handle's request, or a removal that its page brought, may have taken the cookie away.
            OrderBase::Ended(..) => (Named::Ended, self.has_ended_own()),
            OrderBase::Nothing => (Named::Nothing, true),
        };
        let adopts = ordering.adopts.iter().map(|index| self.node.config.schema.get(*index).name.into()).collect();
        let (begun, birth) = (vec![drawn.id], drawn.birth);
        let order = Order { turn: ordering.turn, named, no_cookie, begun, birth, adopts };
        let (id, mut written) = match ordered {
            OrderBase::Living(record) => {
                let written = self.build_order_payload(&record, &order, now);
                (record.id(), written.ok_or_else(|| WriteError::closed(CloseReason::Expired))?)
            }
            OrderBase::Ended(id, until) => (id, self.bare_payload(&order, self.head_principal_tag(), until, now)),
            OrderBase::Nothing => {
                let until = now.after(self.node.config.lifetime.absolute);
                (drawn.id, self.bare_payload(&order, self.head_principal_tag(), until, now))
            }
        };
        for change in &changes {
            let json = change.json.as_deref();
            let entry = Entry { owner: EntryOwner::Begun, name: change.name.as_bytes(), version: drawn.birth, json };
            if !written.entry(entry) {
                return Err(too_long());
            }
        }
        self.seal_turn(&id, written)
    }

    /// The removal of the session that this handle has ended, for its page to bring: the browser still has the cookie.
    pub(super) fn removal(&self) -> Option<RelayToken> {
        let OwnEnd { id, until, principal, others } = self.own_end()?;
        let now = self.node.now();
        let (turn, named, birth) = (Turn::Remove, Named::Ended, Version::ZERO);
        let order = Order { turn, named, no_cookie: true, begun: others, birth, adopts: Vec::new() };
        self.seal_turn(&id, self.bare_payload(&order, principal, until, now)).ok()
    }

    fn order_base(&self, turn: Turn, now: Millis) -> Result<OrderBase, WriteError> {
        match self.live(now) {
            Ok(record) => return Ok(OrderBase::Living(record)),
            Err(Some(_)) if self.has_ended_own() => {}
            Err(Some(_)) if turn == Turn::SignIn && matches!(self.binding(), Binding::Fenced(_)) => {}
            Err(Some(reason)) => return Err(WriteError::closed(reason)),
            Err(None) if matches!(self.binding(), Binding::PrincipalOnly) => {
                let message = "a handle of `Sessions::for_principal` has no page to bring an order";
                return Err(WriteError::new(WriteErrorKind::Invalid, message));
            }
            Err(None) if self.has_ended_own() => {}
            Err(None) if turn == Turn::SignIn => return Ok(OrderBase::Nothing),
            Err(None) => {
                let message = "there is no session to renew: write a value first";
                return Err(WriteError::new(WriteErrorKind::Invalid, message));
            }
        }
        if let Some(ended) = self.own_end() {
            return Ok(OrderBase::Ended(ended.id, ended.until));
        }
        let longest = now.after(self.node.longest_absolute());
        Ok(self
            .request_token
            .key
            .map_or(OrderBase::Nothing, |key| OrderBase::Ended(SessionId::from_bytes(key.0), longest)))
    }

    /// Draws the id and the birth of the session that an order begins.
    fn plan_session(&self, user: Option<&ResolvedPrincipal>, now: Millis) -> Result<PlannedSession, WriteError> {
        // The page has brought an order of this handle: the page is in another session by now.
        if self.issued_order_ids().iter().any(|id| self.is_known(id)) {
            return Err(WriteError::closed(CloseReason::Renewed));
        }
        let time = &self.node.time;
        let known = user.and_then(|signed| self.find_principal(signed));
        let above = known.map_or(Version::ZERO, |record| record.not_before(time, now));
        Ok(PlannedSession { id: new_session_id()?, birth: time.fresh(now, above) })
    }

    /// The principal that the request's head gave, which is signed in where no session lives.
    fn head_principal_tag(&self) -> Option<PrincipalTag> {
        self.head_principal.as_ref().map(|signed| signed.owner.tag())
    }

    fn signs_in(&self, user: &Mutation) -> Option<Arc<ResolvedPrincipal>> {
        let Identity::Value { derive, .. } = &self.node.config.identity else { return None };
        derive(user.json.as_deref()?).map(|principal| Arc::new(self.node.config.resolve_principal(principal)))
    }

    /// The change that signs a user in.
    pub(super) fn user_change(&self, user: Json) -> Result<Mutation, WriteError> {
        let Identity::Value { index, .. } = &self.node.config.identity else {
            let message = "nobody can sign in: declare the user's type with `identify_by`";
            return Err(WriteError::new(WriteErrorKind::Undeclared, message));
        };
        let name = self.node.config.schema.get(*index).name;
        Ok(Mutation { index: *index, name, json: Some(user), version: None, replaces: None })
    }

    /// Whether what the turn writes would fit the browser, were it carried out now.
    fn check_fit(
        &self,
        ordered: &OrderBase,
        turn: Turn,
        drawn: PlannedSession,
        changes: &[Mutation],
        now: Millis,
    ) -> Result<(), WriteError> {
        let kind = match turn {
            Turn::SignIn => StartKind::SignIn { above: Version::ZERO },
            Turn::Renew | Turn::Remove => StartKind::Renewal,
        };
        let beginning = SessionStart { kind, planned: Some(drawn), changes };
        let fitted = match ordered {
            OrderBase::Living(record) => {
                let predecessor = Predecessor { id: record.id(), shares_end: false };
                let succession = Replacement { start: &beginning, predecessor };
                let dry = record.live(now, |state| self.successor_state(state, &succession, now).map(drop));
                dry.map_err(WriteError::closed)?
            }
            OrderBase::Ended(..) | OrderBase::Nothing => {
                let terms = self.node.write_context(Scope::Session, now).for_share(BudgetShare::Whole);
                self.empty_session(now).check_budget(changes, terms)
            }
        };
        fitted.map_err(|refused| refused.into_failure().into())
    }

    /// The payload of an order of which the browser's cookie lacks nothing.
    fn bare_payload(&self, order: &Order, principal: Option<PrincipalTag>, until: Millis, now: Millis) -> Writer {
        let wall = |at| self.node.time.wall(at);
        let (span, issued) = (until.since(now), wall(now));
        let lifetime = Lifetime { idle: span, absolute: span, ends_with_browser: false };
        let told = SessionLife::begin(Version::at(issued), now, lifetime).fields().map(wall);
        Writer::new(&Head { life: told, issued, idle_deadline: wall(until), principal, predecessor: None }, Some(order))
    }

    fn seal_turn(&self, id: &SessionId, written: Writer) -> Result<RelayToken, WriteError> {
        let payload = written.finish();
        if sealed_len(payload.as_slice().len()) > MAX_TURN_LEN {
            return Err(too_long());
        }
        let mut text = Vec::from(TURN_PREFIX);
        let sealed = self.node.config.cookie.seal(&self.node.config.audience, Purpose::Turn, id, payload, &mut text);
        let unsealable =
            |error| WriteError::new(WriteErrorKind::TooLarge, "the order can't be sealed").caused_by(error);
        sealed.map_err(unsealable)?;
        let text = String::from_utf8(text);
        text.map(RelayToken::new).map_err(|error| {
            WriteError::new(WriteErrorKind::Invalid, "the sealed order is not text").caused_by(error.utf8_error())
        })
    }

    // Carrying it out.

    /// Carries out what a turn token orders. The caller has checked that the request is same-origin.
    pub(super) async fn apply_turn(&self, order: &Order, relayed: &OpenedRelay) -> Result<(), RelayRefused> {
        let came = self.request_token.cookie_tokens();
        match order.turn {
            Turn::Remove => self.apply_removal(order, relayed, &came).await,
            Turn::Renew | Turn::SignIn => self.apply_order(order, relayed, &came).await,
        }
    }

    /// Ends the ids that a removal names, and removes the cookie if it can be of no other session.
    async fn apply_removal(
        &self,
        order: &Order,
        relayed: &OpenedRelay,
        came: &CookieTokens,
    ) -> Result<(), RelayRefused> {
        if came.is_nothing() {
            return Ok(());
        }
        let now = self.node.now();
        let named = || iter::once(&relayed.id).chain(&order.begun);
        let names = |id: &SessionId| named().any(|named| named == id);
        // The cookie of the next session may be on its way.
        let turned = came.ids.iter().any(|id| self.end_reason(id) == Some(CloseReason::Renewed));
        for id in named() {
            let CurrentToken { life, payload, .. } = &relayed.current;
            self.end_id(*id, payload.head.principal, life.absolute_deadline(), now).await?;
        }
        let other = came.ids.iter().any(|id| !names(id) && self.end_reason(id).is_none());
        // A value that this node can't open may be a later login.
        if other || turned || came.unread {
            return Err(RelayRefused::Closed(CloseReason::Renewed));
        }
        self.note_own_end(OwnEnd { id: relayed.id, until: now, principal: None, others: Vec::new() });
        Ok(())
    }

    async fn apply_order(&self, order: &Order, relayed: &OpenedRelay, came: &CookieTokens) -> Result<(), RelayRefused> {
        let OpenedRelay { id, current, .. } = relayed;
        let (id, payload, now) = (*id, &current.payload, self.node.now());
        if !current.is_brief(now) {
            return Err(RelayRefused::Expired);
        }
        if self.node.accepted_nonces.contains(&relayed.nonce) {
            return Err(RelayRefused::Used);
        }
        let Some(begun) = order.begun.first() else { return Err(RelayRefused::NotGenuine) };
        let drawn = PlannedSession { id: *begun, birth: current.believed_version(order.birth, &self.node.time) };
        let user = self.user_of(order, payload)?;
        if order.named == Named::Ended {
            let principal = user.as_ref().map(|user| user.owner.tag()).or(payload.head.principal);
            self.end_id(id, principal, current.life.absolute_deadline(), now).await?;
        }
        let record = self.named_session(order, relayed, came, now).await?;
        let _turning = self.lifecycle_lock().await;
        self.check_order(payload, user, drawn, record.as_ref(), now)?;
        if let Some(record) = &record
            && self.bound_key() != Some(*record.key())
        {
            self.rebind(record.clone());
        }
        let changes: Vec<_> =
            payload.entries(EntryOwner::Begun).map(|entry| self.change(&entry)).collect::<Result<_, _>>()?;
        let turned = match (order.turn, changes.split_first()) {
            (Turn::SignIn, Some((user, grants))) => {
                let adopts = order.adopts.iter().filter_map(|name| self.node.config.schema.index_by_name(name));
                let user = user.json.clone().ok_or(RelayRefused::NotGenuine)?;
                let adopt = &adopts.collect::<Vec<_>>();
                let may_begin = record.is_none();
                self.sign_in_with(SignInRequest { user, grants, adopt, planned: Some(drawn), may_begin }).await
            }
            (Turn::SignIn, None) => return Err(RelayRefused::NotGenuine),
            (Turn::Renew | Turn::Remove, _) => {
                let beginning = SessionStart { kind: StartKind::Renewal, planned: Some(drawn), changes: &changes };
                match &record {
                    Some(_) => self.renew_with(&beginning).await,
                    None => self.begin_session(&beginning, now).await,
                }
            }
        };
        turned.map_err(RelayRefused::Write)?;
        // The begun session may leave memory within the minute that the order lives. A full set is no reason to fail now.
        let _ = self.node.accepted_nonces.accept(relayed.nonce, now);
        Ok(())
    }

    /// The living session that an order names, once the request has shown that it comes from the browser of that session.
    async fn named_session(
        &self,
        order: &Order,
        relayed: &OpenedRelay,
        came: &CookieTokens,
        now: Millis,
    ) -> Result<Option<Arc<Record>>, RelayRefused> {
        let id = relayed.id;
        let brings_it = came.ids.contains(&id);
        let living = |other: &&SessionId| **other != id && self.end_reason(other).is_none();
        if came.ids.iter().any(|other| living(&other)) {
            return Err(RelayRefused::OtherSession);
        }
        if !brings_it {
            // Only tokens of ids that have ended may have come beside: that is all that is left here but unreadable pairs.
            if !order.no_cookie || came.unread {
                return Err(RelayRefused::OtherSession);
            }
            self.check_minting(relayed.page)?;
        }
        if order.named != Named::Living {
            return Ok(None);
        }
        let record = match self.live(now) {
            Ok(record) if record.id() == id => record,
            Ok(_) => return Err(RelayRefused::OtherSession),
            // Without a cookie, or with one that has idled out: the token tells of a later use.
            Err(_) => self.find_token_record(id, &relayed.current, now).await?,
        };
        self.take_changes(&record, &relayed.current, now)?;
        Ok(Some(record))
    }

    /// # Errors
    ///
    /// Where the user, the end of all of a user's sessions, or another bringer of the order came between.
    fn check_order(
        &self,
        payload: &Payload,
        user: Option<Arc<ResolvedPrincipal>>,
        drawn: PlannedSession,
        bound: Option<&Arc<Record>>,
        now: Millis,
    ) -> Result<(), RelayRefused> {
        let signed = match bound {
            Some(bound) => self.principal_for(bound, now),
            None => self.head_principal.clone(),
        };
        if signed.as_ref().map(|signed| signed.owner.tag()) != payload.head.principal {
            return Err(RelayRefused::OtherUser);
        }
        let stamped = |signed: Arc<ResolvedPrincipal>| {
            self.find_principal(&signed).is_some_and(|record| record.not_before(&self.node.time, now) >= drawn.birth)
        };
        if [signed, user].into_iter().flatten().any(stamped) {
            return Err(RelayRefused::Closed(CloseReason::Revoked));
        }
        if self.is_known(&drawn.id) { Err(RelayRefused::Used) } else { Ok(()) }
    }

    /// The user of a sign-in order.
    fn user_of(&self, order: &Order, payload: &Payload) -> Result<Option<Arc<ResolvedPrincipal>>, RelayRefused> {
        if order.turn != Turn::SignIn {
            return Ok(None);
        }
        let user = payload.entries(EntryOwner::Begun).next().map(|entry| self.change(&entry)).transpose()?;
        Ok(user.and_then(|user| self.signs_in(&user)))
    }

    /// A value that an order grants. A value that this build does not declare can't be granted.
    fn change(&self, entry: &Entry<'_>) -> Result<Mutation, RelayRefused> {
        let index = self.node.config.schema.index_by_bytes(entry.name).ok_or(RelayRefused::NotGenuine)?;
        let (name, json) = (self.node.config.schema.get(index).name, entry.json.map(Json::from));
        Ok(Mutation { index, name, json, version: None, replaces: None })
    }

    fn lookup(&self, id: &SessionId) -> SessionLookup {
        let memory = self.node.memory.as_ref();
        memory.map_or(SessionLookup::Unknown, |memory| memory.session(&RecordKey(*id.as_bytes()), self.node.now()))
    }

    /// Whether this node knows an id, alive or ended.
    fn is_known(&self, id: &SessionId) -> bool {
        !matches!(self.lookup(id), SessionLookup::Unknown)
    }

    /// Why the session of an id has ended, as far as this node knows.
    pub(super) fn end_reason(&self, id: &SessionId) -> Option<CloseReason> {
        match self.lookup(id) {
            SessionLookup::Ended(ended) => Some(ended.reason()),
            SessionLookup::Live(_) | SessionLookup::Unknown => None,
        }
    }

    /// Ends an id on this node and in the store, known or not. The tombstone of an unknown id is filed under
    /// `principal`.
    pub(super) async fn end_id(
        &self,
        id: SessionId,
        principal: Option<PrincipalTag>,
        until: Millis,
        now: Millis,
    ) -> Result<(), WriteError> {
        if let Some(store) = &self.node.store {
            let (owner, expires) = (self.node.config.owner(&id), self.node.time.wall(until).time());
            let write = async |kind| {
                let commit = Commit::new(owner, kind, &[], expires);
                store.commit(commit, &self.node.time).await.map_err(WriteError::from)
            };
            let end = CommitKind::End { reason: CloseReason::Destroyed, successor: None };
            if matches!(write(end).await?, Committed::Absent) {
                // A store remembers the end of a record that it had. Another node could begin an absent id yet.
                write(CommitKind::Create).await?;
                write(end).await?;
            }
        }
        if let Some(memory) = &self.node.memory {
            let key = RecordKey(*id.as_bytes());
            let end = End { reason: CloseReason::Destroyed, at: now, until, principal, successor: Successor::None };
            if let SessionLookup::Live(record) = memory.end_id(&key, end, now) {
                let _ = self.end(&record, CloseReason::Destroyed, now);
            }
        }
        Ok(())
    }
}
