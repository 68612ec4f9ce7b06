//! The session's turns: signed in, renewed, ended.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
};

use super::{
    Session,
    commit::{Loss, MAX_LOSSES, Target, insist, mint_id},
    core::{Binding, Bound, Core},
};
use crate::{
    chain::{
        Identity,
        judge::Judge,
        life::{Life, Lifetime, Told},
    },
    error::{TierError, WriteError, WriteErrorKind},
    live::Closed,
    tier::{
        Change, Commit, CommitKind, Committed,
        memory::record::{Extent, Kind, Record, Refused, State},
    },
    value::{self, Json, Number, Scope, SessionValue},
    version::{Millis, Version},
};

/// What a successor of a session begins with.
enum Succession<'a> {
    /// Everything, under another id.
    Renewal,
    /// The session's own values, without what was chosen anonymously, and the new user; its life begins anew.
    SignIn { user: &'a Change, above: Version },
}

impl Core {
    pub(super) async fn renew(&self) -> Result<(), WriteError> {
        self.touch();
        self.check_head()?;
        let _minting = self.minting().await;
        let now = self.chain.now();
        match self.live(now) {
            Ok(bound) => self.succeed(&bound, Succession::Renewal, now).await,
            // An id that has just ended may be followed by a new one: that is what renewal is.
            Err(Some(_)) if matches!(self.binding(), Binding::Fenced(_)) => self.begin(&[], Version::ZERO, now).await,
            Err(Some(reason)) => Err(WriteError::closed(reason)),
            // No id, nothing to renew.
            Err(None) => Ok(()),
        }
    }

    /// The caller holds `minting`, since before it looked: what a clone writes first is to be in the session.
    async fn begin(&self, changes: &[Change], above: Version, now: Millis) -> Result<(), WriteError> {
        let (bound, _) = insist(|| self.found(changes, above, now)).await?;
        self.marks.minted.store(true, Ordering::Relaxed);
        self.rebind(bound);
        Ok(())
    }

    async fn sign_in(&self, user: Json, adopt: &[Number]) -> Result<(), WriteError> {
        self.touch();
        self.check_head()?;
        let Identity::Value { number, derive } = &self.chain.identity else {
            let message = "nobody can sign in: declare the user's type with `identify_by`";
            return Err(WriteError::new(WriteErrorKind::Undeclared, message));
        };
        let _minting = self.minting().await;
        let name = self.chain.schema.at(*number).name;
        let signed = derive(&user).map(|principal| self.chain.signed(principal));
        let user = Change { number: *number, name, json: Some(user), version: None, replaces: None };
        // First, so that a store that doesn't answer leaves everything as it is.
        let asked = match &signed {
            Some(signed) => self.ask_for(signed, self.chain.now()).await?,
            None => None,
        };
        let now = self.chain.now();
        let known = asked.clone().or_else(|| self.find_principal(signed.as_deref()?));
        let above = known.as_ref().map_or(Version::ZERO, |record| record.read().not_before());
        let before = self.live(now);
        // Only what nobody's principal chose: owners are never merged.
        let adopted = match (&before, &signed) {
            (Ok(bound), Some(_)) if self.signed_of(bound, now).is_none() => self.chosen(bound, adopt, now),
            _ => Vec::new(),
        };
        if let Some(signed) = &signed {
            let terms = self.chain.terms(Scope::Principal, now);
            // Not held before it is done: a refused sign-in must not take the present user's record from the watches.
            let new = || Arc::new(Record::principal(signed.key(), self.chain.principal_idle, now));
            let record = known.unwrap_or_else(new);
            record.admit(&adopted, terms).map_err(|refused| WriteError::from(refused.into_loss()))?;
        }
        match before {
            Ok(bound) => self.succeed(&bound, Succession::SignIn { user: &user, above }, now).await?,
            // One that had ended before this request, or that this handle has just ended, may be followed.
            Err(Some(reason)) if !self.may_be_followed() => return Err(WriteError::closed(reason)),
            Err(None) if matches!(self.binding(), Binding::Job) => {
                return Err(WriteError::new(WriteErrorKind::Invalid, "a principal's own handle has no session"));
            }
            Err(_) => self.begin(std::slice::from_ref(&user), above, now).await?,
        }
        if let Some(record) = asked {
            self.hold(record);
        }
        if let Some(signed) = signed {
            self.adopt(&signed, adopted, now).await?;
        }
        Ok(())
    }

