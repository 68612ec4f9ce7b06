//! The cookie as a browser receives and sends it.
//!
//! - `set_cookie`: the responses that set or remove the cookie
//! - `attributes`: the attributes and the path
//! - `budget`: the bytes that a cookie may have, and deploys that change the limit
//! - `reserved_room`: the room that a full session keeps for a sign-in
//! - `refresh`: the requests that bring a browser up to date
//! - `caching`: `Vary` and `Cache-Control`
//! - `request_head`: the parts of a request that a handle keeps
//! - `fields`: the search for the cookie in all `Cookie` fields
//! - `several_ids`: a request with the cookies of several sessions
//! - `authenticity`: forged cookies, and cookies of other applications
//! - `key_rotation`: keys that are replaced or retired
//! - `moved_path`: deploys that change the path or domain
//! - `copies`: dropped responses and copied cookies
//! - `plain_http`: the warning about a `Secure` cookie over plain HTTP

mod attributes;
mod authenticity;
mod budget;
mod caching;
mod copies;
mod fields;
mod key_rotation;
mod moved_path;
mod plain_http;
mod refresh;
mod request_head;
mod reserved_room;
mod set_cookie;
mod several_ids;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use layered_session::Session;

use crate::support::{Browser, Node, Theme, set_cookies};

/// The view of a request on its session: the status, `Set-Cookie`, the value, its tier, and whether the session is new.
type Outcome = (StatusCode, Vec<String>, Theme, &'static str, bool);

fn nobody() -> Outcome {
    (StatusCode::OK, Vec::new(), Theme::default(), "default", true)
}

async fn outcome(node: &Node, request: Request<Full<Bytes>>) -> Outcome {
    let read = async |session: Session| {
        let seen = (session.value::<Theme>(), session.value_source::<Theme>().tier(), session.is_new());
        (Response::new(Full::default()), seen)
    };
    let (response, (theme, tier, is_new)) = node.handle(request, read).await;
    (response.status(), set_cookies(response.headers()), theme, tier, is_new)
}

/// A request with these `Cookie` fields.
fn bringing<T: AsRef<[u8]>>(fields: impl IntoIterator<Item = T>) -> Request<Full<Bytes>> {
    let mut request = Browser::new().request();
    for field in fields {
        request.headers_mut().append(header::COOKIE, HeaderValue::from_bytes(field.as_ref()).unwrap());
    }
    request
}
