//! The files that are compiled into the crate: the same for every visitor, with an `ETag` for caches.

use std::sync::OnceLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use sha2::{Digest, Sha256};

use super::reply::{Refusal, WritebackBody};

pub(crate) struct Asset {
    source: &'static str,
    content_type: &'static str,
    text: fn(&'static str) -> Bytes,
    /// The text as it is sent, and its `ETag`.
    served: OnceLock<(Bytes, String)>,
}

impl Asset {
    pub(crate) const fn new(source: &'static str, content_type: &'static str) -> Self {
        Self { source, content_type, text: whole, served: OnceLock::new() }
    }

    /// A script, served without its comment lines: developers read the comments in the source, and every page loads a
    /// fifth less. The script must not have a string of several lines, in which such a line would be text.
    pub(crate) const fn script(source: &'static str) -> Self {
        let content_type = "text/javascript; charset=utf-8";
        Self { source, content_type, text: without_comments, served: OnceLock::new() }
    }

    /// Answers a `GET` or `HEAD`. The file holds no data of a visitor, so the cross-site rule is not checked.
    pub(crate) fn answer(&self, method: &Method, headers: &HeaderMap) -> Result<Response<WritebackBody>, Refusal> {
        if method != Method::GET && method != Method::HEAD {
            return Err(Refusal::method(&[Method::GET, Method::HEAD]));
        }
        let (text, etag) = self.served.get_or_init(|| {
            let text = (self.text)(self.source);
            let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(&Sha256::digest(&text)[..16]));
            (text, etag)
        });
        let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|value| {
            let mut tags = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            // If-None-Match uses the weak comparison (RFC 9110, 13.1.2).
            tags.any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == etag.as_bytes())
        });
        let unsaid = known || method == Method::HEAD;
        let body = if unsaid { Bytes::new() } else { text.clone() };
        let mut response = Response::new(WritebackBody::from(body));
        let headers = response.headers_mut();
        if !known {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
            headers.insert(header::CONTENT_LENGTH, text.len().into());
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Ok(etag) = HeaderValue::try_from(etag) {
            headers.insert(header::ETAG, etag);
        }
        if known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        Ok(response)
    }
}

const fn whole(source: &'static str) -> Bytes {
    Bytes::from_static(source.as_bytes())
}

fn without_comments(source: &'static str) -> Bytes {
    let lines = source.split_inclusive('\n').map(|line| line.trim_start_matches(' '));
    lines.filter(|line| !line.starts_with("//")).collect::<String>().into()
}
