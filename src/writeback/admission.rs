//! The requests that an endpoint takes: by method, by the page that sends them, by type and by user.

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

/// Checks the type of a POST's body.
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

/// The field in which a page names the user whose values it posts, by the mark that `state` told the page.
const SESSION_USER: &str = "session-user";

/// Refuses a page whose user has changed. While the page could not post, another user may have signed in, and the values of
/// one user must not become the other's.
pub(super) fn for_this_user(headers: &HeaderMap, session: &Session) -> Result<(), Refusal> {
    match headers.get(SESSION_USER) {
        Some(meant) if meant.as_bytes() != read::user_mark(session.shared()).as_bytes() => Err(Refusal::user_changed()),
        _ => Ok(()),
    }
}
