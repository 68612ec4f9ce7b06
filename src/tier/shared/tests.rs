//! Readers that share a read, and the writes between them.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::SharedTier;
use crate::{
    error::{StoreError, StoreErrorKind, TierError},
    id::OwnerId,
    node_clock::NodeClock,
    testing::{ManualClock, Operation, SpyStore},
    tier::{Ask, Commit, CommitKind, Committed, Known, NodeId, Snapshot, Store, StoreFuture, Touch},
    version::Version,
};

const ADA: OwnerId = OwnerId::from_hash([1; 32]);
const BOB: OwnerId = OwnerId::from_hash([2; 32]);
const SECOND: Duration = Duration::from_secs(1);

struct Fixture {
    store: SpyStore,
    clock: ManualClock,
    time: NodeClock,
    tier: SharedTier,
}

type Reading<'a> = Pin<Box<dyn Future<Output = Result<Vec<Snapshot>, TierError>> + 'a>>;

impl Fixture {
    fn new() -> Self {
        let (store, clock) = (SpyStore::new(), ManualClock::new());
        let time = NodeClock::new(Arc::new(clock.clone()), SECOND);
        Self { tier: SharedTier::new(store.clone()), store, clock, time }
    }

    /// A read of these asks, which has been polled once.
    fn reading<'a>(&'a self, asks: &'a [Ask]) -> Reading<'a> {
        let mut reading: Reading<'a> = Box::pin(self.tier.read(asks, &self.time));
        assert!(poll(&mut reading).is_none(), "the read waits");
        reading
    }

    fn read(&self, ask: Ask) -> Snapshot {
        now(self.tier.read_one(ask, &self.time)).unwrap()
    }

    async fn commit(&self, owner: OwnerId, kind: CommitKind) -> Result<Committed, TierError> {
        let (node, above) = (NodeId::random(), Version::ZERO);
        let commit = Commit { owner, kind, changes: &[], life: None, above, keep: 3600 * SECOND, node };
        self.tier.commit(commit, &self.time).await
    }

    fn asked(&self) -> Vec<Vec<OwnerId>> {
        let calls = self.store.take_calls();
        let reads = calls.iter().filter(|call| call.operation() == Operation::Read);
        reads.map(|call| call.owners().to_vec()).collect()
    }
}

fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    match Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    poll(&mut pin!(future)).expect("the store answers at once")
}

fn is_present(snapshots: &[Snapshot]) -> bool {
    matches!(snapshots, [Snapshot::Present(_)])
}

fn is_absent(snapshots: &[Snapshot]) -> bool {
    matches!(snapshots, [Snapshot::Absent])
}

#[test]
fn readers_survive_the_first_reader() {
    for held in [SpyStore::hold_requests, SpyStore::hold_answers] {
        let fixture = Fixture::new();
        held(&fixture.store, Operation::Read);
        let asks = [Ask::new(ADA)];
        let first = fixture.reading(&asks);
        let mut others = [fixture.reading(&asks), fixture.reading(&asks)];
        drop(first);
        fixture.store.release();
        for other in &mut others {
            assert!(is_absent(&poll(other).expect("the read has ended").unwrap()));
        }
        assert_eq!(fixture.asked(), [[ADA]]);
    }
}

#[test]
fn last_reader_drops_the_call() {
    let fixture = Fixture::new();
    fixture.store.hold_answers(Operation::Read);
    let asks = [Ask::new(ADA)];
    drop([fixture.reading(&asks), fixture.reading(&asks)]);
    assert_eq!(fixture.tier.flights.len(), 0);
    fixture.store.release();
    assert_eq!(fixture.asked().len(), 1);
    fixture.read(Ask::new(ADA));
    assert_eq!(fixture.asked().len(), 1, "the dropped read answers nobody, and nothing is remembered");
    assert_eq!(fixture.tier.flights.len(), 0);
}

// The write happens after the store has answered the first read, and before the answer arrives.
#[test]
fn read_after_write_shares_no_earlier_read() {
    let fixture = Fixture::new();
    fixture.store.hold_answers(Operation::Read);
    let asks = [Ask::new(ADA)];
    let mut before = fixture.reading(&asks);
    now(fixture.commit(ADA, CommitKind::Upsert)).unwrap();
    let mut after = fixture.reading(&asks);
    fixture.store.release();
    // In this order the later answer is remembered first.
    assert!(is_present(&poll(&mut after).expect("the second read has ended").unwrap()));
    assert!(is_absent(&poll(&mut before).expect("the first read has ended").unwrap()));
    assert!(is_present(&[fixture.read(Ask::new(ADA))]), "the answer from before the write is not remembered");
    assert_eq!(fixture.asked().len(), 3);
}

