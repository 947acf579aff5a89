//! `orch pause` and `orch resume`: start nothing more of a project, of an agent, or at all, and let it go on.
//!
//! A name that nobody uses is taken, since an operator may pause what is yet to come, but said to be one.

use clap::Args;
use serde_json::json;

use super::{
    context::{Context, explain},
    exit::{Exit, remark},
    output,
    when::{parse_when, until},
};
use crate::{
    db::{Db, jobs::When, limits::Closed},
    model::meant,
};

/// What is meant: exactly one of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct What {
    /// The jobs of this project
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// The jobs of this agent
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Every job
    #[arg(long)]
    all: bool,
}

/// What to pause, until when, and why.
#[derive(Debug, Args)]
pub(super) struct PauseArgs {
    #[command(flatten)]
    what: What,
    /// Until an RFC 3339 time, or for a duration such as 10m [default: until it is resumed]
    #[arg(long, value_name = "TIME", value_parser = parse_when)]
    until: Option<When>,
    /// Why, for people
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// What to resume.
#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    what: What,
}

impl What {
    /// As the database names it, and as people do.
    fn names(&self) -> (String, String) {
        match (&self.project, &self.agent) {
            (Some(project), _) => (format!("project:{project}"), format!("project {project}")),
            (None, Some(agent)) => (format!("agent:{agent}"), format!("agent {agent}")),
            (None, None) => ("all".to_owned(), "everything".to_owned()),
        }
    }
}

pub(super) async fn pause(context: &Context, args: PauseArgs) -> anyhow::Result<Exit> {
    let db = context.db().await?;
    let (what, called) = args.what.names();
    let reason = args.reason.as_deref();
    let Closed { until: end, changed } = db.pause(&what, args.until, reason).await.map_err(|error| explain(&error))?;
    if context.json {
        output::document(&json!({ "what": what, "paused_until": end, "reason": reason, "changed": changed }))?;
    } else {
        output::line(&format!("{called} is paused {}; what runs goes on", until(end)))?;
        remark_if_nobody_uses(&db, &args.what).await?;
    }
    Ok(Exit::Done)
}

pub(super) async fn resume(context: &Context, args: ResumeArgs) -> anyhow::Result<Exit> {
    let db = context.db().await?;
    let (what, called) = args.what.names();
    let changed = db.resume(&what).await.map_err(|error| explain(&error))?;
    if context.json {
        output::document(&json!({ "what": what, "changed": changed }))?;
    } else if changed {
        output::line(&format!("{called} goes on"))?;
    } else {
        output::line(&format!("{called} was not paused"))?;
        remark_if_nobody_uses(&db, &args.what).await?;
    }
    Ok(Exit::Done)
}

/// Says that a name may be a typo.
async fn remark_if_nobody_uses(db: &Db, what: &What) -> anyhow::Result<()> {
    let (kind, name, mut known) = match (&what.project, &what.agent) {
        (Some(project), _) => {
            let projects = db.list_projects().await.map_err(|error| explain(&error))?;
            let used = projects.into_iter().filter(|known| known.queued + known.held + known.running > 0);
            ("project", project, used.map(|known| known.name).collect::<Vec<_>>())
        }
        (None, Some(agent)) => ("agent", agent, db.agent_names().await.map_err(|error| explain(&error))?),
        (None, None) => return Ok(()),
    };
    if !known.contains(name) {
        known.truncate(1000);
        let hint = if known.is_empty() { "nor any other".to_owned() } else { meant(name, &known) };
        let none = if kind == "agent" { "no replica has registered" } else { "no job waits or runs of" };
        remark(&format!("{none} {kind} {name:?}: {hint}"));
    }
    Ok(())
}
