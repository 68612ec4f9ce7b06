//! The suite over a store that an application writes with the public API alone.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use layered_session::{
    testing::{
        ManualClock,
        conformance::{Rule, Suite},
    },
    tier::{
        Ask, Commit, CommitKind, Committed, OwnerId, Snapshot, Store, StoreError, StoreErrorKind, StoreFuture,
        StoredRecord, Touch,
    },
};

/// A store in this process, whose clock stands still.
#[derive(Debug, Default)]
struct OwnStore {
    records: Mutex<HashMap<OwnerId, StoredRecord>>,
    /// Whether the store takes commits of kind `Revoke`.
    refuses_revoke: bool,
}

impl OwnStore {
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000)
    }
}

impl Store for OwnStore {
    fn name(&self) -> &'static str {
        "own"
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>> {
        StoreFuture::boxed(async move {
            let records = self.records.lock().unwrap();
            let answer = |ask: &Ask| match records.get(&ask.owner()) {
                Some(record) => record.answer(*ask, Self::now()),
                None => Snapshot::Absent,
            };
            Ok(asks.iter().map(answer).collect())
        })
    }

    fn commit<'a>(&'a self, commit: Commit<'a>) -> StoreFuture<'a, Committed> {
        StoreFuture::boxed(async move {
            if self.refuses_revoke && matches!(commit.kind(), CommitKind::Revoke { .. }) {
                return Err(StoreError::new(StoreErrorKind::ReadOnly, "no revocations here"));
            }
            let mut records = self.records.lock().unwrap();
            let mut record = records.remove(&commit.owner());
            let committed = commit.apply(&mut record, Self::now());
            records.extend(record.map(|record| (commit.owner(), record)));
            Ok(committed)
        })
    }

    fn touch<'a>(&'a self, touches: &'a [Touch]) -> StoreFuture<'a, ()> {
        StoreFuture::boxed(async move {
            let mut records = self.records.lock().unwrap();
            for touch in touches {
                if let Some(record) = records.get_mut(&touch.owner()) {
                    record.touch(*touch, Self::now());
                }
            }
            Ok(())
        })
    }
}

#[tokio::test]
async fn store_around_apply_keeps_all_rules() {
    let store = OwnStore::default();
    Suite::new(&store, ManualClock::new()).without_expiry().run().await.unwrap();
}

#[tokio::test]
async fn error_of_the_store_is_reported() {
    let store = OwnStore { refuses_revoke: true, ..OwnStore::default() };
    let suite = Suite::new(&store, ManualClock::new()).without_expiry();
    let report = suite.run().await.unwrap_err().to_string();
    let rule = Rule::all().find(|rule| rule.name() == "revoke_makes_the_record").unwrap();
    let lines = format!("- {rule}: {}\n    the shared store takes no writes: no revocations here", rule.statement());
    assert!(report.contains(&lines), "{report}");
    assert_eq!(format!("{:?}", suite.check(rule).await.unwrap_err()), lines[2..]);
}
