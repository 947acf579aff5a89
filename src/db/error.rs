//! What can go wrong in the database, classified by SQLSTATE and constraint name, never by message text.

use tokio_postgres::error::{DbError, SqlState};

/// The SQLSTATE class of the refusals that orch's own functions and triggers raise. Each refusal says what and why.
pub const REFUSAL_CLASS: &str = "OR";

/// A failed statement.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database could not be reached, or the connection broke: whether the statement took effect is unknown.
    #[error("reach the database: {0}")]
    Unavailable(String),
    /// The database could not be reached in the way that was asked for: TLS said no. Nothing was sent. The sentence says
    /// what to do.
    #[error("reach the database over TLS: {0}")]
    Untrusted(String),
    /// Orch's own functions and triggers said no (SQLSTATE `OR…`); the message says what to do.
    #[error("{message}{}", hint.as_ref().map(|h| format!(" ({h})")).unwrap_or_default())]
    Refused {
        /// The SQLSTATE.
        code: String,
        /// The sentence.
        message: String,
        /// What to do about it, if the message does not say.
        hint: Option<String>,
    },
    /// The data was not acceptable: SQLSTATE classes 22 and 23, and what the server's limits refuse (54), which a row
    /// is to blame for.
    #[error("{message}{}", constraint.as_ref().map(|c| format!(" (constraint {c})")).unwrap_or_default())]
    Data {
        /// The SQLSTATE.
        code: String,
        /// The server's message.
        message: String,
        /// The constraint that refused it, if one did.
        constraint: Option<String>,
    },
    /// A deadlock or serialization failure: the statement had no effect and may be sent again.
    #[error("settle a conflict with another transaction: {0}")]
    Conflict(String),
    /// A lock was not to be had in time (a migration, mostly): no effect.
    #[error("get a lock in time: {0}")]
    Locked(String),
    /// Anything else the server said: a missing table, a missing privilege, a broken statement.
    #[error("{message} (SQLSTATE {code})")]
    Server {
        /// The SQLSTATE.
        code: String,
        /// The server's message.
        message: String,
    },
}

impl Error {
    /// Whether the statement may have taken effect although it failed.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Whether one bad row can be to blame, so that a batch is worth repeating a row at a time.
    #[must_use]
    pub fn is_about_data(&self) -> bool {
        matches!(self, Self::Data { .. } | Self::Refused { .. })
    }

    /// The name of the constraint that refused the data, if one did.
    #[must_use]
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Self::Data { constraint, .. } => constraint.as_deref(),
            _ => None,
        }
    }

    /// The SQLSTATE, if the server answered with one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } | Self::Data { code, .. } | Self::Server { code, .. } => Some(code),
            _ => None,
        }
    }

    fn from_db(db: &DbError) -> Self {
        let code = db.code().code();
        let message = db.message().to_owned();
        match code.get(..2) {
            Some(REFUSAL_CLASS) => Self::Refused { code: code.to_owned(), message, hint: db.hint().map(str::to_owned) },
            // No transaction ids are left. The code is the one of rows that are too large, for which no other row suffers; the
            // place in the server is what tells them apart in every language.
            Some("54") if matches!(db.routine(), Some("GetNewTransactionId" | "GetNewMultiXactId")) => {
                Self::Unavailable(with_hint(db))
            }
            Some("22" | "23" | "54") => {
                Self::Data { code: code.to_owned(), message, constraint: db.constraint().map(str::to_owned) }
            }
            // 57014 is a cancelled statement (statement_timeout): it had no effect, but says nothing about a row.
            Some("08" | "53") => Self::Unavailable(with_hint(db)),
            // A standby, or a primary that was made read-only: it had no effect here, and another server takes it. Never
            // the fault of the data.
            Some("25") if code == SqlState::READ_ONLY_SQL_TRANSACTION.code() => Self::Unavailable(format!(
                "{message}: this server takes no writes, name the primary, or all hosts with target_session_attrs=read-write"
            )),
            Some("57") if code != SqlState::QUERY_CANCELED.code() => Self::Unavailable(message),
            Some("40") => Self::Conflict(message),
            Some("55") if code == SqlState::LOCK_NOT_AVAILABLE.code() => Self::Locked(message),
            _ => Self::Server { code: code.to_owned(), message },
        }
    }
}

/// What the server says, with what it advises, in one line.
fn with_hint(db: &DbError) -> String {
    let hint = db.hint().map(|hint| format!(" ({})", hint.split_whitespace().collect::<Vec<_>>().join(" ")));
    format!("{}{}", db.message(), hint.unwrap_or_default())
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&tokio_postgres::Error> for Error {
    fn from(error: &tokio_postgres::Error) -> Self {
        use std::error::Error as _;
        if let Some(db) = error.as_db_error() {
            return Self::from_db(db);
        }
        let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        // A parameter that cannot be encoded, or a column of another type, never reached the server or came back
        // whole: the statement and the code disagree.
        let text = format!("{error}{cause}");
        if error.is_closed() || error.source().and_then(|source| source.downcast_ref::<std::io::Error>()).is_some() {
            Self::Unavailable(text)
        } else {
            Self::Server { code: "?????".to_owned(), message: text }
        }
    }
}

impl From<deadpool::managed::PoolError<Self>> for Error {
    fn from(error: deadpool::managed::PoolError<Self>) -> Self {
        match error {
            deadpool::managed::PoolError::Backend(error) => error,
            other => Self::Unavailable(other.to_string()),
        }
    }
}
