//! The traces of mistakes in the application that any request can hit: each kind is traced at most once a minute.

use crate::{
    sync::atomic::{AtomicBool, Ordering},
    throttle::{MINUTE, PerValue, Throttle},
    time::Millis,
    value::{ValueError, ValueIndex},
};

/// The throttles of the traces, for each kind of mistake.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    invalid_defaults: PerValue,
    skipped_copies: PerValue,
    inexact_numbers: PerValue,
    cut_cookies: Throttle,
    unresolved: Throttle,
    undeclared: Throttle,
    dropped_cookie: AtomicBool,
}

impl Traces {
    /// Creates the throttles for a number of declared values.
    pub(crate) fn new(values: usize) -> Self {
        let each = || PerValue::new(values);
        Self { invalid_defaults: each(), skipped_copies: each(), inexact_numbers: each(), ..Self::default() }
    }

    /// Traces a value of a function of `DefaultTier::with` that does not validate or encode.
    pub(crate) fn invalid_default(&self, (index, name): (ValueIndex, &'static str), flaw: &ValueError, now: Millis) {
        if let Some(left_out) = self.invalid_defaults.due(index, now) {
            let outline = flaw.summary();
            tracing::warn!(name, flaw = %outline, left_out, "a default from a function of `DefaultTier::with` is not a \
                                                             valid value, so the default tier does not answer");
            trace_cause(name, flaw);
        }
    }

    /// Traces a copy that the type of the value refuses.
    pub(crate) fn skipped_copy(
        &self,
        (index, name): (ValueIndex, &'static str),
        tier: &str,
        flaw: &ValueError,
        now: Millis,
    ) {
        if let Some(left_out) = self.skipped_copies.due(index, now) {
            tracing::warn!(name, tier, flaw = %flaw.summary(), left_out, "skipped a copy that is not a valid value");
            trace_cause(name, flaw);
        }
    }

    /// Traces a value that is not sent to pages. A page may have posted the value.
    pub(crate) fn inexact_number(&self, (index, name): (ValueIndex, &'static str), now: Millis) {
        if let Some(left_out) = self.inexact_numbers.due(index, now) {
            tracing::error!(
                name,
                left_out,
                "a value was not sent to a page, since JavaScript would round an integer beyond 2^53 - 1 in the value: \
                 encode such integers as strings"
            );
        }
    }

    /// Traces a value without room in the cookie.
    pub(crate) fn cut_cookie(&self, name: &str, now: Millis) {
        if let Some(left_out) = self.cut_cookies.due(1, now, MINUTE) {
            tracing::warn!(
                name,
                left_out,
                "the cookie has no room for all values, so the browser does not get the value written longest ago: \
                 make the values smaller"
            );
        }
    }

    /// Traces a request whose load has to wait, before a service that expects values of `resolve`.
    pub(crate) fn unresolved(&self, now: Millis) {
        if let Some(left_out) = self.unresolved.due(1, now, MINUTE) {
            tracing::warn!(
                left_out,
                "the values of `resolve` are missing from a request, since a source or store must be waited for: use \
                 `LayeredSessionLayer::preload`"
            );
        }
    }

    /// Traces a read or a watch of a type that was not declared.
    pub(crate) fn undeclared(&self, name: &'static str, now: Millis) {
        if let Some(left_out) = self.undeclared.due(1, now, MINUTE) {
            tracing::warn!(
                name,
                left_out,
                "the application read or watched a value that is not declared: add `.value::<..>()` to \
                 `Sessions::builder()`"
            );
        }
    }

    /// Traces a `Secure` cookie for a page on plain http, once: all such responses have the same cause.
    pub(crate) fn dropped_cookie(&self) {
        if !self.dropped_cookie.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "set a `Secure` cookie for a page on plain http, where browsers drop the cookie and lose the session: \
                 serve the page over https, or set `CookieTier::plain_http` for development"
            );
        }
    }

    /// Whether [`dropped_cookie`](Self::dropped_cookie) has been traced.
    pub(crate) fn has_told_dropped_cookie(&self) -> bool {
        self.dropped_cookie.load(Ordering::Relaxed)
    }
}

/// Traces the application's error at `debug` alone, since the text may quote the client.
fn trace_cause(name: &'static str, flaw: &ValueError) {
    if let ValueError::Invalid(error) = flaw {
        tracing::debug!(name, %error, "the value's `validate` refused the value");
    }
}
