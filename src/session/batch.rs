//! Batches, updates and takes: writes that depend on present values, or that write several values together.

use std::fmt;

use super::{
    Session,
    commit::{self, Attempts},
    read::{self, Access, Stored},
    shared::SessionShared,
};
use crate::{
    error::{WriteError, WriteErrorKind},
    record::change::{Mutation, WriteScope},
    time::Millis,
    value::{self, Scope, SessionValue, ValueIndex},
    version::Version,
};

/// Changes of several values of one scope, committed together or not at all.
///
/// ```
/// # use layered_session::{CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionValue, Sessions};
/// # use serde::{Deserialize, Serialize};
/// # use {http::{Request, Response}, tower::{Layer, ServiceExt, service_fn}};
/// # #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
/// # struct Theme(String);
/// # impl SessionValue for Theme { const NAME: &'static str = "theme"; }
/// # #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
/// # struct Visits(u32);
/// # impl SessionValue for Visits { const NAME: &'static str = "visits"; }
/// # #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// # struct Draft(String);
/// # impl SessionValue for Draft { const NAME: &'static str = "draft"; }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), layered_session::tier::BoxError> {
/// # let chain = Sessions::builder().tier(MemoryTier::builder().build());
/// # let chain = chain.tier(CookieTier::sealed(KeyRing::generate()?)).value::<Theme>().value::<Visits>().value::<Draft>();
/// # let layer = LayeredSessionLayer::new(chain.build()?);
/// # let service = layer.layer(service_fn(async |request: Request<()>| {
/// # let session = Session::load(request.extensions()).await?;
/// session.set(Draft("Dear".into())).await?;
/// session
///     .batch()
///     .set(Theme("dark".into()))
///     .update::<Visits>(|visits| visits.0 += 1)
///     .remove::<Draft>()
///     .commit()
///     .await?;
/// assert_eq!(session.get(), Some(Theme("dark".into())));
/// assert_eq!(session.get(), Some(Visits(1)));
/// assert_eq!(session.get::<Draft>(), None);
/// # Ok::<_, layered_session::tier::BoxError>(Response::new(())) }));
/// # service.oneshot(Request::new(())).await?;
/// # Ok(()) }
/// ```
#[must_use = "nothing is written until `commit` is called and awaited"]
pub struct Batch<'a> {
    session: &'a Session,
    steps: Result<Vec<Step<'a>>, WriteError>,
}

type Reread<'a> = Box<dyn FnMut(&SessionShared, Millis) -> Result<Mutation, WriteError> + Send + 'a>;

enum Step<'a> {
    Change(Mutation),
    Update(ValueIndex, Reread<'a>),
}

impl Step<'_> {
    const fn index(&self) -> ValueIndex {
        match self {
            Self::Change(change) => change.index,
            Self::Update(index, _) => *index,
        }
    }
}

impl<'a> Batch<'a> {
    pub(super) const fn new(session: &'a Session) -> Self {
        Self { session, steps: Ok(Vec::new()) }
    }

    /// Writes a value.
    pub fn set<V: SessionValue>(self, value: V) -> Self {
        self.step(|session| session.written(&value).map(Step::Change))
    }

    /// Changes the present value at the time of the commit. The closure may run more than once.
    pub fn update<V: SessionValue + Default>(self, mut update: impl FnMut(&mut V) + Send + 'a) -> Self {
        self.step(|session| {
            let index = session.writable::<V>()?;
            let reread =
                move |shared: &SessionShared, now| updated(shared, index, &mut update, now).map(|(change, _)| change);
            Ok(Step::Update(index, Box::new(reread)))
        })
    }

    /// Removes a value.
    pub fn remove<V: SessionValue>(self) -> Self {
        self.step(|session| Ok(Step::Change(Mutation::remove(session.writable::<V>()?, V::NAME))))
    }

    /// Adds a step, unless an earlier step has failed: [`commit`](Self::commit) returns the first error.
    fn step(mut self, step: impl FnOnce(&Session) -> Result<Step<'a>, WriteError>) -> Self {
        self.steps = self.steps.and_then(|mut steps| {
            steps.push(step(self.session)?);
            Ok(steps)
        });
        self
    }

