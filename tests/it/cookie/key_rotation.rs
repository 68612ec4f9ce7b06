//! Rotation of keys: tokens sealed under a retired key, and under a key that has left the ring.

use layered_session::{KeyRing, testing::ManualClock};

use super::{nobody, outcome};
use crate::support::{App, Browser, Node, Theme, builder, dark, get, seen, theme, visitor};

fn key() -> [u8; 32] {
    rand::random()
}

// R9: a read seals the cookie of a retired key again, under the first key of the ring.
#[tokio::test]
async fn retired_key_cookie_is_resealed() {
    let (old, new, clock) = (key(), key(), ManualClock::new());
    let node = |keys: &[[u8; 32]]| Node::new(builder(&KeyRing::new(keys).unwrap(), &clock).build().unwrap());
    let mut browser = Browser::new();
    browser.write(&node(&[old]), "dark").await;
    assert_eq!(browser.theme(&node(&[new])).await, Theme::default());
    let rotated = node(&[new, old]);
    assert_eq!(browser.theme(&rotated).await, dark());
    assert_eq!(browser.read(&rotated).await.len(), 1, "a read sends the cookie under the new key");
    assert!(browser.read(&rotated).await.is_empty());
    assert_eq!(browser.theme(&node(&[old])).await, Theme::default());
    assert_eq!(browser.theme(&node(&[new])).await, dark());
}

// R9: the next request uses the keys of `replace`, also with warm memory.
#[tokio::test]
async fn next_request_uses_new_keys() {
    let (old, new, clock) = (key(), key(), ManualClock::new());
    let ring = KeyRing::new([old]).unwrap();
    let node = Node::new(builder(&ring, &clock).build().unwrap());
    let mut browser = Browser::new();
    browser.write(&node, "dark").await;
    assert!(browser.read(&node).await.is_empty());

    ring.replace([new, old]).unwrap();
    let sealed_under_old = browser.clone();
    assert_eq!(browser.read(&node).await.len(), 1);
    assert_eq!(sealed_under_old.theme(&node).await, dark());

    ring.replace([new]).unwrap();
    assert_eq!(outcome(&node, sealed_under_old.request()).await, nobody());
    assert_eq!(browser.theme(&node).await, dark());

    ring.replace([key()]).unwrap();
    assert_eq!(outcome(&node, browser.request()).await, nobody());
}

// R9: a cookie under a key outside the ring opens no session, although memory knows the cookie.
#[tokio::test]
async fn removed_key_ends_known_cookies() {
    let (first, second) = (key(), key());
    let app = App::with_keys(KeyRing::new([first]).unwrap());
    let node = app.start();
    let mut browser = visitor(&node).await;
    assert_eq!(seen(&mut browser, &node).await, (theme("light"), "memory"));
    let old = browser.clone();
    app.ring.replace([second, first]).unwrap();
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("light"));
    assert_ne!(browser.cookie("session"), old.cookie("session"), "the response did not seal the cookie again");
    app.ring.replace([second]).unwrap();
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("light"));
    let gone = old.clone().visit(&node, async |session| (session.is_new(), session.get::<Theme>())).await;
    assert_eq!(gone, (true, None));
}
