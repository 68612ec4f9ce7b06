//! The store against a real server. `script::tests` compares its commits with the reference.

use std::{collections::HashMap, time::Duration};

use futures_util::StreamExt;

use self::server::{Server, server};
use super::*;
use crate::{
    error::CloseReason,
    tier::{Change, CommitKind, Known, NodeId, Notice, OwnerId, StoredLife, Version},
    value::Json,
};

#[path = "../../../tests/browser/port.rs"]
mod port;
#[allow(dead_code, reason = "the tests of `tests/stores` use the other functions")]
#[path = "../../../tests/stores/redis/server.rs"]
pub(super) mod server;

pub(super) const HOUR: Duration = Duration::from_secs(3600);
const END: CommitKind = CommitKind::End { reason: CloseReason::Destroyed, successor: None };
const CLEAR: CommitKind = CommitKind::Clear { except: None };

pub(super) fn owner(number: u8) -> OwnerId {
    OwnerId::from_hash([number; 32])
}

pub(super) fn store(server: &Server) -> RedisStore {
    RedisStore::new(server.url()).unwrap()
}

fn commit(kind: CommitKind, changes: &[Change<'static>]) -> Commit<'static> {
    let changes = Box::leak(changes.to_vec().into_boxed_slice());
    let node = NodeId::from_u64(7);
    Commit { owner: owner(1), kind, changes, life: None, above: Version::ZERO, keep: HOUR, node }
}

fn value(json: &str) -> Change<'static> {
    let json: &Json = Box::leak(Box::new(Json::from(json.as_bytes())));
    Change { name: "theme", json: Some(json), version: None, replaces: None }
}

fn removal() -> Change<'static> {
    Change { json: None, ..value("") }
}

fn is_applied(committed: Result<Committed, StoreError>) -> bool {
    matches!(committed, Ok(Committed::Applied { .. }))
}

#[tokio::test]
async fn full_server_takes_ends_and_removals_alone() {
    let Some(server) = server() else { return };
    let store = store(&server);
    assert!(is_applied(store.commit(commit(CommitKind::Create, &[value("1")])).await));
    server.fill();
    // Neither script is in the server yet, which loads scripts when full too.
    server.run::<()>("SCRIPT FLUSH");
    let other = Commit { owner: owner(2), ..commit(CommitKind::Create, &[]) };
    for refused in
        [commit(CommitKind::Update, &[value("2")]), commit(CommitKind::Upsert, &[value("2"), removal()]), other]
    {
        let error = store.commit(refused).await.unwrap_err();
        assert_eq!((error.kind(), error.may_be_applied()), (StoreErrorKind::Full, false), "{refused:?}");
    }
    let Ok(snapshots) = store.read(&[Ask::new(owner(1)), Ask::new(owner(2))]).await else { panic!() };
    let [Snapshot::Present(record), Snapshot::Absent] = snapshots.as_slice() else { panic!("{snapshots:?}") };
    assert_eq!(record.entries().next().and_then(|entry| entry.json()), Some(&b"1"[..]));

    store.touch(&[Touch::new(owner(1), 2 * HOUR)]).await.unwrap();
    for taken in
        [commit(CommitKind::Update, &[removal()]), commit(CLEAR, &[]), commit(CommitKind::Revoke { up_to: None }, &[])]
    {
        assert!(is_applied(store.commit(taken).await), "{taken:?}");
    }
    assert!(matches!(store.commit(commit(END, &[])).await, Ok(Committed::Retired(_))));
    assert!(matches!(store.commit(Commit { owner: owner(2), ..commit(END, &[]) }).await, Ok(Committed::Absent)));
}

