//! The first uses of the crate in a few lines: a value, a restart, a sign-in and a sign-out.

use layered_session::{Principal, testing::ManualClock};

use crate::support::{Browser, DAY, Division, Node, Theme, User, builder, first_write, ring, signed_in};

#[tokio::test]
async fn value_survives_restart_in_cookie() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(builder(&ring, &clock).build().unwrap());
    let mut browser = Browser::new();
    assert_eq!(browser.visit(&node, async |session| session.value::<Division>()).await, Division(-1));
    assert!(browser.cookie("session").is_none());
    browser.visit(&node, async |session| session.set(Division(3)).await.unwrap()).await;
    assert!(browser.cookie("session").is_some());
    let again = browser.visit(&node, async |s| (s.value::<Division>(), s.value_source::<Division>().tier())).await;
    assert_eq!(again, (Division(3), "memory"));
    let node = Node::new(builder(&ring, &clock).build().unwrap());
    let restarted = browser.visit(&node, async |s| (s.value::<Division>(), s.value_source::<Division>().tier())).await;
    assert_eq!(restarted, (Division(3), "cookie"));
    let warm = browser.visit(&node, async |s| (s.value::<Division>(), s.value_source::<Division>().tier())).await;
    assert_eq!(warm, (Division(3), "memory"));
}

#[tokio::test]
async fn sign_in_drops_unadopted_choice() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(builder(&ring, &clock).build().unwrap());
    let mut browser = first_write(&node, Division(3)).await;
    browser.visit(&node, async |s| s.set(Theme("dark".into())).await.unwrap()).await;
    let old = browser.clone();
    browser.visit(&node, async |s| s.sign_in(User("ada".into())).await.unwrap()).await;
    assert_eq!(browser.visit(&node, async |s| s.value::<Division>()).await, Division(-1));
    assert_eq!(browser.visit(&node, async |s| s.value::<Theme>()).await, Theme("dark".into()));
    let mut late = old.clone();
    assert!(late.visit(&node, async |s| s.set(Theme("x".into())).await).await.is_err());
    assert_eq!(late.cookie("session"), old.cookie("session"));
    browser.visit(&node, async |s| s.sign_out().await.unwrap()).await;
    assert!(browser.cookie("session").is_none());
}

#[tokio::test]
async fn read_revives_no_expired_value() {
    let (ring, clock) = (ring(), ManualClock::new());
    let sessions = builder(&ring, &clock).principal_idle(DAY).build().unwrap();
    let ada = || Principal::new("ada");
    sessions.for_principal(ada()).await.unwrap().set(Division(3)).await.unwrap();
    clock.advance(DAY / 2);
    assert_eq!(
        sessions.for_principal(ada()).await.unwrap().value::<Division>(),
        Division(3),
        "the read counts as a use"
    );
    clock.advance(DAY / 2);
    assert_eq!(sessions.for_principal(ada()).await.unwrap().value::<Division>(), Division(3));
    clock.advance(DAY);
    for _ in 0..2 {
        assert_eq!(sessions.for_principal(ada()).await.unwrap().value::<Division>(), Division(-1));
    }
    sessions.for_principal(ada()).await.unwrap().update::<Division>(|division| division.0 += 1).await.unwrap();
    assert_eq!(sessions.for_principal(ada()).await.unwrap().value::<Division>(), Division(0));
}

#[tokio::test]
async fn sign_in_after_sign_out_works() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(builder(&ring, &clock).build().unwrap());
    let mut browser = signed_in(&node, "ada").await;
    browser
        .visit(&node, async |session| {
            session.sign_out().await.unwrap();
            assert!(session.set(Theme("dark".into())).await.is_err(), "a plain write begins no session");
            session.sign_in(User("bob".into())).await.unwrap();
        })
        .await;
    assert_eq!(browser.visit(&node, async |s| s.principal()).await, Some(Principal::new("bob")));
}
