//! Turns of a session: sign-ins, renewals and ends, in requests and ordered on sockets.

use http::StatusCode;
use layered_session::{Principal, Session, SessionValue};
use serde::{Deserialize, Serialize};

use super::{
    app::App,
    browser::Browser,
    node::{Answer, Node},
    tokens::id_of,
    values::user,
    visits::bring,
};

/// A right that only a second factor gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mfa(pub(crate) bool);

impl SessionValue for Mfa {
    const NAME: &'static str = "mfa";
}

/// A node of an application with [`Mfa`] as a further value.
pub(crate) fn mfa_node(app: &App) -> Node {
    app.start_with(|sessions| sessions.value::<Mfa>())
}

pub(crate) async fn principal(browser: &Browser, node: &Node) -> Option<Principal> {
    browser.clone().visit(node, async |session| session.principal()).await
}

pub(crate) fn is_ada(principal: Option<Principal>) -> bool {
    principal == Some(Principal::new("ada"))
}

/// The order of a sign-in of ada, for the page of this socket.
pub(crate) fn login(live: &Session) -> String {
    live.sign_in(user("ada")).by_page().unwrap().to_string()
}

/// Asserts a refusal without a `Set-Cookie` of the session.
pub(crate) fn assert_refused(answer: &Answer, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::CONFLICT, code));
    assert_eq!(answer.set_cookies(), Vec::<String>::new());
}

/// Brings a token, and asserts that the node accepts the token.
pub(crate) async fn bring_ok(browser: &mut Browser, node: &Node, token: &str) {
    let answer = bring(browser, node, token).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::OK, String::new()));
}

/// The id of the session whose cookie a browser holds.
pub(crate) fn id(browser: &Browser) -> Vec<u8> {
    id_of(browser.cookie("session").expect("a session's cookie"))
}
