//! The headers that tell caches that a response belongs to one session.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::config::Reads;

/// The default of Phoenix and Rails: a shared cache stores no copy, and a browser revalidates a copy before each use.
const PRIVATE: HeaderValue = HeaderValue::from_static("max-age=0, private, must-revalidate");

/// Fields for particular caches. Such a field outranks `Cache-Control` at the cache that knows the field. nginx reads
/// `X-Accel-Expires`; content delivery networks read the others (RFC 9213).
const TARGETED: [&str; 3] = ["cdn-cache-control", "surrogate-control", "x-accel-expires"];

/// The last part of the names of further targeted fields, such as `Cloudflare-CDN-Cache-Control`.
const TARGETED_END: &str = "-cdn-cache-control";

/// Adds the fields for caches to a response whose request read the session.
pub(super) fn note_read(headers: &mut HeaderMap, reads: Reads) {
    vary_by_cookie(headers);
    if reads == Reads::Private {
        keep_private_by_default(headers);
    }
}

/// Adds `Vary: Cookie`, unless the response has it: the response depends on the request's cookies.
fn vary_by_cookie(headers: &mut HeaderMap) {
    let names_cookie = |value: &HeaderValue| {
        let mut names = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"cookie"))
    };
    let cookie = HeaderValue::from_static("cookie");
    match headers.entry(header::VARY) {
        header::Entry::Vacant(entry) => drop(entry.insert(cookie)),
        header::Entry::Occupied(entry) if entry.iter().any(names_cookie) => {}
        header::Entry::Occupied(mut entry) => entry.append(cookie),
    }
}

/// Keeps shared caches from storing a response whose handler set no caching field. With `Vary` alone, nginx's
/// `proxy_cache` answers a request with the same cookie by a page from before a write, or from before a sign-out.
fn keep_private_by_default(headers: &mut HeaderMap) {
    let is_caching_field =
        |name: &HeaderName| *name == header::CACHE_CONTROL || *name == header::EXPIRES || is_targeted(name);
    if !headers.keys().any(is_caching_field) {
        headers.insert(header::CACHE_CONTROL, PRIVATE);
    }
}

/// Forbids each cache to store a response with a cookie of ours: the handler chose its directives without knowing of
/// the cookie (RFC 9111, 7.3). Directives that permit no storing stay, such as `no-transform`.
pub(super) fn forbid_storing(headers: &mut HeaderMap) {
    let targeted: Vec<_> = headers.keys().filter(|name| is_targeted(name)).cloned().collect();
    for name in targeted {
        headers.remove(name);
    }
    // `no-store` comes first, since an unclosed quotation mark would swallow the directives after it.
    let mut field = b"no-store".to_vec();
    for value in headers.get_all(header::CACHE_CONTROL) {
        for directive in directives(value.as_bytes()) {
            let name = directive.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii_end();
            // Removes `must-understand` too: a cache that knows `must-understand` would ignore the `no-store` beside it
            // (RFC 9111, 5.2.2.3).
            let removed = [b"no-store".as_slice(), b"public", b"must-understand"];
            if !removed.iter().any(|removed| name.eq_ignore_ascii_case(removed)) {
                field.extend_from_slice(b", ");
                field.extend_from_slice(directive);
            }
        }
    }
    let field = HeaderValue::try_from(field).unwrap_or(HeaderValue::from_static("no-store"));
    headers.insert(header::CACHE_CONTROL, field);
}

fn is_targeted(name: &HeaderName) -> bool {
    // Names are in lower case.
    TARGETED.contains(&name.as_str()) || name.as_str().ends_with(TARGETED_END)
}

/// Returns the members of a list whose quoted strings may contain commas (RFC 9110, 5.6.1 and 5.6.4).
fn directives(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    let members = list.split(move |byte| {
        let parts = *byte == b',' && !quoted;
        quoted ^= *byte == b'"' && !escaped;
        escaped = quoted && *byte == b'\\' && !escaped;
        parts
    });
    members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn cookie_response_forbids_storing() {
        for (said, expected) in [
            (&[][..], "no-store"),
            (&["no-store"], "no-store"),
            (&["no-transform"], "no-store, no-transform"),
            (&["no-store, no-transform"], "no-store, no-transform"),
            (&["public, max-age=60"], "no-store, max-age=60"),
            (&["PUBLIC", "Private , ,s-maxage=9"], "no-store, Private, s-maxage=9"),
            (&["must-understand, No-Store"], "no-store"),
            (&[r#"no-cache="set-cookie, public", public"#], r#"no-store, no-cache="set-cookie, public""#),
            (&[r#"x="\", public", y"#], r#"no-store, x="\", public", y"#),
            (&["public=x, public =y, publicity"], "no-store, publicity"),
            (&["x=\"open, public"], "no-store, x=\"open, public"),
        ] {
            let fields: Vec<_> = said.iter().map(|value| ("cache-control", *value)).collect();
            let mut headers = headers(&fields);
            forbid_storing(&mut headers);
            assert_eq!(headers.get_all(header::CACHE_CONTROL).iter().collect::<Vec<_>>(), [expected], "{said:?}");
        }
    }

    #[test]
    fn cookie_response_drops_targeted_cache_fields() {
        let mut headers = headers(&[
            ("cdn-cache-control", "max-age=60"),
            ("cloudflare-cdn-cache-control", "max-age=60"),
            ("surrogate-control", "max-age=60"),
            ("x-accel-expires", "60"),
            ("x-accel-expires", "61"),
            ("expires", "0"),
            ("x-accel-buffering", "no"),
            ("x-cdn-cache-control-hint", "1"),
        ]);
        forbid_storing(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["cache-control", "expires", "x-accel-buffering", "x-cdn-cache-control-hint"]);
    }

    #[test]
    fn read_response_is_private_by_default() {
        let mut silent = headers(&[("x-accel-buffering", "no")]);
        keep_private_by_default(&mut silent);
        assert_eq!(silent[header::CACHE_CONTROL], "max-age=0, private, must-revalidate");
        for name in [
            "cache-control",
            "expires",
            "cdn-cache-control",
            "x-cdn-cache-control",
            "surrogate-control",
            "x-accel-expires",
        ] {
            let said = headers(&[(name, "60")]);
            let mut stored = said.clone();
            keep_private_by_default(&mut stored);
            assert_eq!(stored, said, "{name}");
        }
    }
}
