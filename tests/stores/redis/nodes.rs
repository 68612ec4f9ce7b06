//! Several nodes over one server.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use layered_session::{LayeredSessionLayer, Session, Sessions, WriteError, testing::Client, tier::BoxError};
use tower::{ServiceBuilder, util::BoxCloneSyncService};

use super::{Stock, Visits, ada, node, ring, server::server};

type App = BoxCloneSyncService<Request<Full<Bytes>>, Response<String>, BoxError>;

/// The pages `/read`, `/set/7`, `/renew` and `/out`.
async fn page(request: Request<Full<Bytes>>) -> Result<Response<String>, BoxError> {
    let session = Session::load(request.extensions()).await?;
    let done: Result<(), WriteError> = match request.uri().path() {
        "/read" => return Ok(Response::new(session.value::<Stock>().0.to_string())),
        "/renew" => session.renew().await,
        "/out" => session.sign_out().await,
        path => {
            let number = path.strip_prefix("/set/").ok_or("no such page")?;
            session.set(Stock(number.parse()?)).await
        }
    };
    let status = done.map_or_else(|error| error.status(), |()| StatusCode::OK);
    Ok(Response::builder().status(status).body(String::new())?)
}

fn app(node: Sessions) -> App {
    let layer = LayeredSessionLayer::new(node);
    BoxCloneSyncService::new(ServiceBuilder::new().layer(layer).service_fn(page))
}

/// Returns a browser of the same session at another node.
fn at(browser: &Client<App>, node: Sessions) -> Client<App> {
    Client::new(app(node)).jar(browser.cookies())
}

async fn stock(browser: &Client<App>) -> u32 {
    browser.get("/read").await.unwrap().text().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_of_sixteen_nodes_all_count() {
    let Some(server) = server() else { return };
    let ring = ring();
    let mut nodes = Vec::new();
    for _ in 0..16 {
        let node = node(&server, &ring);
        nodes.push(tokio::spawn(async move {
            let session = ada(&node).await;
            for _ in 0..64 {
                session.update(|visits: &mut Visits| visits.0 += 1).await.unwrap();
            }
        }));
    }
    for node in nodes {
        node.await.unwrap();
    }
    assert_eq!(ada(&node(&server, &ring)).await.value::<Visits>(), Visits(1024));
}

#[tokio::test]
async fn sign_out_holds_on_every_node() {
    let Some(server) = server() else { return };
    let ring = ring();
    let (here, there) = (node(&server, &ring), node(&server, &ring));
    let browser = Client::new(app(here));
    browser.post("/set/1").await.unwrap();
    let (warm, cold) = (at(&browser, there), at(&browser, node(&server, &ring)));
    assert_eq!(stock(&warm).await, 1);
    assert_eq!(browser.post("/out").await.unwrap().status(), StatusCode::OK);
    assert_eq!(warm.post("/set/2").await.unwrap().status(), StatusCode::CONFLICT);
    assert_eq!(stock(&cold).await, 0);
}

#[tokio::test]
async fn renewals_lose_no_write_of_another_node() {
    let Some(server) = server() else { return };
    let ring = ring();
    let (here, there) = (node(&server, &ring), node(&server, &ring));
    let browser = Client::new(app(here));
    browser.post("/set/1").await.unwrap();
    let (mut acknowledged, mut lost) = (0, 0);
    for number in 2..202_u32 {
        let other = at(&browser, there.clone());
        let path = format!("/set/{number}");
        let write = async { other.post(&path).await.unwrap().status() };
        let renew = async { browser.post("/renew").await.unwrap().status() };
        // The renewing node has not seen the write, which comes before the renewal or during it.
        let (written, renewed) = if number % 2 == 0 { (write.await, renew.await) } else { tokio::join!(write, renew) };
        assert_eq!(renewed, StatusCode::OK);
        if written == StatusCode::OK {
            acknowledged += 1;
            lost += u32::from(stock(&at(&browser, node(&server, &ring))).await != number);
        }
    }
    assert!(acknowledged >= 100, "{acknowledged}");
    assert_eq!(lost, 0, "of {acknowledged} acknowledged writes");
}
