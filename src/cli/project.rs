//! `orch project`: the tenants of the queue, and their rules.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    context::{Context, explain},
    exit::{Exit, remark},
    output::{self, NONE},
    when::until,
};
use crate::db::projects::Project;

/// What to do with projects.
#[derive(Debug, Subcommand)]
pub(super) enum ProjectCommand {
    /// List projects: rules, jobs that wait or run, pauses
    List,
    /// Give a project rules of its own
    Set(SetArgs),
}

/// Which project, and its rules.
#[derive(Debug, Args)]
pub(super) struct SetArgs {
    /// As jobs name it
    #[arg(value_name = "NAME")]
    project: String,
    /// Its share of the slots, against the weights of the others: 1 to 1000000
    #[arg(long, value_name = "N", allow_negative_numbers = true, required_unless_present = "serial")]
    weight: Option<i32>,
    /// Whether its jobs run one at a time, where they name no gate of their own; from the next that is enqueued on
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    serial: Option<bool>,
}

pub(super) async fn run(context: &Context, command: ProjectCommand) -> anyhow::Result<Exit> {
    let db = context.db().await?;
    let args = match command {
        ProjectCommand::Set(args) => Some(args),
        ProjectCommand::List => None,
    };
    let mut changed = false;
    if let Some(args) = &args {
        changed = db.set_project(&args.project, args.weight, args.serial).await.map_err(|error| explain(&error))?;
    }
    let projects = db.list_projects().await.map_err(|error| explain(&error))?;
    match args {
        None => list(context, &projects)?,
        Some(args) => {
            let rules = projects.iter().find(|project| project.name == args.project);
            let (weight, serial) = rules.map_or((1, false), |project| (project.weight, project.serial));
            if context.json {
                output::document(
                    &json!({ "name": args.project, "weight": weight, "serial": serial, "changed": changed }),
                )?;
            } else {
                let serial = if serial { "one job at a time" } else { "not serial" };
                output::line(&format!("project {}: weight {weight}, {serial}", args.project))?;
            }
        }
    }
    Ok(Exit::Done)
}

fn list(context: &Context, projects: &[Project]) -> anyhow::Result<()> {
    if context.json {
        return output::document(&json!({ "projects": projects }));
    }
    if projects.is_empty() {
        remark("no project has jobs that wait or run, nor rules of its own");
        return Ok(());
    }
    let header = ["PROJECT", "WEIGHT", "SERIAL", "QUEUED", "HELD", "RUNNING", "NOTE"];
    let rows = projects.iter().map(|project| {
        [
            project.name.clone(),
            project.weight.to_string(),
            if project.serial { "yes".to_owned() } else { NONE.to_owned() },
            project.queued.to_string(),
            project.held.to_string(),
            project.running.to_string(),
            match (project.paused_until, &project.reason) {
                (None, _) => NONE.to_owned(),
                (Some(end), None) => format!("paused {}", until(end)),
                (Some(end), Some(reason)) => format!("paused {}: {reason}", until(end)),
            },
        ]
    });
    output::table(header, rows)
}
