//! The kit for tests of applications: a session without a server, a browser without a network, a clock, a store.
//!
//! | for | use |
//! |---|---|
//! | a unit test of a handler | [`session`]: a handle with values and a user, without a server |
//! | a test of a whole service | [`Client`]: a browser with a [`Jar`] of cookies, over `tower::Service` |
//! | time | [`ManualClock`]: lifetimes pass without waiting |
//! | outages, slow stores and races | [`SpyStore`]: a shared store that follows a script and notes its calls |
//! | a shared store of your own | [`conformance`]: a suite that checks a store by the rules of its contract |
//!
//! ```
//! # #[cfg(feature = "axum-0_8")] {
//! use std::time::Duration;
//! use axum::{Form, Router, response::Redirect, routing::{get, post}};
//! use layered_session::{
//!     CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Principal, Session,
//!     SessionValue, Sessions, SessionsBuilder, WriteError,
//!     testing::{self, Client, ManualClock},
//!     tier::BoxError,
//! };
//! use serde::{Deserialize, Serialize};
//!
//! // The application.
//!
//! #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
//! struct Cart(Vec<String>);
//! impl SessionValue for Cart { const NAME: &'static str = "cart"; }
//!
//! #[derive(Serialize, Deserialize)]
//! struct User(String);
//! impl SessionValue for User { const NAME: &'static str = "user"; }
//!
//! #[derive(Deserialize)]
//! struct Item { name: String }
//!
//! async fn add(session: Session, Form(item): Form<Item>) -> Result<Redirect, WriteError> {
//!     session.update(|cart: &mut Cart| cart.0.push(item.name.clone())).await?;
//!     Ok(Redirect::to("/"))
//! }
//!
//! async fn show(session: Session) -> String {
//!     let user = session.principal();
//!     let user = user.as_ref().map_or("nobody", Principal::as_str);
//!     format!("{user}: {}", session.value::<Cart>().0.join(", "))
//! }
//!
//! fn sessions() -> Result<SessionsBuilder, BoxError> {
//!     Ok(Sessions::builder()
//!         .tier(MemoryTier::builder().build())
//!         .tier(CookieTier::sealed(KeyRing::generate()?))
//!         .value::<Cart>()
//!         .identify_by::<User>(|user| Some(Principal::new(&user.0))))
//! }
//!
//! fn app(sessions: Sessions) -> Router {
//!     Router::new()
//!         .route("/", get(show))
//!         .route("/cart", post(add))
//!         .layer(LayeredSessionLayer::new(sessions))
//! }
//!
//! // Its tests.
//!
//! async fn handler_adds_to_the_cart() -> Result<(), BoxError> {
//!     let sessions = sessions()?.build()?;
//!     let cart = Cart(vec!["tea".into()]);
//!     let session = testing::session(&sessions).with(cart).await?;
//!     add(session.clone(), Form(Item { name: "cake".into() })).await?;
//!     assert_eq!(session.value::<Cart>().0, ["tea", "cake"]);
//!
//!     let session = testing::session(&sessions).signed_in(User("ada".into())).await?;
//!     assert_eq!(show(session).await, "ada: ");
//!     Ok(())
//! }
//!
//! async fn cart_outlives_a_day_and_no_more() -> Result<(), BoxError> {
//!     const DAY: Duration = Duration::from_secs(86_400);
//!     let clock = ManualClock::new();
//!     let sessions = sessions()?.idle(2 * DAY).clock(clock.clone()).build()?;
//!     let browser = Client::new(app(sessions)).clock(clock.clone());
//!     let answer = browser.post("/cart").form([("name", "tea")]).await?;
//!     assert_eq!(answer.headers()["location"], "/");
//!     assert_eq!(browser.tab().get("/").await?.text()?, "nobody: tea");
//!     clock.advance(DAY);
//!     assert_eq!(browser.get("/").await?.text()?, "nobody: tea");
//!     clock.advance(2 * DAY);
//!     assert_eq!(browser.get("/").await?.text()?, "nobody: ");
//!     Ok(())
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! # handler_adds_to_the_cart().await.unwrap();
//! # cart_outlives_a_day_and_no_more().await.unwrap();
//! # }) }
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The type of cookies in a [`Jar`] and in a [`Response`].
pub use cookie::Cookie;

pub use self::{
    client::Client,
    clock::ManualClock,
    error::TestError,
    jar::{Jar, set_cookies},
    request::ClientRequest,
    response::Response,
    session::{TestSession, session},
    store::{Call, Operation, SpyStore},
};

mod client;
mod clock;
pub mod conformance;
mod error;
mod jar;
mod request;
mod response;
mod session;
mod store;
mod target;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
