//! The auto traits of the public types: `Send`, `Sync`, `Unpin` and `'static`. A private field without such a trait
//! would take the trait from the public type without a word.

use std::future::Future;

use layered_session::{
    Batch, BuildError, BuildErrorKind, ChangeEvent, ChangeOrigin, Changes, Clock, CloseReason, CookieTier, DefaultTier,
    Durability, Explanation, InspectorBody, InspectorFuture, KeyRing, LayeredSession, LayeredSessionLayer, Lifetime,
    MemoryTier, MemoryTierBuilder, MissingSession, MissingSessionKind, MissingValue, Placement, Preload, PreloadFuture,
    PreloadLayer, Principal, RelayToken, Require, RequireFuture, RequireLayer, Required, Resolution, ResponseFuture,
    SameSite, Scope, Session, SessionInspector, SessionWriteback, Sessions, SessionsBuilder, SharedTier, SignIn, Sleep,
    SqliteStore, SqliteStoreBuilder, Stats, TierAnswer, TierError, TokioClock, Value, ValueSource, Watch, WriteError,
    WriteErrorKind, WritebackBody, WritebackFuture,
    testing::{
        Call, Client, ClientRequest, Jar, ManualClock, Operation, Response, SpyStore, TestError, TestSession,
        conformance::{self, Rule, Suite, Violation, Violations},
    },
    tier::{
        Ask, BoxError, Change, Commit, CommitKind, Committed, Found, Known, Lookup, NodeId, Notice, OwnerId, Snapshot,
        Source, Store, StoreError, StoreErrorKind, StoredEnd, StoredEntry, StoredLife, StoredRecord, TierFuture, Touch,
        Version,
    },
};

use crate::support::{Browser, Division, Node, Theme, User, Visits, builder, ring};

/// The bound of every public type.
fn sent_and_shared<T: Send + Sync + ?Sized>() {}

/// The bound of types without a borrow that may move between polls.
fn kept<T: Send + Sync + Unpin + 'static>() {}

fn handle<T: Clone + Send + Sync + Unpin + 'static>() {}

fn copied<T: Copy + Send + Sync + Unpin + 'static>() {}

fn error<T: std::error::Error + Send + Sync + Unpin + 'static>() {}

#[test]
fn public_types_have_auto_traits() {
    handle::<Session>();
    handle::<Sessions>();
    handle::<SessionInspector>();
    handle::<SessionWriteback>();
    handle::<LayeredSessionLayer>();
    handle::<PreloadLayer>();
    handle::<LayeredSession<String>>();
    handle::<Preload<String>>();
    handle::<RequireLayer<std::rc::Rc<()>>>();
    handle::<Require<String, std::rc::Rc<()>>>();
    handle::<KeyRing>();
    handle::<CookieTier>();
    handle::<MemoryTier>();
    handle::<MemoryTierBuilder>();
    handle::<Principal>();
    handle::<RelayToken>();
    copied::<Change<'_>>();
    copied::<StoredEnd>();
    copied::<StoredLife>();
    copied::<StoreErrorKind>();
    handle::<ChangeEvent>();
    handle::<ManualClock>();
    handle::<SpyStore>();
    handle::<SqliteStore>();
    handle::<SqliteStoreBuilder>();
    handle::<Jar>();

    copied::<Required<u8>>();
    copied::<Value<u8>>();
    handle::<Jar>();

    copied::<TierAnswer>();
    copied::<BuildErrorKind>();
    copied::<ChangeOrigin>();
    copied::<CloseReason>();
    copied::<Commit<'static>>();
    copied::<CommitKind>();
    copied::<Durability>();
    copied::<Lifetime>();
    copied::<Lookup<'static>>();
    copied::<MissingSessionKind>();
    copied::<Ask>();
    kept::<Call>();
    copied::<Known>();
    copied::<NodeId>();
    copied::<Notice>();
    copied::<Touch>();
    copied::<Operation>();
    copied::<Rule>();
    handle::<Suite<'static>>();
    copied::<ValueSource>();
    copied::<OwnerId>();
    copied::<Placement>();
    copied::<Resolution>();
    copied::<SameSite>();
    copied::<Scope>();
    copied::<Stats>();
    copied::<TokioClock>();
    copied::<Version>();
    copied::<WriteErrorKind>();

    kept::<Changes>();
    kept::<Committed>();
    kept::<StoredEntry>();
    kept::<DefaultTier>();
    kept::<Explanation>();
    kept::<Found>();
    kept::<SharedTier>();
    #[cfg(feature = "redis")]
    kept::<layered_session::RedisStore>();
    kept::<Snapshot>();
    kept::<StoredRecord>();
    kept::<InspectorBody>();
    kept::<SessionsBuilder>();
    kept::<Watch<Division>>();
    kept::<WritebackBody>();
    kept::<Client<String, std::rc::Rc<()>>>();
    sent_and_shared::<BoxError>();
    sent_and_shared::<Sleep>();
    sent_and_shared::<dyn Source>();
    sent_and_shared::<dyn Store>();
    sent_and_shared::<dyn Clock>();

    kept::<Client<String>>();
    kept::<ClientRequest<String>>();
    kept::<Response>();
    sent_and_shared::<TestSession>();

    error::<TestError>();
    error::<BuildError>();
    error::<MissingSession>();
    error::<MissingValue>();
    error::<StoreError>();
    error::<TestError>();
    error::<TierError>();
    error::<Violation>();
    error::<Violations>();
    error::<WriteError>();
}