#[tokio::test]
async fn record_of_an_unknown_format_stays() {
    let Some(server) = server() else { return };
    let store = store(&server);
    let key = layout::key("ls1", &owner(1));
    server.run::<()>(&format!("HSET {key} @ 2-of-a-later-build theme later"));
    server.run::<()>(&format!("SET {} text", layout::key("ls1", &owner(2))));
    for owner in [owner(1), owner(2)] {
        let known = Known::new(Version::ZERO, Version::ZERO);
        for ask in [Ask::new(owner), Ask::new(owner).unless(known)] {
            assert_eq!(store.read(&[ask]).await.unwrap_err().kind(), StoreErrorKind::Other);
        }
        assert!(store.touch(&[Touch::new(owner, HOUR)]).await.is_err());
        for kind in
            [CommitKind::Create, CommitKind::Update, CommitKind::Upsert, CLEAR, CommitKind::Revoke { up_to: None }, END]
        {
            let error = store.commit(Commit { owner, ..commit(kind, &[]) }).await.unwrap_err();
            assert!(error.kind() == StoreErrorKind::Other && !error.may_be_applied(), "{kind:?}");
        }
    }
    let fields: HashMap<String, String> = server.run(&format!("HGETALL {key}"));
    assert_eq!(fields["theme"], "later");
    assert_eq!((fields.len(), server.run::<i64>(&format!("PTTL {key}"))), (2, -1));
}

#[tokio::test]
async fn malformed_entry_gives_way_to_a_commit() {
    let Some(server) = server() else { return };
    let store = store(&server);
    store.commit(commit(CommitKind::Create, &[])).await.unwrap();
    server.run::<()>(&format!("HSET {} theme short", layout::key("ls1", &owner(1))));
    let absent = Change { replaces: Some(Version::ZERO), ..value("1") };
    assert!(is_applied(store.commit(commit(CommitKind::Update, &[absent])).await));
    assert!(matches!(store.commit(commit(CommitKind::Update, &[absent])).await, Ok(Committed::Outdated(_))));
}

#[tokio::test]
async fn notices_tell_the_commits_of_all_nodes() {
    let Some(server) = server() else { return };
    let store = store(&server);
    let (mut notices, mut elsewhere) = (store.notices().unwrap(), store.notices().unwrap());
    assert_eq!((notices.next().await, elsewhere.next().await), (Some(Notice::Up), Some(Notice::Up)));
    server.run::<()>("PUBLISH ls1:n1 forged");
    let theirs = Commit { node: NodeId::from_u64(u64::MAX), ..commit(CommitKind::Revoke { up_to: None }, &[]) };
    let mine = [commit(CommitKind::Create, &[]), commit(CommitKind::Update, &[value("1")]), theirs];
    for commit in mine {
        let Ok(Committed::Applied { newest, generation, .. }) = store.commit(commit).await else { panic!() };
        let known = Known::new(generation, newest);
        let changed = Notice::Changed { owner: owner(1), known, node: commit.node() };
        assert_eq!((notices.next().await, elsewhere.next().await), (Some(changed), Some(changed)));
    }
    // A refused commit sends no notice; an end of a missing record does.
    store.commit(commit(CommitKind::Create, &[])).await.unwrap();
    store.commit(Commit { owner: owner(2), ..commit(END, &[]) }).await.unwrap();
    let Some(Notice::Changed { owner: ended, .. }) = notices.next().await else { panic!() };
    assert_eq!(ended, owner(2));

    server.run::<()>("CLIENT KILL TYPE pubsub");
    assert_eq!(notices.next().await, Some(Notice::Down));
    store.commit(commit(CommitKind::Update, &[value("2")])).await.unwrap();
    assert_eq!(notices.next().await, Some(Notice::Up));
    store.commit(commit(CommitKind::Update, &[value("3")])).await.unwrap();
    assert!(matches!(notices.next().await, Some(Notice::Changed { .. })));
}

#[tokio::test]
async fn dropped_poll_loses_no_notice() {
    let Some(server) = server() else { return };
    let store = store(&server);
    let mut notices = store.notices().unwrap();
    let mut polls = 0;
    // Each poll is dropped at once, as in a `select!` with a faster branch.
    let notice = loop {
        polls += 1;
        match futures_util::FutureExt::now_or_never(notices.next()) {
            Some(notice) => break notice,
            None => tokio::task::yield_now().await,
        }
    };
    assert!(polls > 1 && notice == Some(Notice::Up), "{polls} {notice:?}");
}

