//! Concurrency and limits without a runtime: [`join`], [`pause`], [`within`].

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
};

use crate::time::Sleep;

pub(super) type Job<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Runs jobs at once, all in the caller's task, and returns the results in the order of the jobs.
pub(super) async fn join<T: Send>(mut jobs: Vec<Job<'_, T>>) -> Vec<T> {
    let mut results: Vec<Option<T>> = jobs.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (job, result) in jobs.iter_mut().zip(&mut results) {
            if result.is_none()
                && let Poll::Ready(done) = job.as_mut().poll(cx)
            {
                *result = Some(done);
            }
        }
        if results.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results.into_iter().flatten().collect()
}

/// Lets the other jobs and the runtime run once.
pub(super) async fn pause() {
    let mut paused = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut paused, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Returns the result of the work, or `None` if the limit ends first.
pub(super) async fn within<T>(mut limit: Sleep, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => limit.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// Polls the work at most `polls` times, with a pause after each poll, and then drops the work.
pub(super) async fn polled<T>(polls: usize, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    for _ in 0..polls {
        let poll = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
        if let Poll::Ready(done) = poll {
            return Some(done);
        }
        pause().await;
    }
    None
}
