//! Every answer that is no success: `{"error": sentence}` with its status.

use std::error::Error;

use axum::{
    Json,
    extract::rejection::{JsonRejection, QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::db;

/// A status and the sentence that explains it.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    sentence: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self { status, sentence: sentence.into() }
    }

    /// The request itself is wrong.
    pub(super) fn bad(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, sentence)
    }

    /// What follows the question mark cannot be read.
    pub(super) fn of_query(refused: &QueryRejection) -> Self {
        Self::bad(inner(refused))
    }

    /// The body cannot be read: it is no JSON, is not said to be, or is another object than the route takes.
    pub(super) fn of_body(refused: &JsonRejection) -> Self {
        let sentence = match refused {
            JsonRejection::MissingJsonContentType(_) => {
                "the body must be JSON: send it with the header Content-Type: application/json".to_owned()
            }
            refused => inner(refused),
        };
        Self::new(refused.status(), sentence)
    }
}

/// What was wrong, without the words around it.
fn inner(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

impl From<db::Error> for Problem {
    fn from(error: db::Error) -> Self {
        let status = match &error {
            db::Error::Unavailable(_) | db::Error::Untrusted(_) | db::Error::Locked(_) | db::Error::Conflict(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            db::Error::Refused { code, .. } => match code.as_str() {
                // What is named is not there; it is, but as it stands the wish has no place.
                "OR005" => StatusCode::NOT_FOUND,
                "OR001" | "OR002" => StatusCode::CONFLICT,
                _ => StatusCode::UNPROCESSABLE_ENTITY,
            },
            db::Error::Data { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            db::Error::Server { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let sentence = match &error {
            db::Error::Unavailable(_) | db::Error::Untrusted(_) | db::Error::Locked(_) | db::Error::Conflict(_) => {
                format!("failed to {error}")
            }
            db::Error::Refused { .. } | db::Error::Data { .. } | db::Error::Server { .. } => error.to_string(),
        };
        Self::new(status, sentence)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.sentence }))).into_response()
    }
}