#[tokio::test]
async fn user_without_channels_writes_silently() {
    let Some(server) = server() else { return };
    server.run_words::<()>(&[
        "ACL",
        "SETUSER",
        "shop",
        "on",
        ">hunter2",
        "~ls1:*",
        "+@hash",
        "+@scripting",
        "+del",
        "+pexpireat",
        "+time",
        "+publish",
        "+subscribe",
        "+ping",
        "resetchannels",
    ]);
    let url = format!("redis://shop:hunter2@127.0.0.1:{}", server.port());
    let store = RedisStore::new(&url).unwrap();
    assert!(is_applied(store.commit(commit(CommitKind::Create, &[value("1")])).await));
    let calls = script::commit_call(store.scripts.of(&commit(END, &[])), "ls1", &commit(END, &[]));
    let mut pipeline = redis::pipe();
    let answer = store.link.run(pipeline.add_command(calls), Some(&store.scripts.freeing_commit)).await;
    let reply = script::reply(answer.unwrap().remove(0)).unwrap();
    assert!(matches!(reply.committed, Committed::Retired(_)));
    assert!(String::from_utf8_lossy(&reply.silent).contains("channel"), "{:?}", reply.silent);
    assert!(store.silent.due(1, Millis::of_span(store.link.elapsed()), MINUTE).is_none(), "traced a moment ago");
    assert!(!format!("{store:?}").contains("hunter2"), "{store:?}");

    server.run::<()>("ACL SETUSER shop &ls1:n1");
    let store = RedisStore::new(&url).unwrap();
    store.commit(Commit { owner: owner(2), ..commit(CommitKind::Create, &[]) }).await.unwrap();
    assert!(store.silent.due(1, Millis::of_span(store.link.elapsed()), MINUTE).is_some(), "the notice was sent");
}

#[tokio::test]
async fn url_is_checked_without_a_connection() {
    for url in ["", "localhost", "http://localhost", "redis://", "redis://localhost/x", "redis://ada:hunter2@"] {
        let error = RedisStore::new(url).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    let store = RedisStore::new("redis://ada:hunter2@127.0.0.1:1").unwrap();
    for _ in 0..2 {
        let error = store.commit(commit(CommitKind::Create, &[])).await.unwrap_err();
        assert_eq!((error.kind(), error.may_be_applied()), (StoreErrorKind::Link, false), "{error:?}");
    }
    assert!(!format!("{store:?}").contains("hunter2"), "{store:?}");
}

#[tokio::test]
async fn replica_refuses_commits_and_answers_reads() {
    let Some(server) = server() else { return };
    let store = store(&server);
    store.commit(commit(CommitKind::Create, &[value("1")])).await.unwrap();
    server.run::<()>("REPLICAOF 127.0.0.1 1");
    for refused in [commit(CommitKind::Update, &[value("2")]), commit(END, &[])] {
        let error = store.commit(refused).await.unwrap_err();
        assert_eq!((error.kind(), error.may_be_applied()), (StoreErrorKind::ReadOnly, false));
    }
    assert!(matches!(store.read(&[Ask::new(owner(1))]).await.as_deref(), Ok([Snapshot::Present(_)])));
    server.run::<()>("REPLICAOF NO ONE");
    assert!(is_applied(store.commit(commit(CommitKind::Update, &[value("2")])).await));
}

// A hash with a field over 64 bytes takes more than twice the memory.
#[tokio::test]
async fn short_records_are_listpacks() {
    let Some(server) = server() else { return };
    let store = store(&server);
    let encoding = || server.run::<String>(&format!("OBJECT ENCODING {}", layout::key("ls1", &owner(1))));
    let life = StoredLife::new(std::time::SystemTime::now(), HOUR, Version::ZERO);
    let create = Commit { life: Some(life), ..commit(CommitKind::Create, &[value("\"dark\"")]) };
    assert!(is_applied(store.commit(create).await));
    assert_eq!(encoding(), "listpack");
    let end = CommitKind::End { reason: CloseReason::Renewed, successor: Some(owner(2)) };
    store.commit(commit(end, &[])).await.unwrap();
    assert_eq!(encoding(), "listpack");
}
