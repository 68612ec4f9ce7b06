//! [`ValueError`]: the flaw of a value or of its bytes. The text quotes neither.

use std::fmt;

use crate::error::{BoxError, WriteError, WriteErrorKind};

/// The reason why bytes are no valid value of a type, or why a value has no valid bytes. The text continues after the
/// value's name: "`theme` …".
#[derive(Debug)]
pub(crate) enum ValueError {
    /// The bytes do not decode.
    Undecodable(serde_json::Error),
    Invalid(BoxError),
    /// The type's own `Serialize` fails, or makes no JSON: a map whose keys are no strings.
    Unencodable(serde_json::Error),
    /// The value encodes, and its JSON does not decode again.
    NotRoundTrip(serde_json::Error),
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())?;
        match self {
            Self::Invalid(error) => write!(f, ": {error}"),
            _ => Ok(()),
        }
    }
}

/// The place of an error in a JSON text. serde's own message can quote the text, which may be a secret.
fn position(error: &serde_json::Error) -> String {
    match (error.line(), error.column()) {
        // serde gives no position for the error of a type's own conversion, and at the very beginning of a text.
        (_, 0) => String::new(),
        (1, column) => format!(" (at column {column})"),
        (line, column) => format!(" (at line {line}, column {column})"),
    }
}

impl ValueError {
    /// Describes the flaw without the text of the application's own error, which may quote the value.
    pub(crate) fn summary(&self) -> String {
        match self {
            Self::Undecodable(error) => format!("is not of the declared type{}", position(error)),
            Self::Invalid(_) => "is not valid".to_owned(),
            Self::Unencodable(_) => "can't be encoded as JSON".to_owned(),
            Self::NotRoundTrip(error) => format!("encodes to JSON that does not decode again{}", position(error)),
        }
    }

    /// Returns the cause that applications may see. A decoding error is not returned: serde's message can quote a
    /// secret.
    pub(crate) fn into_source(self) -> Option<BoxError> {
        match self {
            Self::Invalid(error) => Some(error),
            Self::Unencodable(error) => Some(error.into()),
            Self::Undecodable(_) | Self::NotRoundTrip(_) => None,
        }
    }

    /// Returns the error for a write of the value.
    pub(crate) fn into_write_error(self, name: &'static str) -> WriteError {
        let error = WriteError::new(WriteErrorKind::Invalid, format!("`{name}` {self}")).named([name]);
        match self.into_source() {
            Some(source) => error.caused_by(source),
            None => error,
        }
    }
}
