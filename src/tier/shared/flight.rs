//! [`Flights`]: the reads of a store that are under way. Readers of the same owner share one read.

use std::{collections::HashMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use foldhash::fast::RandomState;
use futures_util::future::{FutureExt, Shared, WeakShared, try_join_all};

use super::absent::AbsentOwners;
use crate::{
    error::StoreError,
    id::OwnerId,
    sync::Mutex,
    tier::{Ask, Known, Snapshot},
};

/// A call of the store that reads some owners.
pub(super) type Read = Pin<Box<dyn Future<Output = Result<Arc<Vec<Snapshot>>, StoreError>> + Send>>;

/// The reads under way, and the absent owners.
///
/// A reader that begins after an answer to a commit of this node must see the commit. Each commit therefore takes its
/// owner's read out of the table when the commit ends: earlier readers still get the answer, no later reader joins, and
/// the answer is not remembered. One lock guards both the reads and the absent owners, so that no answer from before a
/// commit is remembered after the commit.
///
/// No call of the store runs under the lock: the readers poll the reads, each reader all of its own.
#[derive(Default)]
pub(super) struct Flights(Mutex<Table>);

#[derive(Default)]
struct Table {
    flights: HashMap<OwnerId, Flight, RandomState>,
    /// The number of the last read.
    last: u64,
    absent: AbsentOwners,
}

/// The read under way for one owner.
struct Flight {
    number: u64,
    known: Option<Known>,
    /// The place of the owner's snapshot in the answer.
    place: usize,
    /// Weak, so that the last reader that leaves drops the call.
    read: WeakShared<Read>,
}

impl Table {
    /// Returns the read that answers an ask, and the place of the answer. An answer to an ask with another known record
    /// may be `Unchanged`, which tells the reader nothing.
    fn find(&self, ask: &Ask) -> Option<(Shared<Read>, usize)> {
        let flight = self.flights.get(&ask.owner())?;
        let fits = flight.known.is_none() || flight.known == ask.known();
        fits.then(|| flight.read.upgrade()).flatten().map(|read| (read, flight.place))
    }

    fn is_current(&self, owner: &OwnerId, number: u64) -> bool {
        self.flights.get(owner).is_some_and(|flight| flight.number == number)
    }
}

impl Flights {
    /// Finds an answer for each ask: an absence that is younger than `span`, a read under way, or a part of a new read,
    /// which `start` creates.
    pub(super) fn join(
        self: &Arc<Self>,
        asks: &[Ask],
        now: Duration,
        span: Duration,
        start: impl FnOnce(Landing) -> Read,
    ) -> Seats {
        // Declared before the lock and so dropped after the lock: the drop of a read drops the store's own future.
        let mut seats = Seats { reads: Vec::new(), places: Vec::new() };
        let mut new = Vec::new();
        let mut table = self.0.lock();
        for ask in asks {
            let seat = if ask.known().is_none() && table.absent.contains(&ask.owner(), now, span) {
                Seat::Absent
            } else if let Some((read, place)) = table.find(ask) {
                seats.reads.push(read);
                Seat::Joined { read: seats.reads.len() - 1, place }
            } else {
                new.push(*ask);
                Seat::New { place: new.len() - 1 }
            };
            seats.places.push(seat);
        }
        if !new.is_empty() {
            table.last += 1;
            let number = table.last;
            let landing = Landing { flights: Arc::clone(self), number, asks: new.clone(), asked: now };
            let read = start(landing).shared();
            for (place, ask) in new.iter().enumerate() {
                if let Some(read) = read.downgrade() {
                    table.flights.insert(ask.owner(), Flight { number, known: ask.known(), place, read });
                }
            }
            seats.reads.push(read);
        }
        drop(table);
        seats
    }

    /// Whether an absence of the owner is remembered that is younger than `span`.
    pub(super) fn knows_absent(&self, owner: &OwnerId, now: Duration, span: Duration) -> bool {
        self.0.lock().absent.contains(owner, now, span)
    }

    #[cfg(all(test, feature = "testing"))]
    pub(super) fn len(&self) -> usize {
        self.0.lock().flights.len()
    }

    /// Notes that an owner's record may have changed: later readers ask the store.
    pub(super) fn note_change(&self, owner: &OwnerId) {
        let mut table = self.0.lock();
        table.flights.remove(owner);
        table.absent.forget(owner);
    }

    /// Notes that any owner's record may have changed: later readers ask the store.
    pub(super) fn note_changes(&self) {
        let mut table = self.0.lock();
        table.flights.clear();
        table.absent = AbsentOwners::default();
    }
}

/// The place of the answer to one ask.
enum Seat {
    Absent,
    Joined {
        read: usize,
        place: usize,
    },
    /// In the last read.
    New {
        place: usize,
    },
}

/// The answers of a reader, which may still be under way. A reader that is dropped leaves its reads to the other
/// readers.
pub(super) struct Seats {
    reads: Vec<Shared<Read>>,
    places: Vec<Seat>,
}

impl Seats {
    /// Waits for the answers, and returns a snapshot for each ask.
    pub(super) async fn wait(self) -> Result<Vec<Snapshot>, StoreError> {
        let answers = try_join_all(self.reads).await?;
        // The last reader of a read takes the answer without a copy.
        let mut answers: Vec<_> = answers.into_iter().map(Arc::unwrap_or_clone).collect();
        let last = answers.len().saturating_sub(1);
        // No two asks have the same place in the same element of `answers`.
        let mut take = |read: usize, place: usize| std::mem::replace(&mut answers[read][place], Snapshot::Absent);
        let snapshots = self.places.into_iter().map(|seat| match seat {
            Seat::Absent => Snapshot::Absent,
            Seat::Joined { read, place } => take(read, place),
            Seat::New { place } => take(last, place),
        });
        Ok(snapshots.collect())
    }
}

/// The end of a read: the read leaves the table, also if the last reader drops the read.
pub(super) struct Landing {
    flights: Arc<Flights>,
    number: u64,
    asks: Vec<Ask>,
    asked: Duration,
}

impl Landing {
    pub(super) fn asks(&self) -> &[Ask] {
        &self.asks
    }

    /// Ends the read with the snapshots for its asks, and remembers the absent owners.
    pub(super) fn land(&self, snapshots: &[Snapshot]) {
        let mut table = self.flights.0.lock();
        for (ask, snapshot) in self.asks.iter().zip(snapshots) {
            let owner = ask.owner();
            if table.is_current(&owner, self.number) {
                table.flights.remove(&owner);
                match snapshot {
                    Snapshot::Absent => table.absent.note(owner, self.asked),
                    Snapshot::Present(_) | Snapshot::Unchanged { .. } | Snapshot::Ended(_) => {
                        table.absent.forget(&owner)
                    }
                }
            }
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut table = self.flights.0.lock();
        for ask in &self.asks {
            if table.is_current(&ask.owner(), self.number) {
                table.flights.remove(&ask.owner());
            }
        }
    }
}
