//! tonic: the errors as statuses.

use std::{error::Error, sync::Arc};

use ::tonic::Status;

use crate::error::{MissingSession, MissingSessionKind, WriteError, WriteErrorKind};

/// Becomes `internal` without a layer, and `unavailable` if the store does not answer.
impl From<MissingSession> for Status {
    fn from(error: MissingSession) -> Self {
        let status = match error.kind() {
            MissingSessionKind::NoLayer => Self::internal(error.to_string()),
            MissingSessionKind::Unavailable => Self::unavailable(error.to_string()),
        };
        caused_by(status, error)
    }
}

/// Becomes `aborted` if the session has ended or other writers were faster, `invalid_argument` for an invalid value,
/// `resource_exhausted` for a write that the browser can't hold, `unavailable` if the store does not answer, and
/// `internal` for mistakes of the application.
impl From<WriteError> for Status {
    fn from(error: WriteError) -> Self {
        let message = error.to_string();
        let status = match error.kind() {
            WriteErrorKind::Closed | WriteErrorKind::Contended => Self::aborted(message),
            WriteErrorKind::Invalid => Self::invalid_argument(message),
            WriteErrorKind::TooLarge => Self::resource_exhausted(message),
            WriteErrorKind::Unavailable => Self::unavailable(message),
            WriteErrorKind::HeadSent | WriteErrorKind::NoMemory | WriteErrorKind::Undeclared => Self::internal(message),
        };
        caused_by(status, error)
    }
}

fn caused_by(mut status: Status, error: impl Error + Send + Sync + 'static) -> Status {
    status.set_source(Arc::new(error));
    status
}