// The read begins after the write and is answered before the write.
#[test]
fn read_after_write_shares_no_read_from_during_the_write() {
    let fixture = Fixture::new();
    fixture.store.hold_requests(Operation::Upsert);
    fixture.store.hold_answers(Operation::Read);
    let mut write = Box::pin(fixture.commit(ADA, CommitKind::Upsert));
    assert!(poll(&mut write).is_none());
    let asks = [Ask::new(ADA)];
    let mut during = fixture.reading(&asks);
    fixture.store.release();
    poll(&mut write).expect("the write has ended").unwrap();
    assert!(is_present(&[fixture.read(Ask::new(ADA))]));
    assert!(is_absent(&poll(&mut during).expect("the read has ended").unwrap()));
    assert!(is_present(&[fixture.read(Ask::new(ADA))]));
}

#[test]
fn absence_from_during_a_write_is_forgotten() {
    for held in [SpyStore::hold_requests, SpyStore::hold_answers] {
        let fixture = Fixture::new();
        fixture.read(Ask::new(ADA));
        held(&fixture.store, Operation::Create);
        let mut write = Box::pin(fixture.commit(ADA, CommitKind::Create));
        assert!(poll(&mut write).is_none());
        fixture.read(Ask::new(ADA));
        fixture.store.release();
        poll(&mut write).expect("the write has ended").unwrap();
        assert!(is_present(&[fixture.read(Ask::new(ADA))]));
    }
}

// The store may have made a write that was dropped or that failed.
#[test]
fn read_after_abandoned_write_asks_the_store() {
    for is_dropped in [true, false] {
        let fixture = Fixture::new();
        fixture.store.hold_answers(Operation::Read);
        let asks = [Ask::new(ADA)];
        let before = fixture.reading(&asks);
        fixture.store.hold_answers(Operation::Upsert);
        let mut write = Box::pin(fixture.commit(ADA, CommitKind::Upsert));
        assert!(poll(&mut write).is_none());
        match is_dropped {
            true => drop(write),
            false => {
                fixture.clock.advance(SECOND);
                let late = poll(&mut write).expect("the write is late").unwrap_err();
                assert!(late.may_be_applied());
            }
        }
        fixture.store.release();
        assert!(is_present(&[fixture.read(Ask::new(ADA))]));
        drop(before);
    }
}

#[test]
fn absence_is_remembered_for_five_seconds() {
    let fixture = Fixture::new();
    let ask = || fixture.read(Ask::new(ADA));
    for _ in 0..20 {
        ask();
    }
    assert_eq!(fixture.asked(), [[ADA]]);
    fixture.clock.advance(5 * SECOND - Duration::from_millis(1));
    ask();
    assert_eq!(fixture.asked().len(), 0);
    // Memory has a record, which only the store's own answer may end.
    let known = Known::new(Version::ZERO, Version::ZERO);
    assert!(is_absent(&[fixture.read(Ask::new(ADA).unless(known))]));
    assert_eq!(fixture.asked(), [[ADA]]);
    fixture.tier.forget_absent(&ADA);
    ask();
    assert_eq!(fixture.asked(), [[ADA]]);
    fixture.clock.advance(5 * SECOND - Duration::from_millis(1));
    ask();
    assert_eq!(fixture.asked().len(), 0);
    fixture.clock.advance(Duration::from_millis(1));
    ask();
    assert_eq!(fixture.asked(), [[ADA]]);
}

#[test]
fn each_write_that_creates_ends_the_absence() {
    let end = CommitKind::End { reason: crate::CloseReason::Destroyed, successor: None };
    for kind in [CommitKind::Create, CommitKind::Upsert, CommitKind::Revoke { up_to: None }, end] {
        let fixture = Fixture::new();
        fixture.read(Ask::new(ADA));
        now(fixture.commit(ADA, kind)).unwrap();
        assert!(!is_absent(&[fixture.read(Ask::new(ADA))]), "{kind:?}");
    }
}

