//! The code of a value runs while the crate holds no lock, so the code may read the session that receives the value.

use std::{cell::RefCell, sync::mpsc, thread, time::Duration};

use bytes::Bytes;
use layered_session::{
    Session, SessionValue, SharedTier,
    tier::{BoxError, Committed, Snapshot, StoredRecord, Version},
};
use serde::{Deserialize, Serialize};

use crate::support::{App, Browser, Theme, Visits, at_once, get, set, store};

thread_local! {
    static ASKED: RefCell<Option<Session>> = const { RefCell::new(None) };
}

/// A value whose code always reads another value of the session. Another build accepts numbers that this build refuses.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Nosy(u64);

impl Nosy {
    fn look() {
        let session = ASKED.with_borrow(Clone::clone);
        session.inspect(|session| drop(session.value::<Theme>()));
    }
}

impl SessionValue for Nosy {
    const NAME: &'static str = "nosy";

    fn validate(&self) -> Result<(), BoxError> {
        Self::look();
        if self.0 < 100 { Ok(()) } else { Err("from another build".into()) }
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        Self::look();
    }
}

/// Runs a test in a thread of its own, so that a deadlock fails the test instead of blocking the run.
fn in_time(test: impl FnOnce() + Send + 'static) {
    let (done, over) = mpsc::channel::<()>();
    let running = thread::spawn(move || {
        test();
        drop(done);
    });
    match over.recv_timeout(Duration::from_secs(10)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the test waits for a lock of its own thread"),
        _ => running.join().unwrap(),
    }
}

#[test]
fn cookie_validation_holds_no_lock() {
    in_time(|| {
        let app = App::new();
        let node = || app.start_with(|sessions| sessions.value::<Nosy>());
        let (here, elsewhere) = (node(), node());
        let mut browser = Browser::new();
        at_once(set(&mut browser, &here, Nosy(1))).unwrap();
        let mut late = browser.clone();
        let session = at_once(browser.visit(&here, async |session| session)).unwrap();
        app.pass(Duration::from_secs(1));
        at_once(set(&mut browser, &elsewhere, Nosy(2))).unwrap();
        at_once(set(&mut browser, &elsewhere, Visits(1))).unwrap();
        ASKED.set(Some(session));
        assert_eq!(
            at_once(get::<Nosy>(&mut browser, &here)),
            Some(Nosy(2)),
            "a newer copy replaces the value in memory"
        );
        assert_eq!(at_once(get::<Nosy>(&mut late, &here)), Some(Nosy(2)), "an older copy changes nothing");
        ASKED.take();
    });
}

/// A store where the write of another build overtakes a write of [`Nosy`].
fn overtaken() -> SharedTier {
    store(
        "overtaken",
        |_| {
            let newer = Some(Bytes::from_static(b"777"));
            Snapshot::Present(StoredRecord::new(Version::ZERO).with_entry(
                Nosy::NAME,
                newer,
                Version::from_u64(1 << 60),
            ))
        },
        |_| {
            let version = Version::from_u64(1 << 59);
            Committed::Applied { stamp: version, newest: version, generation: version }
        },
    )
}

#[test]
fn store_validation_holds_no_lock() {
    in_time(|| {
        let app = App::new();
        let node = || app.start_with(|sessions| sessions.value::<Nosy>().tier(overtaken()));
        let mut browser = Browser::new();
        at_once(set(&mut browser, &node(), Theme("dark".into()))).unwrap();
        // This node asks the store. The store already has a newer copy, which this build cannot read.
        let session = at_once(browser.visit(&node(), async |session| session)).unwrap();
        ASKED.set(Some(session.clone()));
        at_once(session.set(Nosy(1))).unwrap().unwrap();
        assert_eq!(session.value::<Nosy>(), Nosy(1), "the readable copy answers");
        ASKED.take();
    });
}
