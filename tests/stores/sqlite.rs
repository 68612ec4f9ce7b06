//! `SqliteStore`: restarts, the locks of other processes, and files that can't be used.

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use layered_session::{
    BuildError, BuildErrorKind, CookieTier, Durability, KeyRing, LayeredSessionLayer, MemoryTier, Placement, Principal,
    Scope, Session, SessionValue, Sessions, SharedTier, SqliteStore, SqliteStoreBuilder, TierError, TokioClock,
    WriteError,
    testing::{Client, conformance::Suite},
    tier::{BoxError, Notice, Store, StoreErrorKind},
};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tower::{ServiceBuilder, service_fn, util::BoxCloneSyncService};

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Visits(u64);

impl SessionValue for Visits {
    const NAME: &'static str = "visits";
    const PLACEMENT: Placement = Placement::Server;
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Quota(u64);

impl SessionValue for Quota {
    const NAME: &'static str = "quota";
    const SCOPE: Scope = Scope::Principal;
    const PLACEMENT: Placement = Placement::Server;
}

#[derive(Serialize, Deserialize)]
struct User(String);

impl SessionValue for User {
    const NAME: &'static str = "user";
    const PLACEMENT: Placement = Placement::Server;
}

type Browser = Client<BoxCloneSyncService<Request<Full<Bytes>>, Response<String>, BoxError>>;

/// A directory with a database, and the keys of the nodes.
struct Site {
    directory: TempDir,
    keys: KeyRing,
}

impl Site {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), keys: KeyRing::generate().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("sessions.db")
    }

    /// The path of a file that SQLite keeps beside the database.
    fn beside(&self, suffix: &str) -> PathBuf {
        self.directory.path().join(format!("sessions.db{suffix}"))
    }

    fn settings(&self) -> SqliteStoreBuilder {
        SqliteStore::builder(self.path()).durability(Durability::Normal).busy_timeout(Duration::from_millis(50))
    }

    fn store(&self) -> SqliteStore {
        SqliteStore::builder(self.path()).durability(Durability::Normal).open().unwrap()
    }

    /// Starts a node over the store.
    fn node(&self, store: &SqliteStore) -> Sessions {
        Sessions::builder()
            .tier(MemoryTier::builder().build())
            .tier(CookieTier::sealed(self.keys.clone()))
            .tier(SharedTier::new(store.clone()))
            .value::<Visits>()
            .value::<Quota>()
            .identify_by::<User>(|user| Some(Principal::new(&user.0)))
            .build()
            .unwrap()
    }

    /// Waits until all connections have closed the database: the last connection removes the log. Two connections that
    /// close at the same time can each take the other for the last, so this method opens and closes a connection too.
    fn closed(&self) {
        let begun = Instant::now();
        while self.beside("-wal").exists() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the threads of the store live on");
            let look = Connection::open(self.path()).unwrap();
            let _ = look.query_row("PRAGMA user_version", [], |_| Ok(()));
            drop(look);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Writes bytes into the closed database.
    fn damage(&self, offset: u64, bytes: &[u8]) {
        let mut file = fs::OpenOptions::new().write(true).open(self.path()).unwrap();
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.write_all(bytes).unwrap();
    }
}

async fn answer(session: &Session, path: &str) -> Result<String, WriteError> {
    Ok(match path {
        "/visits" => session.value::<Visits>().0.to_string(),
        "/count" => session.update(|visits: &mut Visits| visits.0 += 1).await?.0.to_string(),
        "/quota" => session.update(|quota: &mut Quota| quota.0 += 1).await?.0.to_string(),
        "/user" => session.principal().map_or_else(|| "nobody".into(), |user| user.as_str().to_owned()),
        "/sign-in" => session.sign_in(User("ada".into())).await.map(|()| String::new())?,
        "/sign-out" => session.sign_out().await.map(|()| String::new())?,
        path => unreachable!("{path}"),
    })
}

async fn handle(request: Request<Full<Bytes>>) -> Result<Response<String>, BoxError> {
    let session = match Session::load(request.extensions()).await {
        Ok(session) => session,
        Err(error) => return Ok(Response::builder().status(error.status()).body(error.to_string())?),
    };
    let answered = answer(&session, request.uri().path()).await;
    let status = answered.as_ref().map_or_else(WriteError::status, |_| StatusCode::OK);
    Ok(Response::builder().status(status).body(answered.unwrap_or_else(|error| error.to_string()))?)
}

fn browser(node: &Sessions) -> Browser {
    let layer = LayeredSessionLayer::new(node.clone());
    Client::new(BoxCloneSyncService::new(ServiceBuilder::new().layer(layer).service(service_fn(handle))))
}

/// The same browser, before another node.
fn at(node: &Sessions, before: &Browser) -> Browser {
    browser(node).jar(before.cookies())
}

async fn post(browser: &Browser, path: &str) -> (u16, String) {
    let answered = browser.post(path).await.unwrap();
    (answered.status().as_u16(), answered.text().unwrap().to_owned())
}

async fn told(browser: &Browser, path: &str) -> String {
    let (status, text) = post(browser, path).await;
    assert_eq!(status, 200, "{path}: {text}");
    text
}

#[tokio::test]
async fn store_keeps_its_contract() {
    let site = Site::new();
    let store = site.store();
    let clone = store.clone();
    Suite::new(&store, TokioClock::default()).beside(&clone).run().await.unwrap();
}