#[test]
fn readers_with_other_known_records_read_apart() {
    let fixture = Fixture::new();
    now(fixture.commit(ADA, CommitKind::Create)).unwrap();
    let Snapshot::Present(record) = fixture.read(Ask::new(ADA)) else { unreachable!("the record was created") };
    let (current, old) = (record.known(), Known::new(Version::ZERO, Version::ZERO));
    let full = [Ask::new(ADA)];
    let (current, old) = ([Ask::new(ADA).unless(current)], [Ask::new(ADA).unless(old)]);
    let answers = |asks: &[&[Ask]]| -> (Vec<bool>, usize) {
        fixture.asked();
        fixture.store.hold_answers(Operation::Read);
        let mut readers: Vec<_> = asks.iter().map(|asks| fixture.reading(asks)).collect();
        fixture.store.release();
        let present = readers.iter_mut().map(|reader| is_present(&poll(reader).expect("all have ended").unwrap()));
        (present.collect(), fixture.asked().len())
    };
    assert_eq!(answers(&[&full, &current, &old]), (vec![true; 3], 1));
    assert_eq!(answers(&[&current, &current]), (vec![false; 2], 1));
    assert_eq!(answers(&[&current, &full, &old]), (vec![false, true, true], 2));
    assert_eq!(answers(&[&current, &old]), (vec![false, true], 2));
}

#[test]
fn batch_asks_for_missing_owners_alone() {
    let fixture = Fixture::new();
    now(fixture.commit(BOB, CommitKind::Create)).unwrap();
    let carol = OwnerId::from_hash([3; 32]);
    fixture.read(Ask::new(carol));
    fixture.asked();
    fixture.store.hold_answers(Operation::Read);
    let one = [Ask::new(ADA)];
    let mut first = fixture.reading(&one);
    let all = [carol, BOB, ADA, BOB].map(Ask::new);
    let mut batch = fixture.reading(&all);
    assert_eq!(fixture.asked(), [vec![ADA], vec![BOB, BOB]]);
    fixture.store.release();
    let snapshots = poll(&mut batch).expect("the batch has ended").unwrap();
    use Snapshot::{Absent, Present};
    assert!(matches!(&snapshots[..], [Absent, Present(_), Absent, Present(_)]), "{snapshots:?}");
    assert!(is_absent(&poll(&mut first).expect("the read has ended").unwrap()));
    assert!(now(fixture.tier.read(&[], &fixture.time)).unwrap().is_empty());
    assert_eq!(fixture.asked().len(), 0);
}

#[test]
fn failed_read_fails_each_reader_once() {
    let fixture = Fixture::new();
    fixture.store.hold_requests(Operation::Read);
    let asks = [Ask::new(ADA)];
    let mut readers = [(); 3].map(|()| fixture.reading(&asks));
    fixture.store.fail_as(StoreErrorKind::Loading);
    fixture.store.release();
    for reader in &mut readers {
        let error = poll(reader).expect("the read has failed").unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Loading);
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(cause.as_deref(), Some("the test told the store to fail"));
    }
    assert_eq!((fixture.tier.failures(), fixture.tier.flights.len()), (3, 0));
    fixture.store.heal();
    fixture.read(Ask::new(ADA));
    assert_eq!(fixture.asked().len(), 2, "no error is remembered");
}

/// A store whose reads panic at the third poll.
#[derive(Debug)]
struct Panicking;

impl Store for Panicking {
    fn name(&self) -> &'static str {
        "panicking"
    }

    fn read<'a>(&'a self, _: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>> {
        StoreFuture::boxed(async {
            // Both readers have polled before.
            let mut polls = 0;
            let third = |_: &mut Context<'_>| {
                polls += 1;
                if polls > 2 { Poll::Ready(()) } else { Poll::Pending }
            };
            std::future::poll_fn(third).await;
            panic!("the store's own fault")
        })
    }

    fn commit<'a>(&'a self, _: Commit<'a>) -> StoreFuture<'a, Committed> {
        StoreFuture::ready(Err(StoreError::other("no commits")))
    }

    fn touch<'a>(&'a self, _: &'a [Touch]) -> StoreFuture<'a, ()> {
        StoreFuture::ready(Ok(()))
    }
}

#[test]
fn panic_of_the_store_fails_each_reader() {
    let fixture = Fixture { tier: SharedTier::new(Panicking), ..Fixture::new() };
    let asks = [Ask::new(ADA)];
    let mut readers = [(); 2].map(|()| fixture.reading(&asks));
    let kinds = readers.each_mut().map(|reader| poll(reader).expect("the read has ended").unwrap_err().kind());
    assert_eq!(kinds, [StoreErrorKind::Other; 2]);
}
