//! `/healthz`: the process answers. `/readyz`: it can do its work.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};

use super::{App, error::Problem};
use crate::db::{
    queue::Standing,
    schema::{self, SchemaState},
};

/// How long `/readyz` waits for the database: less than those who ask wait for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// `GET /healthz`: this process serves; nothing else is looked at, so that no restart is asked for in vain.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// `GET /readyz`: the database answers, its schema is this binary's, and the replica of this process holds its lease, is
/// not paused and takes jobs.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    match tokio::time::timeout(PATIENCE, obstacle(&app)).await {
        Ok(Ok(None)) => Ok(Json(json!({ "status": "ready" }))),
        Ok(Ok(Some(why))) => Err(not_ready(why)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(not_ready(format!("the database did not answer within {} s", PATIENCE.as_secs()))),
    }
}

/// What keeps the process from its work, if anything does.
async fn obstacle(app: &App) -> Result<Option<String>, Problem> {
    if let Some(why) = &*app.info.paused.borrow() {
        return Ok(Some(format!("paused: {why}")));
    }
    if app.info.stopping.is_cancelled() {
        return Ok(Some("draining: the process was told to stop".to_owned()));
    }
    match schema::check(&app.db).await? {
        SchemaState::Current => {}
        state => return Ok(Some(state.to_string())),
    }
    let Some(replica) = *app.info.replica.borrow() else {
        return Ok(Some("the replica has not registered yet".to_owned()));
    };
    Ok(match app.db.standing(replica).await? {
        Some(Standing { lease_left_seconds: left, .. }) if left <= 0.0 => {
            Some(format!("the lease ran out {:.1} s ago: the replica could not renew it", -left))
        }
        Some(Standing { draining: true, .. }) => Some(
            "draining: an operator told the replica to claim nothing more (`orch drain --off` ends that)".to_owned(),
        ),
        Some(_) => None,
        None => Some("the replica is not live: it was declared dead, or has left".to_owned()),
    })
}

fn not_ready(why: String) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, why)
}
