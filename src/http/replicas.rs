//! `/api/v1/replicas`: who is there, and an operator's word that one claims nothing more.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{App, error::Problem, in_time};
use crate::model::ReplicaId;

/// More than anybody reads; the live ones come first.
const MOST: i64 = 1000;

/// `?all=true`: also those that are dead or have left.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    #[serde(default)]
    all: bool,
}

/// `?off=true`: claim again.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    #[serde(default)]
    off: bool,
}

/// `GET /api/v1/replicas`.
pub(super) async fn list(
    State(app): State<Arc<App>>,
    which: Result<Query<Which>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(which) = which.map_err(|_| Problem::bad("the only parameter is all, which is true or false"))?;
    let replicas = in_time(app.db.list_replicas(which.all, MOST)).await?;
    Ok(Json(json!({ "replicas": replicas })))
}

/// `POST /api/v1/replicas/{id}/drain`: it claims nothing more; what it runs goes on.
pub(super) async fn drain(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    wish: Result<Query<Wish>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(wish) = wish.map_err(|_| Problem::bad("the only parameter is off, which is true or false"))?;
    let id: ReplicaId =
        id.parse().map_err(|_| Problem::bad("a replica is named by its replica_id, which is a UUID"))?;
    let answers = in_time(app.db.set_draining(&[id], !wish.off)).await?;
    let Some((_, changed)) = answers.first() else {
        let sentence = format!("no live replica has the replica_id {id}: GET /api/v1/replicas lists them");
        return Err(Problem::new(StatusCode::NOT_FOUND, sentence));
    };
    Ok(Json(json!({ "replica_id": id, "draining": !wish.off, "changed": changed })))
}
