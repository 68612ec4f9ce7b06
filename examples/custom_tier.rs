//! A custom source: each tenant's defaults, from a database, below memory and the cookie.
//!
//! `cargo run --example custom_tier --features testing` sends itself a few requests, asserts
//! their answers, and ends.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use layered_session::{
    CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionValue, Sessions,
    testing::Client,
    tier::{BoxError, Found, Lookup, Source, TierFuture},
};
use serde::{Deserialize, Serialize};
use tower::{ServiceBuilder, service_fn};

/// The values that a tenant's users see before they write their own.
#[derive(Debug)]
struct TenantDefaults {
    database: Arc<Database>,
    cache: Mutex<HashMap<String, (Instant, Row)>>,
}

impl TenantDefaults {
    /// Every load waits for this function, a visitor's load too, so the cache must spare most queries.
    async fn row(&self, tenant: &str) -> Result<Row, BoxError> {
        let cache = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, row)) = cache().get(tenant)
            && since.elapsed() < Duration::from_secs(300)
        {
            return Ok(row.clone());
        }
        let row = self.database.defaults(tenant).await?;
        if !row.is_empty() {
            // An unknown tenant has no row, so a client that invents tenants can't fill the cache.
            cache().insert(tenant.to_owned(), (Instant::now(), row.clone()));
        }
        Ok(row)
    }
}

impl Source for TenantDefaults {
    fn name(&self) -> &'static str {
        "tenant-defaults"
    }

    fn read<'a>(&'a self, lookup: Lookup<'a>) -> TierFuture<'a, Found> {
        let Some(tenant) = lookup.head().and_then(|head| head.headers.get("x-tenant")?.to_str().ok()) else {
            return TierFuture::ready(Ok(Found::nothing())); // a job has no request head, and a visitor no tenant
        };
        TierFuture::boxed(async move {
            let row = self.row(tenant).await?;
            Ok(row.into_iter().filter(|(name, _)| lookup.names().contains(name)).collect())
        })
    }
}

/// Wire names with JSON.
type Row = Vec<(&'static str, Bytes)>;

/// Stands for the application's own database.
#[derive(Debug, Default)]
struct Database {
    asked: AtomicUsize,
}

impl Database {
    async fn defaults(&self, tenant: &str) -> Result<Row, BoxError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(match tenant {
            "acme" => vec![(Theme::NAME, Bytes::from_static(br#""dark""#))],
            _ => Vec::new(),
        })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Theme(String);

impl Default for Theme {
    fn default() -> Self {
        Self("light".into())
    }
}

impl SessionValue for Theme {
    const NAME: &'static str = "theme";
}

/// Shows the theme and the answering tier; a `PUT` first stores the theme of the path.
async fn theme<B>(request: Request<B>) -> Result<Response<String>, BoxError> {
    let session = Session::load(request.extensions()).await?;
    if request.method() == Method::PUT {
        session.set(Theme(request.uri().path().trim_start_matches('/').to_owned())).await?;
    }
    let Theme(theme) = session.value();
    Ok(Response::new(format!("{theme} from {}", session.value_source::<Theme>().tier())))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let database = Arc::<Database>::default();
    let sessions = Sessions::builder()
        .tier(MemoryTier::builder().build())
        .tier(CookieTier::sealed(KeyRing::generate()?))
        .tier(TenantDefaults { database: database.clone(), cache: Mutex::default() })
        .value::<Theme>()
        .build()?;
    let app = ServiceBuilder::new().layer(LayeredSessionLayer::new(sessions)).service(service_fn(theme));
    let browser = Client::new(app.clone());

    let without_tenant = browser.get("/").await?;
    assert_eq!(without_tenant.text()?, "light from default");

    for _ in 0..2 {
        let visitor = browser.get("/").header("x-tenant", "acme").await?;
        assert_eq!(visitor.text()?, "dark from tenant-defaults");
        assert!(visitor.cookies().is_empty(), "a computed answer is stored nowhere");
    }
    assert_eq!(database.asked.load(Ordering::Relaxed), 1, "the tier's cache answers the second request");

    let chosen = browser.request(Method::PUT, "/sepia").header("x-tenant", "acme").await?;
    assert_eq!((chosen.text()?, chosen.cookies().len()), ("sepia from memory", 1));
    let kept = browser.get("/").header("x-tenant", "acme").await?;
    assert_eq!(kept.text()?, "sepia from memory", "a stored value comes before a computed value");

    let another = Client::new(app).get("/").header("x-tenant", "acme").await?;
    assert_eq!(another.text()?, "dark from tenant-defaults", "another browser sees the tenant's default");
    println!("{}, {}, {}", without_tenant.text()?, chosen.text()?, another.text()?);
    Ok(())
}
