//! [`Failure`]: a failed operation of SQLite, and the store's error.

use std::{fmt, sync::Arc};

use rusqlite::ErrorCode;

use crate::tier::{StoreError, StoreErrorKind};

/// A failed operation. Clones go to all jobs that the failure concerns.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    Sqlite(Arc<rusqlite::Error>),
    /// A row has a number or bytes that this version of the crate never writes, in the named column.
    Undecodable(&'static str),
}

/// A row that this version of the crate can't read.
#[derive(Debug)]
struct UndecodableRow(&'static str);

impl Failure {
    fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code(),
            Self::Undecodable(_) => None,
        }
    }

    fn kind(&self) -> StoreErrorKind {
        match self.code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreErrorKind::Timeout,
            Some(ErrorCode::DiskFull) => StoreErrorKind::Full,
            Some(ErrorCode::ReadOnly) => StoreErrorKind::ReadOnly,
            _ => StoreErrorKind::Other,
        }
    }

    /// Whether a failed `COMMIT` has surely not written the transaction. After another cause, such as a failed fsync,
    /// the whole transaction may be in the log, and count after a crash.
    pub(super) fn rules_out_commit(&self) -> bool {
        self.kind() != StoreErrorKind::Other
    }

    /// Returns the error of an operation whose outcome is not known.
    pub(super) fn unknown(self) -> StoreError {
        let kind = self.kind();
        match self {
            Self::Sqlite(error) => StoreError::new(kind, error),
            Self::Undecodable(column) => StoreError::new(kind, UndecodableRow(column)),
        }
    }

    /// Returns the error of an operation that has surely changed nothing.
    pub(super) fn not_applied(self) -> StoreError {
        self.unknown().not_applied()
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(Arc::new(error))
    }
}

impl fmt::Display for UndecodableRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the record has an unknown `{}`: was it written by a later version of this crate?", self.0)
    }
}

impl std::error::Error for UndecodableRow {}