    /// The browser's own choices among the values to adopt.
    fn chosen(&self, bound: &Bound, adopt: &[Number], now: Millis) -> Vec<Change> {
        let schema = &self.chain.schema;
        let state = bound.record.read();
        let json = |number: Number| state.kept(schema, number, now).and_then(|kept| kept.json.clone());
        let change = |number: &Number| {
            let name = schema.at(*number).name;
            Some(Change { number: *number, name, json: Some(json(*number)?), version: None, replaces: None })
        };
        adopt.iter().filter_map(change).collect()
    }

    fn may_be_followed(&self) -> bool {
        matches!(self.binding(), Binding::Fenced(_)) || self.marks.ended_here.load(Ordering::Acquire)
    }

    /// Gives the principal what it does not have. Losing to another value is as it should be.
    async fn adopt(&self, signed: &crate::chain::Signed, chosen: Vec<Change>, now: Millis) -> Result<(), WriteError> {
        let record = self.hold_principal(signed, now);
        let stands = |number| {
            let kept = record.live(now, |state| state.kept(&self.chain.schema, number, now).cloned());
            kept.ok().flatten()
        };
        for mut change in chosen {
            let target = Target { record: Arc::clone(&record), scope: Scope::Principal, extent: Extent::Named };
            // Outdated by a removal too, or by the end of an old one: looked at again, there is a value or none.
            for _ in 0..MAX_LOSSES {
                let stands = stands(change.number);
                if stands.as_ref().is_some_and(|kept| kept.json.is_some()) {
                    break;
                }
                change.replaces = Some(stands.map_or(Version::ZERO, |kept| kept.version));
                match self.write(&target, CommitKind::Upsert, std::slice::from_ref(&change), now).await {
                    Ok(_) => break,
                    Err(Loss::Outdated) => {}
                    Err(loss) => return Err(loss.into()),
                }
            }
        }
        Ok(())
    }

    /// Moves the session to a new id: the new record is there before the old one goes.
    async fn succeed(&self, bound: &Bound, succession: Succession<'_>, now: Millis) -> Result<(), WriteError> {
        let id = mint_id()?;
        let life = Life::begin(Version::ZERO, now, self.chain.lifetime);
        let (next, made) = self.make(id, life, now);
        let _shut = match &self.chain.store {
            Some(store) => {
                let shut = bound.record.shut_gate().await;
                // Copied first, retired last: whatever fails between leaves the old one whole.
                self.store_successor(store.as_ref(), bound, &next, &succession, now).await?;
                Some(shut)
            }
            None => None,
        };
        self.rebind_if(next.clone(), || self.hand_over(bound, &next, &succession, now))?;
        made.keep();
        self.settle(&bound.record, now);
        self.settle(&next.record, now);
        // Bound first: what still waits on the old record then sees that it is this handle's own renewal.
        bound.record.ring();
        Ok(())
    }

    /// In memory: the old record's values become the new one's, and the old one ends, in one step.
    fn hand_over(
        &self,
        bound: &Bound,
        next: &Bound,
        succession: &Succession<'_>,
        now: Millis,
    ) -> Result<(), WriteError> {
        let retired = bound.record.retire(Closed::Renewed, now, |state| {
            let successor = self.successor(state, succession, now)?;
            *next.record.write() = successor;
            Ok(())
        });
        retired.map_err(|refused| refused.into_loss().into())
    }

