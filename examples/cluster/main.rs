//! The `division` example on several nodes over one shared store: a change on one node arrives in the pages of the
//! others, and a stopped store fails requests in time.
//!
//! `examples/README.md` has the commands that start two nodes, and the environment variables.

#[path = "../division/chain.rs"]
mod chain;
#[path = "../division/forms.rs"]
mod forms;
#[path = "../division/live.rs"]
mod live;
mod node;
mod outage;
#[path = "../division/page.rs"]
mod page;
#[path = "../division/sample.rs"]
mod sample;
#[path = "../site/site.rs"]
mod site;
#[path = "../site/store.rs"]
mod store;
#[path = "../division/values.rs"]
mod values;
#[path = "../division/views.rs"]
mod views;
mod visits;

use std::{env, sync::Arc};

use axum::{
    Router,
    extract::State,
    middleware,
    routing::{any, get, post},
};
use layered_session::{BuildError, LayeredSessionLayer, Session, SessionWriteback, Sessions, tier::BoxError};
use tokio::sync::mpsc;
use tower_http::csrf::CsrfLayer;

use crate::{node::Node, values::Division, views::View, visits::Visits};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    if env::var_os("STORE_URL").is_none() {
        return Err("STORE_URL is missing, and the nodes share nothing without a store: give `redis://host:port` and \
                    build the example with `--features redis`, or `sqlite://path` with `--features sqlite`"
            .into());
    }
    let sessions = chain::chain(site::keys::key_ring("cluster")?)?.value::<Visits>().build()?;
    let node = Arc::new(Node::new(sessions.clone()));
    // Each socket holds a clone of the sender, so the receiver learns of the last socket's end.
    let (open, mut sockets) = mpsc::channel(1);
    // `serve` spawns the follower of the other nodes' changes, and the sweeper.
    site::serve::serve(app(&sessions, node, open)?, sessions, async move { sockets.recv().await }).await
}

fn app(sessions: &Sessions, node: Arc<Node>, open: mpsc::Sender<()>) -> Result<Router, BuildError> {
    let page = |view| {
        get(async move |State(node): State<Arc<Node>>, session: Session| {
            page::page(&session, view, &node.banner(&session))
        })
    };
    Ok(Router::new()
        .route("/visits", get(visits::show).post(visits::count))
        .route("/logout-everywhere", post(node::logout_everywhere))
        // Also refuses the pages of other sites that a browser counts as the same site.
        .route_layer(CsrfLayer::new().with_rejection_response(outage::cross_site))
        .route("/", page(View::Home))
        .route("/projects", page(View::Projects))
        .route("/costs", page(View::Costs))
        .with_state(Arc::clone(&node))
        .route("/live", any(live::upgrade))
        .with_state(open)
        .merge(forms::routes())
        .nest_service("/store_session", SessionWriteback::new(sessions).allow::<Division>()?)
        .merge(page::assets())
        .layer(LayeredSessionLayer::new(sessions.clone()))
        .layer(middleware::from_fn(outage::explain))
        // Added after the layer, so that these routes wait for no session.
        .merge(node::routes(node))
        .route("/healthz", get(async || "ok")))
}
