//! The scenarios of a browser and a server, the same on every framework.

use std::time::Duration;

use futures_util::{StreamExt, future::join_all};
use http::{HeaderMap, header};
use layered_session::{KeyRing, WriteErrorKind, testing::ManualClock};
use tokio::time::timeout;

use super::{Action, Client, Framework, Outcome, Reply, Server, State, Watching};
use crate::support::{Browser, builder, max_age, parsed, ring, set_cookies};

/// Runs every scenario on one framework, each with a new server.
pub(super) async fn run<F: Framework>(framework: &F) {
    let all = async {
        visitor_gets_no_cookie(framework).await;
        write_sets_one_cookie(framework).await;
        cookie_restores_value_after_restart(framework).await;
        removal_survives_restart(framework).await;
        invalid_value_changes_nothing(framework).await;
        failed_handler_keeps_write(framework).await;
        user_value_follows_user(framework).await;
        renewal_ends_old_cookie(framework).await;
        concurrent_updates_all_count(framework).await;
        stream_follows_its_session(framework).await;
        stream_shows_only_own_changes(framework).await;
        shutdown_ends_streams_and_keeps_sessions(framework).await;
        only_own_page_writes(framework).await;
        forged_cookie_loads_no_session(framework).await;
    };
    timeout(Duration::from_secs(60), all).await.expect("all scenarios end");
}

/// A server, with the parts that another server needs to open the same cookies.
struct Site<'a, F: Framework> {
    framework: &'a F,
    ring: KeyRing,
    clock: ManualClock,
    client: F::Client,
    server: Server,
}

impl<'a, F: Framework> Site<'a, F> {
    async fn open(framework: &'a F) -> Self {
        Self::with(framework, ring(), ManualClock::new()).await
    }

    async fn with(framework: &'a F, ring: KeyRing, clock: ManualClock) -> Self {
        let (client, server) = framework.start(builder(&ring, &clock).build().unwrap()).await;
        Self { framework, ring, clock, client, server }
    }

    /// Another process with the same keys and an empty memory.
    async fn restart(self) -> Self {
        let Self { framework, ring, clock, server, client } = self;
        drop(client);
        server.stop().await;
        Self::with(framework, ring, clock).await
    }

    async fn close(self) {
        drop(self.client);
        self.server.stop().await;
    }

    /// Sends a request of a browser, and takes the response's cookies into the jar.
    async fn act(&self, browser: &mut Browser, action: Action) -> Reply {
        let reply = self.client.act(browser, action).await;
        browser.take(&reply.headers);
        reply
    }

    /// The division that a browser reads, with the tier that answered.
    async fn read(&self, browser: &mut Browser) -> (i64, String) {
        let State { division, tier, .. } = self.act(browser, Action::Read).await.state();
        (division, tier)
    }
}

impl Reply {
    fn state(self) -> State {
        let Outcome::State(state) = self.outcome else { panic!("no state: {self:?}") };
        state
    }

    /// The response's `Set-Cookie` fields for the session's cookie.
    fn session_cookies(&self) -> Vec<String> {
        set_cookies(&self.headers).into_iter().filter(|cookie| parsed(cookie).name() == "session").collect()
    }

    fn varies(&self) -> bool {
        varies(&self.headers)
    }
}

fn varies(headers: &HeaderMap) -> bool {
    headers.get_all(header::VARY).iter().any(|value| value == "cookie")
}

fn found(division: i64, tier: &str) -> (i64, String) {
    (division, tier.into())
}

/// A browser with cookies of other applications before the session's cookie.
fn browser() -> Browser {
    let mut browser = Browser::new();
    browser.set("_ga", "GA1.2.1234567890");
    browser.set("lang", "en");
    browser
}

async fn next(watching: &mut Watching) -> Option<Result<i64, String>> {
    timeout(Duration::from_secs(5), watching.next()).await.expect("the stream yields an item in time")
}

/// Asserts the end of a stream, under the reason of the framework if the framework tells a reason.
async fn assert_ended(watching: &mut Watching, reason: &str) {
    match next(watching).await {
        None => {}
        Some(Err(told)) => assert_eq!(told, reason),
        Some(Ok(division)) => panic!("{division} came after the end"),
    }
}

async fn visitor_gets_no_cookie<F: Framework>(framework: &F) {
    let site = Site::open(framework).await;
    let mut browser = browser();
    let reply = site.act(&mut browser, Action::Read).await;
    assert_eq!((reply.session_cookies(), reply.varies()), (vec![], true));
    assert_eq!(reply.state(), State { division: -1, tier: "default".into(), visits: 0 });
    let reply = site.act(&mut browser, Action::Nothing).await;
    assert_eq!((reply.session_cookies(), reply.varies()), (vec![], false));
    assert_eq!(reply.outcome, Outcome::Nothing);
    site.act(&mut browser, Action::Write(2)).await;
    let reply = site.act(&mut browser, Action::Nothing).await;
    assert_eq!((reply.session_cookies(), reply.varies()), (vec![], false));
    site.close().await;
}

