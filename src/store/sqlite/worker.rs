//! [`Worker`]: a thread with a connection, and the jobs that wait for the connection.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::SystemTime,
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{failure::Failure, rows::Rows};
use crate::{
    tier::{StoreError, StoreErrorKind},
    time::Wall,
};

/// The maximum number of jobs in one transaction.
const BATCH: usize = 512;

/// The store's clock.
pub(super) type Now = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The statement that begins the transactions of a worker.
#[derive(Clone, Copy, Debug)]
pub(super) enum Begin {
    /// Takes the lock of the one writer. A transaction that begins as a reader could not become the writer after
    /// another process wrote.
    Write,
    /// Reads the database as of the first read.
    Read,
}

/// A thread that carries out jobs on a connection of its own. The thread ends after the last job once the worker is
/// dropped.
///
/// All jobs that wait go into one transaction: the fsync of a commit takes thousands of times longer than the changes
/// of a job. A failed job leaves the changes of the other jobs in place.
#[derive(Debug)]
pub(super) struct Worker(Sender<Box<dyn Job>>);

trait Job: Send {
    /// Whether nothing waits for the answer.
    fn is_abandoned(&self) -> bool;

    /// Makes the changes, inside a transaction. After a rollback the worker calls this method again.
    fn make(&mut self, rows: &mut Rows<'_>, now: SystemTime) -> Result<(), Failure>;

    /// Answers, after the end of the transaction.
    fn answer(self: Box<Self>, ended: Result<(), StoreError>);
}

struct Pending<T, M, A> {
    make: M,
    after: A,
    made: Option<T>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, M, A> Job for Pending<T, M, A>
where
    T: Send,
    M: FnMut(&mut Rows<'_>, SystemTime) -> Result<T, Failure> + Send,
    A: FnOnce(&T) + Send,
{
    fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    fn make(&mut self, rows: &mut Rows<'_>, now: SystemTime) -> Result<(), Failure> {
        self.made = Some((self.make)(rows, now)?);
        Ok(())
    }

    fn answer(self: Box<Self>, ended: Result<(), StoreError>) {
        let Self { after, made, answer, .. } = *self;
        let made = ended.and_then(|()| made.ok_or_else(|| StoreError::other("the job was not begun")));
        if let Ok(made) = &made {
            after(made);
        }
        // Fails if the caller has dropped the future meanwhile.
        answer.send(made).ok();
    }
}

impl Worker {
    pub(super) fn start(name: &str, connection: Connection, begin: Begin, now: Now) -> io::Result<Self> {
        let (jobs, waiting) = channel();
        thread::Builder::new().name(name.to_owned()).spawn(move || serve(&connection, &waiting, begin, &now))?;
        Ok(Self(jobs))
    }

    /// Carries out a job: `make` in a transaction with other jobs, and `after` once the transaction is durable. A job
    /// that has begun is carried out whole, also if the returned future is dropped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        make: impl FnMut(&mut Rows<'_>, SystemTime) -> Result<T, Failure> + Send + 'static,
        after: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let job = Pending { make, after, made: None, answer };
        self.0.send(Box::new(job)).map_err(|_| StoreError::new(StoreErrorKind::Link, ENDED).not_applied())?;
        answered.await.map_err(|_| StoreError::new(StoreErrorKind::Link, ENDED))?
    }
}

const ENDED: &str = "a thread of the SQLite store has panicked: open the store again";

fn serve(connection: &Connection, waiting: &Receiver<Box<dyn Job>>, begin: Begin, now: &Now) {
    let mut rows = match Rows::prepare(connection) {
        Ok(rows) => rows,
        Err(error) => return tracing::error!(%error, "the tables of the SQLite store are gone"),
    };
    while let Ok(first) = waiting.recv() {
        let mut batch = vec![first];
        batch.extend(waiting.try_iter().take(BATCH - 1));
        batch.retain(|job| !job.is_abandoned());
        settle(batch, &mut rows, begin, now);
    }
}

/// A transaction that failed as a whole.
struct Stopped {
    failure: Failure,
    stage: Stage,
}

enum Stage {
    /// Before the first job.
    Begin,
    /// In a job, whose failure took the transaction away.
    Job,
    Commit,
}

/// Carries out jobs in one transaction, and answers the jobs.
fn settle(mut batch: Vec<Box<dyn Job>>, rows: &mut Rows<'_>, begin: Begin, now: &Now) {
    let Stopped { failure, stage } = match transact(&mut batch, rows, begin, now) {
        Ok(made) => return batch.into_iter().zip(made).for_each(|(job, made)| job.answer(made)),
        Err(stopped) => stopped,
    };
    let is_unknown = matches!(stage, Stage::Commit) && !failure.rules_out_commit();
    if is_unknown {
        batch.into_iter().for_each(|job| job.answer(Err(failure.clone().unknown())));
    } else if batch.len() > 1 && !matches!(stage, Stage::Begin) {
        // One job too large for the disk must not fail the others.
        batch.into_iter().for_each(|job| settle(vec![job], rows, begin, now));
    } else {
        batch.into_iter().for_each(|job| job.answer(Err(failure.clone().not_applied())));
    }
}

fn transact(
    batch: &mut [Box<dyn Job>],
    rows: &mut Rows<'_>,
    begin: Begin,
    now: &Now,
) -> Result<Vec<Result<(), StoreError>>, Stopped> {
    let connection = rows.connection;
    let run = |stage, statement| {
        connection.execute_batch(statement).map_err(|error| Stopped { failure: error.into(), stage })
    };
    let begun = match begin {
        Begin::Write => "BEGIN IMMEDIATE",
        Begin::Read => "BEGIN",
    };
    run(Stage::Begin, begun)?;
    let mut made = Vec::with_capacity(batch.len());
    let ended = batch.iter_mut().try_for_each(|job| {
        run(Stage::Job, "SAVEPOINT job")?;
        // In whole milliseconds, as the columns have them.
        let outcome = job.make(rows, Wall::of(now()).time());
        if let Err(failure) = &outcome {
            let stopped = |_| Stopped { failure: failure.clone(), stage: Stage::Job };
            connection.execute_batch("ROLLBACK TO job").map_err(stopped)?;
        }
        run(Stage::Job, "RELEASE job")?;
        made.push(outcome.map_err(Failure::not_applied));
        Ok(())
    });
    let ended = ended.and_then(|()| run(Stage::Commit, "COMMIT"));
    if !connection.is_autocommit() {
        // Fails only if SQLite has rolled the transaction back by itself.
        connection.execute_batch("ROLLBACK").ok();
    }
    ended.map(|()| made)
}
