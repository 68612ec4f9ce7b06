//! Many writers at the same time: each change counts once, and no writer undoes another's change.

use std::{
    sync::{Arc, Barrier},
    time::Duration,
};

use layered_session::Session;
use tokio::{runtime::Handle, sync::Semaphore};

use super::{count, stored, visits};
use crate::support::{App, BoxFuture, Browser, Theme, Visits, at_once, dark, ticking};

/// Runs all tasks at the same time, on all available threads.
async fn all(tasks: impl IntoIterator<Item = BoxFuture<()>>) {
    let tasks: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
    for task in tasks {
        task.await.unwrap();
    }
}

// G10: concurrent updates of one session all count.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_increments_all_count() {
    let app = App::new();
    let mut browser = app.dark().await;
    let mut handles = Vec::new();
    for _ in 0..64 {
        handles.push(browser.open(&app.node).await);
    }
    all(handles.into_iter().map(|session| Box::pin(count(session)) as BoxFuture<()>)).await;
    assert_eq!(visits(&browser, &app.node).await, Visits(64));
    browser.read(&app.node).await;
    assert_eq!(visits(&browser, &app.start()).await, Visits(64));
}

// G10: without a store no attempt sleeps, so a forward step of the clock leaves the number of attempts as before.
#[tokio::test]
async fn clock_step_fails_no_local_update() {
    let app = App::new();
    let mut browser = app.dark().await;
    let (session, other) = (browser.open(&app.node).await, browser.open(&app.node).await);
    let mut losses = 0;
    let visits = session.update(|visits: &mut Visits| {
        visits.0 += 1;
        if losses < 20 {
            losses += 1;
            at_once(other.set(Visits(100 * losses))).unwrap().unwrap();
            app.clock.advance(Duration::from_secs(2));
        }
    });
    assert_eq!(visits.await.unwrap(), Visits(2001));
    assert_eq!(losses, 20);
}

// G10: of several first writes at the same time, a single write begins the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_first_writes_make_one_session() {
    let app = App::new();
    let mut browser = Browser::new();
    let write = async |session: Session| {
        all((0..64).map(|_| Box::pin(count(session.clone())) as BoxFuture<()>)).await;
    };
    assert_eq!(browser.told(&app.node, write).await.len(), 1);
    assert_eq!(visits(&browser, &app.start()).await, Visits(64));
    assert_eq!(app.node.sessions.stats().records, 1);
}

// G10: only a short moment lies between the check for a session and the creation of the session, so the test needs many
// rounds to hit that moment.
#[tokio::test]
async fn racing_first_writes_make_one_session() {
    const ROUNDS: usize = 500;
    let app = App::new();
    for _ in 0..ROUNDS {
        let (session, start) = (Browser::new().open(&app.node).await, Arc::new(Barrier::new(2)));
        let writers = [(); 2].map(|()| {
            let (session, start, runtime) = (session.clone(), Arc::clone(&start), Handle::current());
            tokio::task::spawn_blocking(move || {
                start.wait();
                runtime.block_on(count(session));
            })
        });
        for writer in writers {
            writer.await.unwrap();
        }
        assert_eq!(session.value::<Visits>(), Visits(2));
    }
    assert_eq!(app.node.sessions.stats().records, ROUNDS);
}

// G10: the updates of two nodes over one store all count, although each node has a memory of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn store_counts_both_nodes_increments() {
    let (_, app) = stored();
    let nodes = [app.node.clone(), app.start()];
    let mut browser = app.dark().await;
    let mut handles = Vec::new();
    for n in 0..64 {
        handles.push(browser.open(&nodes[n % 2]).await);
    }
    let updates = handles.into_iter().map(|session| Box::pin(count(session)) as BoxFuture<()>);
    // An update that loses twice sleeps by the clock.
    ticking(&app.clock, all(updates)).await;
    assert_eq!(visits(&browser, &app.start()).await, Visits(64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_take_succeeds_once() {
    let app = App::new();
    let mut browser = app.dark().await;
    let got = Arc::new(Semaphore::new(0));
    let mut handles = Vec::new();
    for _ in 0..32 {
        handles.push(browser.open(&app.node).await);
    }
    let take = |session: Session| {
        let got = Arc::clone(&got);
        Box::pin(async move {
            if let Some(theme) = session.take::<Theme>().await.unwrap() {
                assert_eq!(theme, dark());
                got.add_permits(1);
            }
        }) as BoxFuture<()>
    };
    all(handles.into_iter().map(take)).await;
    assert_eq!(got.available_permits(), 1);
    assert_eq!(browser.theme(&app.node).await, Theme::default());
}

#[tokio::test]
async fn value_taken_once_across_nodes() {
    let (_, app) = stored();
    let mut browser = app.dark().await;
    let take = async |session: Session| session.take::<Theme>().await.unwrap();
    let (node, other) = (&app.node, app.start());
    assert_eq!(browser.theme(&other).await, dark());
    assert_eq!(browser.clone().visit(node, take).await, Some(dark()));
    assert_eq!(browser.visit(&other, take).await, None);
}

// G8: writes of different values by two open handles both stay.
#[tokio::test]
async fn concurrent_writes_lose_no_other_values() {
    let app = App::new();
    let mut browser = app.dark().await;
    let (one, other) = (browser.open(&app.node).await, browser.open(&app.node).await);
    one.set(Visits(7)).await.unwrap();
    other.set(Theme("light".into())).await.unwrap();
    browser.read(&app.node).await;
    for node in [&app.node, &app.start()] {
        let both =
            browser.clone().visit(node, async |session| (session.value::<Theme>(), session.value::<Visits>())).await;
        assert_eq!(both, (Theme("light".into()), Visits(7)));
    }
}