async fn write_sets_one_cookie<F: Framework>(framework: &F) {
    let site = Site::open(framework).await;
    let mut browser = browser();
    let reply = site.act(&mut browser, Action::Write(3)).await;
    assert_eq!(reply.session_cookies().len(), 1);
    assert_eq!(set_cookies(&reply.headers).iter().filter(|cookie| parsed(cookie).name() == "own").count(), 1);
    assert_eq!(reply.headers[header::CACHE_CONTROL], "no-store");
    assert_eq!(site.read(&mut browser).await, found(3, "memory"));
    let reply = site.act(&mut browser, Action::Read).await;
    assert!(reply.session_cookies().is_empty(), "a read of a known value sets no cookie");
    site.close().await;
}

async fn cookie_restores_value_after_restart<F: Framework>(framework: &F) {
    let site = Site::open(framework).await;
    let mut browser = browser();
    site.act(&mut browser, Action::Write(3)).await;
    let site = site.restart().await;
    assert_eq!(site.read(&mut browser).await, found(3, "cookie"));
    assert_eq!(site.read(&mut browser).await, found(3, "memory"));
    site.close().await;
}

async fn removal_survives_restart<F: Framework>(framework: &F) {
    let site = Site::open(framework).await;
    let mut browser = browser();
    site.act(&mut browser, Action::Write(3)).await;
    let older = browser.clone();
    assert_eq!(site.act(&mut browser, Action::Remove).await.state().division, -1);
    assert_eq!(site.read(&mut older.clone()).await, found(-1, "default"));
    let site = site.restart().await;
    assert_eq!(site.read(&mut browser).await, found(-1, "default"));
    assert_eq!(site.read(&mut older.clone()).await, found(-1, "default"), "an older cookie brings the value back");
    site.close().await;
}

async fn invalid_value_changes_nothing<F: Framework>(framework: &F) {
    let site = Site::open(framework).await;
    let mut browser = browser();
    let reply = site.act(&mut browser, Action::Write(9)).await;
    assert_eq!(reply.outcome, Outcome::Refused(WriteErrorKind::Invalid));
    assert!(reply.session_cookies().is_empty());
    site.act(&mut browser, Action::Write(3)).await;
    assert_eq!(site.act(&mut browser, Action::Write(9)).await.outcome, Outcome::Refused(WriteErrorKind::Invalid));
    assert_eq!(site.read(&mut browser).await.0, 3);
    site.close().await;
}

async fn failed_handler_keeps_write<F: Framework>(framework: &F) {
    let site = Site::open(framework).await;
    let mut browser = browser();
    let reply = site.act(&mut browser, Action::WriteThenFail(3)).await;
    assert_eq!((reply.session_cookies().len(), &reply.outcome), (1, &Outcome::Failed));
    assert_eq!(site.read(&mut browser).await.0, 3);
    let site = site.restart().await;
    assert_eq!(site.read(&mut browser).await.0, 3);
    site.close().await;
}

async fn user_value_follows_user<F: Framework>(framework: &F) {
    let site = Site::open(framework).await;
    let (mut phone, mut laptop) = (browser(), browser());
    site.act(&mut phone, Action::Write(1)).await;
    assert_eq!(
        site.act(&mut phone, Action::SignIn("ada")).await.state().division,
        -1,
        "the sign-in drops the anonymous choice"
    );
    site.act(&mut phone, Action::Write(2)).await;
    site.act(&mut laptop, Action::SignIn("ada")).await;
    assert_eq!(site.read(&mut laptop).await.0, 2);
    let reply = site.act(&mut phone, Action::SignOut).await;
    assert_eq!(max_age(&reply.session_cookies()[0]), Some(0), "{:?}", reply.session_cookies());
    assert!(phone.cookie("session").is_none());
    assert_eq!(site.read(&mut phone).await.0, -1);
    assert_eq!(site.read(&mut laptop).await.0, 2);
    site.act(&mut laptop, Action::SignIn("grace")).await;
    assert_eq!(site.read(&mut laptop).await.0, -1, "grace does not get ada's division");
    site.close().await;
}

