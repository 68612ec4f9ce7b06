//! The traces of requests that the cross-site rule refused: each reason with its remedy, at most once a minute.

use http::{
    HeaderMap, HeaderValue, Uri,
    header::{HOST, ORIGIN},
};

use crate::{
    throttle::{MINUTE, Throttle},
    time::Millis,
};

/// The longest part of a request's header that is traced.
const CHARS: usize = 128;

/// The reason why the cross-site rule refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalReason {
    /// `Sec-Fetch-Site` names another origin, or the address bar.
    AnotherSite,
    /// `Origin` names another host than the request went to, as far as this server knows.
    AnotherOrigin,
    /// `Origin` is `null`.
    NullOrigin,
    /// A POST has neither header.
    BarePost,
    /// A `GET` of events has neither header, and comes from no `EventSource`.
    BareEvents,
    /// An upgrade has neither header, under `SameSite::None`.
    BareUpgrade,
    /// A page of a listed origin, which is of another site, has sent no session cookie.
    Withheld,
}

impl RefusalReason {
    /// The reason and its remedy, for the log and for the answer.
    pub(crate) const fn message(self) -> &'static str {
        match self {
            Self::AnotherSite => {
                "`Sec-Fetch-Site` is not `same-origin`: the request comes from a page of another origin, or from the \
                 address bar; if the page belongs to this application, list the page's whole origin in \
                 `public_origins`"
            }
            Self::AnotherOrigin => {
                "`Origin` is not the host to which the request went: if a proxy rewrites `Host`, let the proxy pass \
                 `Host` on, or list the page's whole origin in `public_origins`"
            }
            Self::NullOrigin => {
                "`Origin` is `null`, as from a sandboxed frame, a file, or a page with `Referrer-Policy: no-referrer`: \
                 serve the page outside of a sandboxed frame, with another policy such as `same-origin`"
            }
            Self::BarePost => {
                "the POST has neither `Origin` nor `Sec-Fetch-Site`, and browsers send `Origin` with each POST: if a \
                 proxy removes `Origin`, let the proxy pass `Origin` on; a client that is not a browser must send the \
                 application's own origin"
            }
            Self::BareEvents => {
                "the request for events has neither `Origin` nor `Sec-Fetch-Site`, and does not come from an \
                 `EventSource`: send `Accept: text/event-stream`"
            }
            Self::BareUpgrade => {
                "the upgrade to a WebSocket has neither `Origin` nor `Sec-Fetch-Site`: if a proxy removes `Origin`, \
                 let the proxy pass `Origin` on; to admit clients that are not browsers, call \
                 `upgrades_without_origin`"
            }
            Self::Withheld => {
                "a page on another site, whose origin is in `public_origins`, sent no session cookie, so the request \
                 begins no session: serve the page from the application's site, or set `SameSite::None`"
            }
        }
    }
}

/// A refused request.
#[derive(Clone, Debug)]
pub(crate) struct CrossSiteRefusal {
    pub(crate) reason: RefusalReason,
    origin: Option<Box<str>>,
    /// The host to which the request went.
    host: Option<Box<str>>,
}

impl CrossSiteRefusal {
    /// Creates a refusal, with the request's `Origin` and host for its trace.
    pub(crate) fn new(reason: RefusalReason, uri: &Uri, headers: &HeaderMap) -> Self {
        let field = |name| headers.get(name).map(HeaderValue::as_bytes);
        let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
        let cut = |words: &[u8]| String::from_utf8_lossy(without_userinfo(words)).chars().take(CHARS).collect();
        Self { reason, origin: field(ORIGIN).map(cut), host: authority.or_else(|| field(HOST)).map(cut) }
    }
}

/// Returns the host and port of an authority, since userinfo may be a password. A browser sends userinfo neither in
/// `Host` nor in `Origin`, but another client may.
fn without_userinfo(authority: &[u8]) -> &[u8] {
    authority.rsplit(|byte| *byte == b'@').next().unwrap_or_default()
}

/// The throttles of the traces, one for each reason. There is no throttle for each origin: clients can choose any
/// number of origins.
#[derive(Debug, Default)]
pub(crate) struct RefusalTraces([Throttle; 7]);

impl RefusalTraces {
    /// Traces a refusal, unless its reason was traced within the last minute.
    pub(crate) fn tell(&self, refused: &CrossSiteRefusal, now: Millis) {
        let CrossSiteRefusal { reason, origin, host } = refused;
        let due = self.0.get(*reason as usize).and_then(|throttle| throttle.due(1, now, MINUTE));
        if let Some(left_out) = due {
            tracing::warn!(origin, host, left_out, "refused as cross-site: {}", reason.message());
        }
    }
}
