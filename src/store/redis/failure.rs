//! The failures of the server and of the connection, as the kinds of [`StoreError`].

use redis::{ErrorKind, RedisError};

use crate::error::{StoreError, StoreErrorKind};

/// A failure, without the password: a proxy may quote the handshake.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    kind: StoreErrorKind,
    may_be_applied: bool,
    text: String,
}

/// The codes with which the server refuses a call before the call's first command, beside the codes with a kind of
/// their own. A type of the key other than a hash stops a script at the first read.
const REFUSALS: &[&str] = &[
    "ASK",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "LSFORMAT",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOPERM",
    "NOREPLICAS",
    "NOSCRIPT",
    "TRYAGAIN",
    "WRONGTYPE",
];

impl Failure {
    pub(super) fn new(error: &RedisError, password: Option<&str>) -> Self {
        let text = match (error.code(), error.detail()) {
            (Some(code), Some(detail)) => format!("{code} {detail}"),
            _ => error.to_string(),
        };
        let text = match password {
            Some(password) if !password.is_empty() => text.replace(password, "[password]"),
            _ => text,
        };
        let kind = kind(error);
        let is_refused = error.code().is_some_and(|code| is_refusal(code, &text))
            || matches!(error.kind(), ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig);
        Self { kind, may_be_applied: !is_refused, text }
    }

    /// Returns the failure of an attempt to connect: no call was sent.
    pub(super) fn of_attempt(error: &RedisError, password: Option<&str>) -> Self {
        let Self { kind, text, .. } = Self::new(error, password);
        let kind = if kind == StoreErrorKind::Timeout { StoreErrorKind::Link } else { kind };
        Self { kind, may_be_applied: false, text: format!("no connection: {text}") }
    }

    pub(super) fn error(self) -> StoreError {
        let Self { kind, may_be_applied, text } = self;
        let error = StoreError::new(kind, text);
        if may_be_applied { error } else { error.not_applied() }
    }
}

fn kind(error: &RedisError) -> StoreErrorKind {
    match error.code() {
        Some("OOM") => StoreErrorKind::Full,
        Some("READONLY") => StoreErrorKind::ReadOnly,
        // BUSY: a script of another program runs for too long, and the server refuses calls meanwhile.
        Some("BUSY" | "LOADING" | "MASTERDOWN") => StoreErrorKind::Loading,
        Some(_) => StoreErrorKind::Other,
        None if error.is_timeout() => StoreErrorKind::Timeout,
        None if error.is_io_error() || error.is_unrecoverable_error() => StoreErrorKind::Link,
        None => StoreErrorKind::Other,
    }
}

/// Whether the server has refused a call whole. An ACL may also stop a script at a later command, after a write: such an
/// error names the script.
fn is_refusal(code: &str, text: &str) -> bool {
    REFUSALS.contains(&code) && !(code == "NOPERM" && text.contains("script:"))
}

#[cfg(test)]
mod tests {
    use std::io;

    use redis::parse_redis_value;

    use super::*;

    /// The failure that the server's line of an error becomes.
    fn of_line(line: &str) -> StoreError {
        let value = parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        Failure::new(&value.extract_error().unwrap_err(), Some("hunter2")).error()
    }

    #[test]
    fn server_errors_have_their_kinds() {
        use StoreErrorKind::{Full, Loading, Other, ReadOnly};
        let lines = [
            ("OOM command not allowed when used memory > 'maxmemory'.", Full, false),
            ("READONLY You can't write against a read only replica.", ReadOnly, false),
            ("LOADING Redis is loading the dataset in memory", Loading, false),
            ("BUSY Redis is busy running a script.", Loading, false),
            ("MOVED 3999 127.0.0.1:6381", Other, false),
            ("NOREPLICAS Not enough good replicas to write.", Other, false),
            ("NOPERM this user has no permissions to run the 'evalsha' command", Other, false),
            ("NOPERM this user has no permissions script: 0a1b, on @user_script:9.", Other, true),
            ("ERR unknown command script: 0a1b, on @user_script:9.", Other, true),
        ];
        for (line, kind, may_be_applied) in lines {
            let error = of_line(line);
            assert_eq!((error.kind(), error.may_be_applied()), (kind, may_be_applied), "{line}");
        }
    }

    #[test]
    fn lost_connections_have_unknown_outcomes() {
        let kinds = [
            (io::ErrorKind::TimedOut, StoreErrorKind::Timeout),
            (io::ErrorKind::BrokenPipe, StoreErrorKind::Link),
            (io::ErrorKind::ConnectionReset, StoreErrorKind::Link),
        ];
        for (io, kind) in kinds {
            let failed = RedisError::from(io::Error::from(io));
            let error = Failure::new(&failed, None).error();
            assert_eq!((error.kind(), error.may_be_applied()), (kind, true), "{io}");
            let error = Failure::of_attempt(&failed, None).error();
            assert_eq!((error.kind(), error.may_be_applied()), (StoreErrorKind::Link, false), "{io}");
        }
    }

    #[test]
    fn failure_hides_the_password() {
        let error = of_line("ERR unknown command 'AUTH', with args beginning with: 'ada' 'hunter2'");
        let text = std::error::Error::source(&error).unwrap().to_string();
        assert!(text.contains("[password]") && !text.contains("hunter2"), "{text}");
    }
}