async fn renewal_ends_old_cookie<F: Framework>(framework: &F) {
    let site = Site::open(framework).await;
    let mut browser = browser();
    site.act(&mut browser, Action::Write(3)).await;
    let mut stolen = browser.clone();
    let reply = site.act(&mut browser, Action::Renew).await;
    assert_eq!((reply.session_cookies().len(), reply.state().division), (1, 3));
    assert_eq!(site.read(&mut stolen).await.0, -1);
    let reply = site.act(&mut stolen, Action::Write(5)).await;
    assert_eq!(reply.outcome, Outcome::Refused(WriteErrorKind::Closed));
    assert!(reply.session_cookies().is_empty());
    assert_eq!(site.read(&mut browser).await.0, 3);
    site.close().await;
}

async fn concurrent_updates_all_count<F: Framework>(framework: &F) {
    let site = Site::open(framework).await;
    let mut browser = browser();
    site.act(&mut browser, Action::Write(3)).await;
    let replies = join_all((0..16).map(|_| site.client.act(&browser, Action::Count))).await;
    assert!(replies.iter().all(|reply| matches!(reply.outcome, Outcome::State(_))));
    assert_eq!(site.act(&mut browser, Action::Read).await.state().visits, 16);
    site.close().await;
}

async fn stream_follows_its_session<F: Framework>(framework: &F) {
    let site = Site::open(framework).await;
    let mut browser = browser();
    site.act(&mut browser, Action::Write(3)).await;
    let (headers, mut watching) = site.client.watch(&browser).await;
    assert!(varies(&headers));
    assert_eq!(next(&mut watching).await, Some(Ok(3)));
    site.act(&mut browser, Action::Write(4)).await;
    assert_eq!(next(&mut watching).await, Some(Ok(4)));
    site.act(&mut browser, Action::Remove).await;
    assert_eq!(next(&mut watching).await, Some(Ok(-1)));
    site.act(&mut browser, Action::SignOut).await;
    assert_ended(&mut watching, "destroyed").await;
    site.close().await;
}

async fn stream_shows_only_own_changes<F: Framework>(framework: &F) {
    let site = Site::open(framework).await;
    let (mut ada, mut grace) = (browser(), browser());
    site.act(&mut ada, Action::SignIn("ada")).await;
    site.act(&mut grace, Action::SignIn("grace")).await;
    let (_, mut watching) = site.client.watch(&grace).await;
    assert_eq!(next(&mut watching).await, Some(Ok(-1)));
    site.act(&mut ada, Action::Write(2)).await;
    site.act(&mut grace, Action::Write(5)).await;
    assert_eq!(next(&mut watching).await, Some(Ok(5)), "ada's change reached grace");
    drop(watching);
    site.close().await;
}

async fn shutdown_ends_streams_and_keeps_sessions<F: Framework>(framework: &F) {
    let site = Site::open(framework).await;
    let mut browser = browser();
    site.act(&mut browser, Action::Write(3)).await;
    let (_, mut watching) = site.client.watch(&browser).await;
    assert_eq!(next(&mut watching).await, Some(Ok(3)));
    let (site, ()) = tokio::join!(site.restart(), assert_ended(&mut watching, "shutdown"));
    assert_eq!(site.read(&mut browser).await.0, 3);
    site.close().await;
}

async fn only_own_page_writes<F: Framework>(framework: &F) {
    let site = Site::open(framework).await;
    let mut browser = browser();
    let json = r#"{"current_division_id":4}"#;
    if let Some(refused) = site.client.post(&browser, "cross-site", json).await {
        assert_eq!((refused.session_cookies().len(), &refused.outcome), (0, &Outcome::Failed));
        let stored = site.client.post(&browser, "same-origin", json).await.expect("a writeback");
        assert_eq!((stored.session_cookies().len(), &stored.outcome), (1, &Outcome::Nothing));
        browser.take(&stored.headers);
        assert_eq!(site.read(&mut browser).await.0, 4);
        let refused = site.client.post(&browser, "same-origin", r#"{"current_division_id":9}"#).await;
        assert_eq!(refused.expect("a writeback").outcome, Outcome::Refused(WriteErrorKind::Invalid));
        assert_eq!(site.read(&mut browser).await.0, 4);
    }
    site.close().await;
}

async fn forged_cookie_loads_no_session<F: Framework>(framework: &F) {
    let site = Site::open(framework).await;
    let mut browser = browser();
    site.act(&mut browser, Action::Write(3)).await;
    let genuine = browser.cookie("session").unwrap().to_owned();
    let last = if genuine.ends_with('A') { "E" } else { "A" };
    for forged in ["x", "", &"A".repeat(200), &format!("{}{last}", &genuine[..genuine.len() - 1])] {
        browser.set("session", forged);
        assert_eq!(site.read(&mut browser).await, found(-1, "default"), "{forged:?}");
    }
    browser.set("session", &genuine);
    assert_eq!(site.read(&mut browser).await.0, 3);
    site.close().await;
}
