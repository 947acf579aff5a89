//! `orch why ID`: a sentence that says why a job waits, what it does, or how it ended; then the facts behind it.

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use super::{
    context::{Context, explain},
    exit::Exit,
    output::{self, NONE, cut},
    when::{end_of, short},
};
use crate::{
    db::{Error, why::Why},
    model::JobId,
};

/// Which job.
#[derive(Debug, Args)]
pub(super) struct WhyArgs {
    /// The job's number
    id: JobId,
}

pub(super) async fn run(context: &Context, args: WhyArgs) -> anyhow::Result<Exit> {
    let db = context.db().await?;
    let why = match db.why(args.id, context.settings.serial_gate_enabled).await {
        Ok(why) => why,
        Err(Error::Refused { code, .. }) if code == "OR005" => {
            bail!("there is no job {}: `orch jobs` lists them", args.id)
        }
        Err(error) => return Err(explain(&error)),
    };
    if context.json {
        output::document(&why)?;
    } else {
        show(&why)?;
    }
    Ok(Exit::Done)
}

fn show(why: &Why) -> anyhow::Result<()> {
    let facts: Value = serde_json::from_str(why.detail.get())?;
    output::line(&why.sentence)?;
    output::line("")?;
    for (name, value) in [
        ("reason", Some(why.reason.clone())),
        ("since", why.since.map(|at| at.to_string())),
        ("until", why.until.map(end_of)),
        ("heard", heard(&facts)),
        ("unblock", why.unblock.clone()),
    ] {
        if let Some(value) = value {
            output::line(&format!("{name:<10}{value}"))?;
        }
    }
    let held =
        [&facts["limit"]["held_by"], &facts["gate"]["held_by"], &facts["kept_by"], &facts["old_run"], &facts["run"]];
    let holders: Vec<&Value> = held
        .into_iter()
        .flat_map(|found| match found {
            Value::Array(several) => several.iter().collect(),
            Value::Object(_) => vec![found],
            _ => Vec::new(),
        })
        .collect();
    table(["JOB", "RUN", "PROJECT", "AGENT", "PID", "HOST", "REPLICA", "SINCE"], holders.into_iter().map(holder))?;
    table(
        ["BEFORE IT", "PROJECT", "AGENT", "WAITS FOR", "DUE"],
        ["before_it", "others_first"].into_iter().flat_map(|key| rows(&facts[key])).map(before),
    )?;
    table(["REPLICA", "HOST", "RUNNING", "SERVES", "LABELS", "NOTE"], rows(&facts["replicas"]).map(replica))?;
    table(["ATTEMPT", "RUN", "REPLICA", "OUTCOME", "EXIT", "TOOK", "ERROR"], rows(&facts["runs"]).map(attempt))
}

/// A table after an empty line; nothing at all without rows.
fn table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> anyhow::Result<()> {
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return Ok(());
    }
    output::line("")?;
    output::table(header, rows)
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A text as it is, a number as digits, anything that is not there as a dash.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => NONE.to_owned(),
        Value::String(text) => cut(text, 60),
        other => other.to_string(),
    }
}

fn holder(run: &Value) -> [String; 8] {
    let since = time(&run["since"]).map_or_else(|| NONE.to_owned(), |at| at.to_string());
    let [job, id, project, agent, pid, host, replica] =
        ["job_id", "run_id", "project", "agent", "pid", "host", "replica"].map(|key| cell(&run[key]));
    [job, id, project, agent, pid, host, replica, since]
}

/// A job that comes first.
fn before(job: &Value) -> [String; 5] {
    let due = time(&job["due"]).map_or_else(|| NONE.to_owned(), |at| at.to_string());
    let [id, project, agent, reason] = ["job_id", "project", "agent", "reason"].map(|key| cell(&job[key]));
    [id, project, agent, reason, due]
}

/// When the last output of what runs arrived; of what does not run there is none.
fn heard(facts: &Value) -> Option<String> {
    facts.get("run")?;
    Some(time(&facts["last_output_at"]).map_or_else(|| "never".to_owned(), |at| at.to_string()))
}

/// A time as the database has it in JSON.
fn time(value: &Value) -> Option<Timestamp> {
    value.as_str().and_then(|text| text.parse().ok())
}

fn replica(replica: &Value) -> [String; 6] {
    let is = |key: &str| replica[key].as_bool().unwrap_or_default();
    [
        cell(&replica["replica"]),
        cell(&replica["host"]),
        format!("{}/{}", cell(&replica["running"]), cell(&replica["max_concurrency"])),
        if is("serves_agent") { "yes" } else { "no" }.to_owned(),
        cell(&replica["labels"]),
        match (is("draining"), is("serves_agent") && !is("has_labels")) {
            (true, _) => "draining".to_owned(),
            (false, true) => "has not the labels".to_owned(),
            (false, false) => NONE.to_owned(),
        },
    ]
}

fn attempt(run: &Value) -> [String; 7] {
    let took = time(&run["claimed_at"])
        .zip(time(&run["ended_at"]))
        .map(|(from, to)| short(to.duration_since(from).as_secs_f64()));
    [
        cell(&run["attempt"]),
        cell(&run["run_id"]),
        cell(if run["replica"].is_null() { &run["host"] } else { &run["replica"] }),
        run["outcome"].as_str().unwrap_or("open").to_owned(),
        if run["signal"].is_null() { cell(&run["exit_code"]) } else { format!("signal {}", run["signal"]) },
        took.unwrap_or_else(|| NONE.to_owned()),
        cell(&run["error"]),
    ]
}