#[test]
fn many_stores_open_a_new_file() {
    let site = Site::new();
    let stores: Vec<_> = std::thread::scope(|scope| {
        let opening: Vec<_> = (0..8).map(|_| scope.spawn(|| site.store())).collect();
        opening.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(stores.len(), 8);
}

#[tokio::test]
async fn restart_keeps_values_and_sign_in() {
    let site = Site::new();
    let page = {
        let store = site.store();
        let page = browser(&site.node(&store));
        told(&page, "/sign-in").await;
        for path in ["/count", "/count", "/quota"] {
            told(&page, path).await;
        }
        page.cookies()
    };
    site.closed();
    let store = site.store();
    let page = browser(&site.node(&store)).jar(page);
    assert_eq!(told(&page, "/user").await, "ada");
    assert_eq!((told(&page, "/visits").await, told(&page, "/quota").await), ("2".into(), "2".into()));
}

#[tokio::test]
async fn notices_name_the_commits_of_other_nodes() {
    let site = Site::new();
    let store = site.store();
    let mut notices = store.notices().unwrap();
    let page = browser(&site.node(&store));
    told(&page, "/count").await;
    told(&at(&site.node(&store), &page), "/count").await;
    let told: Vec<_> = std::iter::from_fn(|| notices.next().now_or_never().flatten()).collect();
    let [Notice::Up, Notice::Changed { owner, node, .. }, Notice::Changed { owner: same, node: other, .. }] = told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!(owner, same);
    assert_ne!(node, other);
}

/// Returns the store's failure behind a failed write.
async fn failure(node: &Sessions) -> (StoreErrorKind, bool) {
    let user = node.for_principal(Principal::new("ada")).await.unwrap();
    let error = user.set(Quota(9)).await.unwrap_err();
    let error = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<TierError>()).unwrap();
    (error.kind(), error.may_be_applied())
}

#[tokio::test]
async fn lock_of_another_process_fails_writes_alone() {
    let site = Site::new();
    let store = site.settings().open().unwrap();
    let node = site.node(&store);
    let page = browser(&node);
    told(&page, "/count").await;
    let other = Connection::open(site.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(failure(&node).await, (StoreErrorKind::Timeout, false));
    assert_eq!(post(&page, "/count").await.0, 503);
    assert_eq!(told(&at(&site.node(&store), &page), "/visits").await, "1");
    let error = refusal(site.settings());
    assert!(error.contains("is locked"), "{error}");
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(told(&page, "/count").await, "2");
}

/// Returns the error of a store that can't be opened.
#[track_caller]
fn refusal(settings: SqliteStoreBuilder) -> String {
    let error: BuildError = settings.open().unwrap_err();
    assert_eq!(error.kind(), BuildErrorKind::Store);
    assert!(error.to_string().contains("sessions.db"), "{error}");
    error.to_string()
}

#[test]
fn missing_directory_is_named() {
    let error = refusal(SqliteStore::builder("/missing/directory/sessions.db"));
    assert!(error.contains("create the directory"), "{error}");
}

#[test]
fn read_only_file_is_refused() {
    let site = Site::new();
    drop(site.store());
    site.closed();
    // The write format in the file's header: a greater number than SQLite knows makes the file read-only, for root too.
    site.damage(18, &[3]);
    let error = refusal(site.settings());
    assert!(error.contains("can't be written"), "{error}");
}

#[test]
fn garbage_is_refused_and_kept() {
    let site = Site::new();
    let garbage = b"These are the notes of another program. ".repeat(400);
    fs::write(site.path(), &garbage).unwrap();
    let error = refusal(site.settings());
    assert!(error.contains("is no SQLite database"), "{error}");
    assert_eq!(fs::read(site.path()).unwrap(), garbage);
}

#[test]
fn database_of_another_application_is_refused() {
    let site = Site::new();
    Connection::open(site.path()).unwrap().execute_batch("CREATE TABLE orders (id INTEGER)").unwrap();
    let before = fs::read(site.path()).unwrap();
    let error = refusal(site.settings());
    assert!(error.contains("another application"), "{error}");
    assert_eq!(fs::read(site.path()).unwrap(), before);
}

#[test]
fn file_of_a_later_version_is_kept() {
    let site = Site::new();
    drop(site.store());
    site.closed();
    Connection::open(site.path()).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    site.closed();
    let before = fs::read(site.path()).unwrap();
    let error = refusal(site.settings());
    assert!(error.contains("later version of this crate (99;"), "{error}");
    assert_eq!(fs::read(site.path()).unwrap(), before);
}

#[tokio::test]
async fn damaged_pages_fail_requests_with_503() {
    let site = Site::new();
    let page = {
        let store = site.store();
        let page = browser(&site.node(&store));
        told(&page, "/count").await;
        page.cookies()
    };
    site.closed();
    // All pages but the first, which has the tables' names.
    let pages = fs::metadata(site.path()).unwrap().len() as usize - 4096;
    site.damage(4096, &vec![0xff; pages]);
    let node = site.node(&site.store());
    assert_eq!(post(&browser(&node).jar(page), "/visits").await.0, 503);
    assert_eq!(post(&browser(&node), "/count").await.0, 503);
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_for_their_user_alone() {
    use std::os::unix::fs::PermissionsExt;

    let site = Site::new();
    let store = site.store();
    told(&browser(&site.node(&store)), "/count").await;
    for suffix in ["", "-wal", "-shm"] {
        let mode = fs::metadata(site.beside(suffix)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }
}

#[tokio::test]
async fn last_clone_ends_the_threads() {
    let site = Site::new();
    let store = site.store();
    let clone = store.clone();
    told(&browser(&site.node(&clone)), "/count").await;
    drop(store);
    assert!(site.beside("-wal").exists());
    drop(clone);
    site.closed();
}
