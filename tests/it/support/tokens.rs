//! The text of cookies and tokens.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header};
use layered_session::testing::Cookie;

pub(crate) fn set_cookies(headers: &HeaderMap) -> Vec<String> {
    headers.get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

/// The session's id, in clear after the token's version and the key's id.
pub(crate) fn id_of(token: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(token).expect("a token")[5..37].to_vec()
}

/// Parses a `Set-Cookie` as a browser does.
pub(crate) fn parsed(set_cookie: &str) -> Cookie<'static> {
    Cookie::parse(set_cookie.to_owned()).expect("a cookie")
}

/// The attributes of a `Set-Cookie`, unchanged.
pub(crate) fn attributes(set_cookie: &str) -> &str {
    let pair = parsed(set_cookie).stripped().to_string();
    set_cookie.strip_prefix(&pair).and_then(|rest| rest.strip_prefix("; ")).expect("attributes after the pair")
}

/// The seconds of a `Set-Cookie`'s `Max-Age`.
pub(crate) fn max_age(set_cookie: &str) -> Option<u64> {
    parsed(set_cookie).max_age().map(|age| age.whole_seconds().try_into().expect("no negative age"))
}
