//! The checks of a request before an endpoint accepts it: method, cross-site rule, content type and user.

use http::{HeaderMap, StatusCode, header, request::Parts};

use super::reply::Refusal;
use crate::{
    cross_site::RequestKind,
    session::{Session, read},
    sessions::Sessions,
};

/// Checks the method and the cross-site rule.
pub(crate) fn only_own_pages(sessions: &Sessions, kind: RequestKind, head: &Parts) -> Result<(), Refusal> {
    let method = kind.method();
    if head.method != method {
        return Err(Refusal::method(&[method]));
    }
    sessions.cross_site.check(kind, &head.uri, &head.headers).map_err(|refused| {
        sessions.node.refusals.tell(&refused, sessions.node.now());
        Refusal::new(StatusCode::FORBIDDEN, "cross_site", refused.reason.message())
    })
}

/// Checks the content type of a POST.
pub(super) fn only_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let essence = match (types.next(), types.next()) {
        (Some(value), None) => value.as_bytes().split(|byte| *byte == b';').next(),
        _ => None,
    };
    if essence.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(b"application/json")) {
        return Ok(());
    }
    let message = "the content type must be application/json";
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
}

/// The header field with the user mark from the page's last `state` event: the user whose values the page posts.
const SESSION_USER: &str = "session-user";

/// Refuses a page whose user has changed. While the page could not post, another user may have signed in, and the
/// values of one user must not become the other's.
pub(super) fn for_this_user(headers: &HeaderMap, session: &Session) -> Result<(), Refusal> {
    match headers.get(SESSION_USER) {
        Some(meant) if meant.as_bytes() != read::user_mark(session.shared()).as_bytes() => Err(Refusal::user_changed()),
        _ => Ok(()),
    }
}
