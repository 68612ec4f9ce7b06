//! What a clock whose coarse time is late changes: nothing but when it is read.

use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use layered_session::{Clock, Closed, SessionValue, Sleep, testing::ManualClock};
use serde::{Deserialize, Serialize};

use crate::{
    site::dark,
    world::{Browser, HOUR, Node, Theme, builder, ring},
};

const SECOND: Duration = Duration::from_secs(1);

/// A value that ends before its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Code(u32);

impl SessionValue for Code {
    const NAME: &'static str = "code";
    const MAX_AGE: Option<Duration> = Some(Duration::from_secs(600));
}

/// A clock whose coarse time is late.
#[derive(Clone, Debug)]
struct Late(ManualClock, Duration);

impl Clock for Late {
    fn now(&self) -> SystemTime {
        self.0.now()
    }

    fn recent(&self) -> SystemTime {
        self.0.now() - self.1
    }

    fn sleep_until(&self, deadline: SystemTime) -> Sleep {
        self.0.sleep_until(deadline)
    }
}

// G1, G12.
#[tokio::test]
async fn what_ends_is_over_on_time_though_the_time_of_reads_is_a_coarse_one() {
    const MILLI: Duration = Duration::from_millis(1);
    for late in [Duration::ZERO, 10 * MILLI, SECOND] {
        let clock = ManualClock::new();
        let settings = builder(&ring(), &clock).clock(Late(clock.clone(), late)).idle(HOUR).value::<Code>();
        let node = Node::new(settings.build().unwrap());
        let mut browser = Browser::new();
        let handle = browser.open(&node).await;
        handle.set(dark()).await.unwrap();
        handle.set(Code(7)).await.unwrap();
        clock.advance(600 * SECOND - MILLI);
        assert_eq!(handle.find(), Some(Code(7)));
        clock.advance(MILLI);
        assert_eq!((handle.find::<Code>(), handle.find()), (None, Some(dark())));
        // A use counts as that much earlier, and takes nothing back from a later one.
        clock.advance(10 * SECOND);
        assert_eq!((handle.find(), handle.expires_at()), (Some(dark()), Some(clock.now() + HOUR - late)));
        handle.touch().await.unwrap();
        assert_eq!((handle.find(), handle.expires_at()), (Some(dark()), Some(clock.now() + HOUR)));
        clock.advance(HOUR - MILLI);
        assert_eq!(handle.expires_at(), Some(clock.now() + MILLI));
        clock.advance(MILLI);
        assert_eq!(handle.find::<Theme>(), None);
        assert_eq!(handle.closed().now_or_never(), Some(Closed::Expired));
    }
}

// G1: the same of whom memory knows by the token.
#[tokio::test]
async fn a_request_in_the_last_second_is_in_time_and_one_after_it_is_not() {
    let clock = ManualClock::new();
    let settings = builder(&ring(), &clock).clock(Late(clock.clone(), SECOND)).idle(HOUR);
    let node = Node::new(settings.build().unwrap());
    let mut browser = Browser::new();
    browser.write(&node, "dark").await;
    for (passed, expected) in
        [(HOUR - SECOND / 2, (false, dark())), (HOUR - SECOND / 2, (false, dark())), (HOUR, (true, Theme::default()))]
    {
        clock.advance(passed);
        let seen = browser.visit(&node, async |session| (session.is_new(), session.get::<Theme>())).await;
        assert_eq!(seen, expected);
    }
}