    /// Commits all changes, or none.
    ///
    /// # Errors
    ///
    /// As [`Session::set`] and [`Session::update`]; `Invalid` also for values of different scopes, and for a value with
    /// two changes.
    ///
    /// # Cancel safety
    ///
    /// A dropped `commit` has written all of the values or none. With a shared store the store decides, and the next
    /// load asks the store.
    pub async fn commit(self) -> Result<(), WriteError> {
        let Self { session, steps } = self;
        let (shared, mut steps) = (session.shared(), steps?);
        let Some(scope) = one_scope(shared, &steps)? else { return Ok(()) };
        let rereads = steps.iter().any(|step| matches!(step, Step::Update(..)));
        let now = shared.node.now();
        let turn = if rereads { shared.record_of(scope, now) } else { None };
        let _turn = match &turn {
            Some(record) => Some(record.extras().update_queue().lock().await),
            None => None,
        };
        let mut attempts = Attempts::of(&shared.node);
        loop {
            let now = shared.node.now();
            let mut changes = Vec::with_capacity(steps.len());
            for step in &mut steps {
                match step {
                    // A removal without a stored copy is no write.
                    Step::Change(change) if change.json.is_none() && !read::has_stored(shared, change.index, now) => {}
                    Step::Change(change) => changes.push(change.clone()),
                    Step::Update(_, reread) => changes.push(reread(shared, now)?),
                }
            }
            if changes.is_empty() {
                shared.flags.touched.set();
                return commit::writable(shared, now).map(drop);
            }
            if attempts.settle(commit::try_commit(shared, scope, WriteScope::Values, &changes).await).await?.is_some() {
                return Ok(());
            }
        }
    }
}

fn one_scope(shared: &SessionShared, steps: &[Step<'_>]) -> Result<Option<Scope>, WriteError> {
    let refuse = |message, index| {
        let error = WriteError::new(WriteErrorKind::Invalid, message);
        Err(error.named([shared.node.config.schema.get(index).name]))
    };
    let mut scope = None;
    for (at, step) in steps.iter().enumerate() {
        let index = step.index();
        if steps[..at].iter().any(|earlier| earlier.index() == index) {
            return refuse("a batch changes the same value twice: combine the two changes into one", index);
        }
        let of = shared.node.config.schema.get(index).scope;
        if *scope.get_or_insert(of) != of {
            return refuse(
                "a batch has values of different scopes, which can't be committed together: make a batch for each \
                 scope",
                index,
            );
        }
    }
    Ok(scope)
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("steps", &self.steps.as_ref().map_or(0, Vec::len)).finish_non_exhaustive()
    }
}

/// Runs an update on the present value, and returns the change as a compare-and-set, with the new value.
fn updated<V: SessionValue + Default>(
    shared: &SessionShared,
    index: ValueIndex,
    update: &mut (impl FnMut(&mut V) + ?Sized),
    now: Millis,
) -> Result<(Mutation, V), WriteError> {
    shared.flags.touched.set();
    let look = read::stored(shared, index, now, Access::Touch);
    let answer = read::answer(shared, index, &look, now, |json| value::decode::<V>(json));
    let mut value = answer.map(|(value, _)| value).unwrap_or_default();
    update(&mut value);
    let json = value::encode(&value).map_err(|flaw| flaw.into_write_error(V::NAME))?;
    let replaces = Some(look.stored.map_or(Version::ZERO, |stored| stored.version));
    Ok((Mutation { replaces, ..Mutation::set(index, V::NAME, json) }, value))
}

pub(super) async fn update<V: SessionValue + Default>(
    shared: &SessionShared,
    index: ValueIndex,
    update: &mut (impl FnMut(&mut V) + Send),
) -> Result<V, WriteError> {
    let scope = shared.node.config.schema.get(index).scope;
    let mut attempts = Attempts::of(&shared.node);
    loop {
        let record = shared.record_of(scope, shared.node.now());
        // Updates on this node queue: an update loses only to other kinds of writes, and to other nodes.
        let _turn = match &record {
            Some(record) => Some(record.extras().update_queue().lock().await),
            None => None,
        };
        let (change, value) = updated(shared, index, update, shared.node.now())?;
        if attempts.settle(commit::try_commit(shared, scope, WriteScope::Values, &[change]).await).await?.is_some() {
            return Ok(value);
        }
    }
}

pub(super) async fn take<V: SessionValue>(shared: &SessionShared, index: ValueIndex) -> Result<Option<V>, WriteError> {
    let scope = shared.node.config.schema.get(index).scope;
    shared.flags.touched.set();
    let mut attempts = Attempts::of(&shared.node);
    loop {
        // Without a value to take, `take` writes nothing. A write would fail in a closed session and in a request that
        // may begin no session, and a page that asks for a message must work there too.
        let stored = read::stored(shared, index, shared.node.now(), Access::Touch).stored;
        let Some(Stored { json: Some(json), version, .. }) = stored else { return Ok(None) };
        let change = Mutation { replaces: Some(version), ..Mutation::remove(index, V::NAME) };
        if attempts.settle(commit::try_commit(shared, scope, WriteScope::Values, &[change]).await).await?.is_some() {
            return Ok(value::decode(&json).ok());
        }
    }
}