    fn successor(&self, state: &State, succession: &Succession<'_>, now: Millis) -> Result<State, Refused> {
        let Kind::Session { life, .. } = &state.kind else { return Err(Refused::Closed(Closed::Expired)) };
        // Above the one before, which no `end_all` has reached; the values' versions have no say in it.
        let birth = Version::fresh(now, life.birth());
        let begin = |told: Told| state.successor(Life::from(told));
        let Succession::SignIn { user, above } = succession else {
            return Ok(begin(Told { birth, ..life.told() }));
        };
        let mut next = begin(Told {
            birth: birth.max(above.next()),
            absolute_deadline: now.after(life.absolute_deadline().since(life.created())),
            created: now,
            ..life.told()
        });
        next.values.retain(|number| self.chain.schema.at(number).scope == Scope::Session);
        let (terms, version) = (self.chain.terms(Scope::Session, now), Version::fresh(now, state.values.newest()));
        // As if the store had stamped it: it takes what it is told of a successor as it is.
        let stamp = self.chain.store.as_ref().map(|_| version);
        let user = [Change { version: stamp, ..(*user).clone() }];
        next.admit(&user, terms)?;
        next.apply(&user, version, terms, &Judge::new(terms.schema));
        Ok(next)
    }

    async fn store_successor(
        &self,
        store: &dyn crate::tier::Tier,
        bound: &Bound,
        next: &Bound,
        succession: &Succession<'_>,
        now: Millis,
    ) -> Result<(), WriteError> {
        let failed = |error| WriteError::from(TierError::new(store.name(), error));
        let successor = bound
            .record
            .live(now, |state| self.successor(state, succession, now))
            .map_err(WriteError::closed)?
            .map_err(|refused| WriteError::from(refused.into_loss()))?;
        let schema = &self.chain.schema;
        let changes: Vec<_> = successor
            .values
            .declared()
            .map(|(number, kept)| Change {
                number,
                name: schema.at(number).name,
                json: kept.json.clone(),
                version: Some(kept.version),
                replaces: None,
            })
            .collect();
        let expires = next.record.expires().time();
        let create = Commit::new(self.chain.owner(&next.id()), CommitKind::Create, &changes, expires);
        let refused =
            || WriteError::new(WriteErrorKind::Unavailable, "the shared store did not take the renewed session");
        if !matches!(store.write(create).await.map_err(failed)?, Committed::Applied(_)) {
            return Err(refused());
        }
        let expires = bound.record.read().absolute_deadline().unwrap_or(now).time();
        let end = Commit::new(self.chain.owner(&bound.id()), CommitKind::End, &[], expires);
        let doubt = bound.record.doubt();
        let ended = store.write(end).await.map_err(failed)?;
        doubt.clear();
        match ended {
            Committed::Applied(_) => Ok(()),
            Committed::Absent | Committed::Ended => {
                let _ = self.end(&bound.record, Closed::Destroyed, now);
                Err(WriteError::closed(Closed::Destroyed))
            }
            _ => Err(refused()),
        }
    }

    pub(super) async fn destroy(&self) -> Result<(), WriteError> {
        self.touch();
        self.check_head()?;
        let now = self.chain.now();
        // One that is over is as destroyed as can be, and one that never was stays so.
        let Ok(bound) = self.live(now) else { return Ok(()) };
        if let Some(store) = &self.chain.store {
            let expires = bound.record.read().absolute_deadline().unwrap_or(now).time();
            let end = Commit::new(self.chain.owner(&bound.id()), CommitKind::End, &[], expires);
            let doubt = bound.record.doubt();
            store.write(end).await.map_err(|error| WriteError::from(TierError::new(store.name(), error)))?;
            doubt.clear();
        }
        if self.end(&bound.record, Closed::Destroyed, now).is_ok() {
            self.marks.ended_here.store(true, Ordering::Release);
        }
        Ok(())
    }

    pub(super) fn set_lifetime(&self, lifetime: Lifetime) -> Result<(), WriteError> {
        self.touch();
        self.check_head()?;
        let now = self.chain.now();
        let bound = self.live(now).map_err(|reason| match reason {
            Some(reason) => WriteError::closed(reason),
            None => WriteError::new(WriteErrorKind::Invalid, "there is no session yet: write a value first"),
        })?;
        bound.record.set_lifetime(lifetime, now).map_err(WriteError::closed)?;
        self.settle(&bound.record, now);
        self.chain.note_absolute(lifetime.absolute);
        Ok(())
    }

