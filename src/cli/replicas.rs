//! `orch replicas`: who is there, what each runs, and how long its lease still holds.

use clap::Args;
use serde_json::json;

use super::{
    context::{Context, explain},
    exit::{Exit, remark},
    output::{self, NONE, cut},
    when::short,
};
use crate::db::replicas::ReplicaLine;

/// More than anybody reads; the live ones come first.
const MOST: i64 = 1000;

/// Which replicas.
#[derive(Debug, Args)]
pub(super) struct ReplicasArgs {
    /// Also those that are dead or have left
    #[arg(long)]
    all: bool,
}

pub(super) async fn run(context: &Context, args: ReplicasArgs) -> anyhow::Result<Exit> {
    let db = context.db().await?;
    let replicas = db.list_replicas(args.all, MOST).await.map_err(|error| explain(&error))?;
    if context.json {
        output::document(&json!({ "replicas": replicas }))?;
        return Ok(Exit::Done);
    }
    if replicas.is_empty() {
        remark("no replica is live: start one with `orch up`");
        return Ok(Exit::Done);
    }
    let header = ["NAME", "REPLICA", "HOST", "STATE", "RUNS", "LEASE LEFT", "STARTED", "VERSION", "AGENTS"];
    output::table(header, replicas.iter().map(row))?;
    if replicas.len() as i64 == MOST {
        remark("there may be more: see the table orch.replicas");
    }
    Ok(Exit::Done)
}

fn row(replica: &ReplicaLine) -> [String; 9] {
    let agents = replica.agents.join(",");
    [
        replica.name.clone(),
        replica.replica_id.to_string(),
        replica.host.clone(),
        if replica.is_live() && replica.draining { "draining".to_owned() } else { replica.state.clone() },
        format!("{}/{}", replica.open_runs, replica.max_concurrency),
        lease(replica),
        replica.started_at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        replica.version.clone().unwrap_or_else(|| NONE.to_owned()),
        if agents.is_empty() { NONE.to_owned() } else { cut(&agents, 40) },
    ]
}

fn lease(replica: &ReplicaLine) -> String {
    match replica.lease_left_seconds {
        _ if !replica.is_live() => NONE.to_owned(),
        left if left < 0.0 => format!("over for {}", short(-left)),
        left => short(left),
    }
}
