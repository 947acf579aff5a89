//! Every answer that is no success: `{"error": sentence}` with its status.

use axum::{
    Json,
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
}

impl From<db::Error> for Problem {
    fn from(error: db::Error) -> Self {
        let status = match &error {
            db::Error::Unavailable(_) | db::Error::Untrusted(_) | db::Error::Locked(_) | db::Error::Conflict(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            db::Error::Refused { .. } | db::Error::Data { .. } => StatusCode::UNPROCESSABLE_ENTITY,
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
