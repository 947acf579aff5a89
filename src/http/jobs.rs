//! `/api/v1/jobs`: enqueue, read and change jobs. The database's own functions decide, as they do for everybody.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{App, error::Problem, in_time};
use crate::{
    db::{
        jobs::{Change, Filter, NewJob, Page, When, Whole},
        why::Why,
    },
    model::{JobId, parse_positive_span, parse_span, unknown_agent},
};

/// Jobs of a page where nothing else is said.
const USUAL: i64 = 50;

/// Jobs of a page at the most.
const MOST: i64 = 10_000;

/// `?status=queued,held&project=…`: which page of which jobs. Everything given must hold.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Which {
    status: Option<String>,
    project: Option<String>,
    agent: Option<String>,
    created_within: Option<String>,
    created_before: Option<String>,
    finished_within: Option<String>,
    finished_before: Option<String>,
    /// How many at the most.
    limit: Option<i64>,
    /// The page after the one that ended with this job.
    before: Option<JobId>,
}

/// `?any_agent=true`: enqueue although no replica has registered the agent.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct How {
    any_agent: bool,
}

/// The body of an enqueue: the parameters of `orch.enqueue`, times and durations as the command line takes them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    agent: String,
    /// `null` is a payload as well.
    #[serde(default = "empty_object")]
    payload: Box<RawValue>,
    project: Option<String>,
    priority: Option<i16>,
    run_at: Option<String>,
    gate: Option<String>,
    limits: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    require: Option<BTreeMap<String, String>>,
    dedupe_key: Option<String>,
    on_conflict: Option<String>,
    after: Option<Vec<JobId>>,
    max_attempts: Option<i32>,
    timeout: Option<String>,
}

fn empty_object() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).expect("it is JSON")
}

/// `GET /api/v1/jobs`: a page, the newest first; `next` is what `before` takes for the page after it.
pub(super) async fn list(
    State(app): State<Arc<App>>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Page>, Problem> {
    let Query(which) = which.map_err(|refused| Problem::of_query(&refused))?;
    let limit = which.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(Problem::bad(format!("limit {limit} is not between 1 and {MOST}")));
    }
    let before = which.before;
    let filter = which.filter()?;
    Ok(Json(in_time(app.db.page_of_jobs(&filter, before, limit)).await?))
}

impl Which {
    fn filter(self) -> Result<Filter, Problem> {
        let span = |name: &str, text: Option<String>| -> Result<Option<Duration>, Problem> {
            text.map(|text| parse_span(&text).map_err(|why| said(name, &text, &why))).transpose()
        };
        let statuses = self.status.as_deref().map_or_else(
            || Ok(Vec::new()),
            |words| words.split(',').map(str::parse).collect::<Result<_, crate::model::UnknownWord>>(),
        );
        Ok(Filter {
            statuses: statuses.map_err(|unknown| Problem::bad(unknown.to_string()))?,
            project: self.project,
            agent: self.agent,
            created_within: span("created_within", self.created_within)?,
            created_before: span("created_before", self.created_before)?,
            finished_within: span("finished_within", self.finished_within)?,
            finished_before: span("finished_before", self.finished_before)?,
        })
    }
}

/// `POST /api/v1/jobs`: answers `{"id": n}`; a live job with the same `dedupe_key` may be the one that is named.
pub(super) async fn enqueue(
    State(app): State<Arc<App>>,
    how: Result<Query<How>, QueryRejection>,
    wish: Result<Json<Wish>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let Query(how) = how.map_err(|refused| Problem::of_query(&refused))?;
    let Json(wish) = wish.map_err(|refused| Problem::of_body(&refused))?;
    let job = wish.job(app.info.payload_max)?;
    if !how.any_agent {
        let known = in_time(app.db.agent_names()).await?;
        if let Some(why) = unknown_agent(&job.agent, &known) {
            let sentence = format!("{why} (?any_agent=true enqueues it all the same)");
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, sentence));
        }
    }
    let id = in_time(app.db.enqueue_job(&job)).await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))))
}

impl Wish {
    fn job(self, payload_max: u64) -> Result<NewJob, Problem> {
        if self.payload.get().len() as u64 > payload_max {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!(
                    "the payload has more than {payload_max} bytes: shorten it, pass a path in it, or raise payload_max"
                ),
            ));
        }
        let run_at = self.run_at.map(|text| text.parse::<When>().map_err(|why| said("run_at", &text, &why)));
        let timeout = self.timeout.map(|text| parse_positive_span(&text).map_err(|why| said("timeout", &text, &why)));
        let usual = NewJob::default();
        Ok(NewJob {
            agent: self.agent,
            payload: Box::<str>::from(self.payload).into(),
            project: self.project.unwrap_or(usual.project),
            priority: self.priority.unwrap_or(usual.priority),
            run_at: run_at.transpose()?,
            gate: self.gate,
            limits: self.limits.unwrap_or_default(),
            labels: self.labels,
            require: self.require,
            dedupe_key: self.dedupe_key,
            on_conflict: self.on_conflict,
            after: self.after.unwrap_or_default(),
            max_attempts: self.max_attempts,
            timeout: timeout.transpose()?,
        })
    }
}

/// `GET /api/v1/jobs/{id}`: one job, whole, with its runs.
pub(super) async fn get(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Whole>, Problem> {
    let id = named(&id)?;
    in_time(app.db.whole_job(id)).await?.map(Json).ok_or_else(|| nobody(id))
}

/// `GET /api/v1/jobs/{id}/why`: why it waits, what it does, or how it ended.
pub(super) async fn why(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Why>, Problem> {
    let id = named(&id)?;
    Ok(Json(in_time(app.db.why(id, app.info.switches.serial_gate_enabled)).await?))
}

/// `POST /api/v1/jobs/{id}/cancel`: where it stands afterwards; what runs is still running, until its owner has ended it.
pub(super) async fn cancel(app: State<Arc<App>>, id: Path<String>) -> Result<Json<Value>, Problem> {
    change(app, id, Change::Cancel).await
}

/// `POST /api/v1/jobs/{id}/retry`.
pub(super) async fn retry(app: State<Arc<App>>, id: Path<String>) -> Result<Json<Value>, Problem> {
    change(app, id, Change::Retry).await
}

/// `POST /api/v1/jobs/{id}/hold`.
pub(super) async fn hold(app: State<Arc<App>>, id: Path<String>) -> Result<Json<Value>, Problem> {
    change(app, id, Change::Hold).await
}

/// `POST /api/v1/jobs/{id}/release`.
pub(super) async fn release(app: State<Arc<App>>, id: Path<String>) -> Result<Json<Value>, Problem> {
    change(app, id, Change::Release).await
}

async fn change(State(app): State<Arc<App>>, Path(id): Path<String>, change: Change) -> Result<Json<Value>, Problem> {
    let id = named(&id)?;
    let answers = in_time(app.db.change_jobs(change, &[id])).await?;
    let (id, status) = answers.first().ok_or_else(|| nobody(id))?;
    Ok(Json(json!({ "id": id, "status": status })))
}

fn named(id: &str) -> Result<JobId, Problem> {
    id.parse().map_err(|_| Problem::bad("a job is named by its number"))
}

fn nobody(id: JobId) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is no job {id}: GET /api/v1/jobs lists them"))
}

/// What is wrong with one value.
fn said(name: &str, text: &str, why: &str) -> Problem {
    Problem::bad(format!("{name} {text:?}: {why}"))
}
