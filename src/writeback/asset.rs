//! Files that are compiled in: the same for everybody, cached until they change.

use std::{fmt::Write, sync::OnceLock};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use sha2::{Digest, Sha256};

use super::reply::Refusal;

pub(crate) struct Asset {
    source: &'static str,
    content_type: &'static str,
    comments: Comments,
    served: OnceLock<Served>,
}

/// What becomes of lines that are a comment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comments {
    Kept,
    /// Who reads the script reads it here; what every page loads is a fifth smaller for it.
    LeftOut,
}

struct Served {
    text: Bytes,
    etag: String,
}

impl Asset {
    pub(crate) const fn new(source: &'static str, content_type: &'static str) -> Self {
        Self { source, content_type, comments: Comments::Kept, served: OnceLock::new() }
    }

    /// A script that is served without its comments. It has no string of several lines.
    pub(crate) const fn script(source: &'static str) -> Self {
        let content_type = "text/javascript; charset=utf-8";
        Self { source, content_type, comments: Comments::LeftOut, served: OnceLock::new() }
    }

    /// Answers a `GET` or `HEAD`. Such a file needs no cross-site rule.
    pub(crate) fn answer<B: From<Bytes>>(&self, method: &Method, headers: &HeaderMap) -> Result<Response<B>, Refusal> {
        if method != Method::GET && method != Method::HEAD {
            return Err(Refusal::method(&[Method::GET, Method::HEAD]));
        }
        let Served { text, etag } = self.served();
        let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|value| {
            let mut tags = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            // A weak comparison is what If-None-Match asks for (RFC 9110, 13.1.2).
            tags.any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == etag.as_bytes())
        });
        let unsaid = known || method == Method::HEAD;
        let body = if unsaid { Bytes::new() } else { text.clone() };
        let mut response = Response::new(B::from(body));
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

    fn served(&self) -> &Served {
        self.served.get_or_init(|| {
            let text = match self.comments {
                Comments::Kept => Bytes::from_static(self.source.as_bytes()),
                Comments::LeftOut => {
                    let lines = self.source.split_inclusive('\n').map(|line| line.trim_start_matches(' '));
                    lines.filter(|line| !line.starts_with("//")).collect::<String>().into()
                }
            };
            let hash = Sha256::digest(&text);
            let hex = hash.iter().take(16).fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            Served { text, etag: format!("\"{hex}\"") }
        })
    }
}