/// A watch holds no value, so a value type without `Unpin` or any other auto trait can be watched.
#[test]
fn watch_has_all_auto_traits() {
    kept::<Watch<std::rc::Rc<std::marker::PhantomPinned>>>();
}

#[test]
fn wrappers_inherit_auto_traits() {
    fn sent<T: Send>() {}
    type Ready = std::future::Ready<Result<http::Response<()>, std::convert::Infallible>>;
    kept::<ResponseFuture<Ready>>();
    type Service = tower::util::ServiceFn<fn(http::Request<()>) -> Ready>;
    sent::<PreloadFuture<Service, ()>>();
    sent::<RequireFuture<Service, std::rc::Rc<()>, ()>>();
    // A batch holds closures of the application, which need no `Sync`.
    sent::<Batch<'static>>();
}

fn sent<F: Future + Send>(future: F) -> F {
    future
}

fn sent_and_kept<F: Future + Send + 'static>(future: F) -> F {
    future
}

#[tokio::test]
async fn all_futures_are_send() {
    let node = Node::new(builder(&ring(), &ManualClock::new()).build().unwrap());
    let session = Browser::new().visit(&node, async |session| session).await;
    let extensions = http::Extensions::new();

    drop(sent_and_kept(Session::load(&extensions)));
    drop(sent_and_kept(session.closed()));
    drop(sent_and_kept(node.sessions.sweeper()));
    drop(sent(node.sessions.load(&extensions)));
    drop(sent(node.sessions.for_principal(Principal::new("ada"))));
    drop(sent(node.sessions.end_all_sessions(Principal::new("ada"))));

    drop(sent(session.set(Theme::default())));
    drop(sent(session.update::<Visits>(|visits| visits.0 += 1)));
    drop(sent(session.remove::<Theme>()));
    drop(sent(session.take::<Theme>()));
    drop(sent(session.clear()));
    drop(sent(session.touch()));
    drop(sent(session.set_lifetime(Lifetime::new(crate::support::DAY, crate::support::DAY).unwrap())));
    drop(sent(session.renew()));
    drop(sent(session.sign_out()));
    drop(sent(session.destroy()));
    drop(sent(session.batch().set(Theme::default()).update::<Visits>(|_| {}).commit()));
    drop(sent(session.watch::<Division>().next()));
    drop(sent(session.changes().next()));
    drop(sent(session.sign_in(User("ada".into())).adopt::<Division>().into_future()));

    let store = SpyStore::new();
    drop(sent(conformance::run(&store)));

    fn sign_in_is_sent<'a>(sign_in: SignIn<'a>) -> impl IntoFuture + Send + use<'a> {
        sign_in
    }
    drop(sign_in_is_sent(session.sign_in(User("ada".into()))));
    fn tier_future<T: Send + Unpin>(future: TierFuture<'_, T>) -> impl Future + Send + Unpin {
        future
    }
    drop(tier_future(TierFuture::ready(Ok(()))));
    let _ = sent_and_kept::<InspectorFuture>;
    let _ = sent_and_kept::<WritebackFuture>;
}