    /// Ends all sessions of this handle's principal whose ids were minted up to now.
    pub(crate) fn revoke(&self) {
        let now = self.chain.now();
        let Some(signed) = self.signed(now) else { return };
        let record = self.hold_principal(&signed, now);
        {
            let mut state = record.write();
            record.begin_anew(&mut state, now);
            let known = state.values.newest().max(state.not_before());
            // The counters of ids minted in this very millisecond are not known here: they all go.
            let version = Version::fresh(now, known).max(Version::last_at(now));
            if let Kind::Principal { not_before, idle, .. } = &mut state.kind {
                *not_before = version;
                // Kept until the last cookie sealed before can no longer open.
                *idle = (*idle).max(self.chain.longest_absolute());
            }
        }
        record.touch(now);
        self.settle(&record, now);
        self.chain.revocations.fetch_add(1, Ordering::AcqRel);
        record.ring();
    }

    /// Empties the session's own record, but for who is signed in; in a job, the principal's.
    pub(super) async fn clear(&self) -> Result<(), WriteError> {
        self.touch();
        let now = self.chain.now();
        let identity = match &self.chain.identity {
            Identity::Value { number, .. } => Some(*number),
            _ => None,
        };
        let (scope, record) = match self.binding() {
            Binding::Job => (Scope::Principal, self.signed(now).and_then(|signed| self.find_principal(&signed))),
            _ => (Scope::Session, self.live(now).ok().map(|bound| bound.record)),
        };
        let Some(record) = record else {
            return self.writable(now).map(drop);
        };
        let changes: Vec<_> = {
            let state = record.read();
            let cleared = |(number, kept): (Number, &crate::chain::values::Kept)| {
                let wanted = kept.json.is_some() && Some(number) != identity;
                wanted.then(|| removal(number, self.chain.schema.at(number).name))
            };
            state.values.declared().filter_map(cleared).collect()
        };
        if changes.is_empty() && !record.read().values.opaque().any(|(_, kept)| kept.json.is_some()) {
            return self.writable(now).map(drop);
        }
        self.commit(scope, Extent::All, &changes).await.map(drop)
    }
}

pub(super) const fn removal(number: Number, name: &'static str) -> Change {
    Change { number, name, json: None, version: None, replaces: None }
}

/// A sign-in under way: await it. See [`Session::sign_in`].
#[must_use = "nothing happens until it is awaited"]
pub struct SignIn<'a> {
    session: &'a Session,
    user: Result<Json, WriteError>,
    adopt: Vec<Number>,
}

impl<'a> SignIn<'a> {
    pub(super) fn new<V: SessionValue>(session: &'a Session, user: &V) -> Self {
        let chain = &session.core().chain;
        let identifies = match &chain.identity {
            Identity::Value { number, .. } => chain.schema.of::<V>() == Some(*number),
            _ => false,
        };
        let user = if identifies {
            value::encode(user).map_err(|flaw| Session::invalid(V::NAME, flaw))
        } else {
            let message = format!("`{}` is not the type that `identify_by` names", V::NAME);
            Err(WriteError::new(WriteErrorKind::Undeclared, message))
        };
        Self { session, user, adopt: Vec::new() }
    }

    /// Carries what was chosen before over to the user, if the user has no `V` yet. Needs a `V` of principal scope;
    /// without this, an anonymous choice ends with the anonymous session.
    pub fn adopt<V: SessionValue>(mut self) -> Self {
        let schema = &self.session.core().chain.schema;
        match schema.of::<V>().filter(|number| schema.at(*number).scope == Scope::Principal) {
            Some(number) => self.adopt.push(number),
            None => {
                let message = format!("`{}` can't be adopted: declare it, of principal scope", V::NAME);
                self.user = Err(WriteError::new(WriteErrorKind::Undeclared, message));
            }
        }
        self
    }
}

impl<'a> IntoFuture for SignIn<'a> {
    type Output = Result<(), WriteError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.session.core().sign_in(self.user?, &self.adopt).await })
    }
}

/// Without the user, who is the application's.
impl fmt::Debug for SignIn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignIn").field("session", self.session).finish_non_exhaustive()
    }
}
