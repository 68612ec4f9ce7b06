//! Writes of two nodes at the same version: the greater bytes win, and the session's watchers are notified.

use std::time::Duration;

use layered_session::{ChangeEvent, SessionValue};

use crate::support::{App, Theme, at_once, get, set, visitor};

#[tokio::test]
async fn changes_report_greater_bytes_at_equal_versions() {
    let app = App::new();
    let (one, two, third) = (app.start(), app.start(), app.start());
    let mut browser = visitor(&one).await;
    let mut twin = browser.clone();
    app.pass(Duration::from_secs(1));
    set(&mut browser, &one, Theme("a".into())).await;
    set(&mut twin, &two, Theme("b".into())).await;

    let mut changes = browser.visit(&third, async |session| session.changes()).await;
    assert!(at_once(changes.next()).is_none());
    assert_eq!(get::<Theme>(&mut twin, &third).await, Theme("b".into()));
    let told = at_once(changes.next()).flatten();
    assert!(matches!(told, Some(ChangeEvent::Set { name: Theme::NAME, .. })), "{told:?}");
    assert!(at_once(changes.next()).is_none(), "once");

    // The losing value arrives again, and changes nothing.
    get::<Theme>(&mut browser.clone(), &third).await;
    assert!(at_once(changes.next()).is_none());
}
