//! `orch limits`: named caps on what runs.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    context::{Context, explain},
    exit::{Exit, remark},
    output::{self, NONE, cut},
    when::{parse_when, until},
};
use crate::db::{
    Db,
    jobs::When,
    limits::{Closed, Limit},
};

/// What to do with limits.
#[derive(Debug, Subcommand)]
pub(super) enum LimitsCommand {
    /// List limits: what is used of each, and until when it is closed
    List,
    /// Make a limit, or change its bound
    Set(SetArgs),
    /// Let no job start that needs it; afterwards one job probes, then the rest follows
    Close(CloseArgs),
    /// Open a closed limit at once, without a probe
    Open(NameArgs),
    /// Remove a limit that nobody needs any more
    Drop(NameArgs),
}

/// Which limit, and its bound.
#[derive(Debug, Args)]
pub(super) struct SetArgs {
    /// As jobs name it; also project:NAME, agent:NAME or all
    #[arg(value_name = "NAME")]
    limit: String,
    /// How many jobs that need it run at the same time, or `none` for any number
    #[arg(value_name = "MAX_RUNNING", value_parser = parse_bound, allow_negative_numbers = true)]
    max_running: Bound,
}

/// Which limit, until when, and why.
#[derive(Debug, Args)]
pub(super) struct CloseArgs {
    /// As jobs name it
    #[arg(value_name = "NAME")]
    limit: String,
    /// Until an RFC 3339 time, or for a duration such as 10m [default: until it is opened]
    #[arg(long, value_name = "TIME", value_parser = parse_when)]
    until: Option<When>,
    /// Why, for people
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Which limit.
#[derive(Debug, Args)]
pub(super) struct NameArgs {
    /// As jobs name it
    #[arg(value_name = "NAME")]
    limit: String,
}

/// A bound, or none. (A type of its own: to clap an `Option` is an argument that may be left out.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bound(Option<i32>);

fn parse_bound(text: &str) -> Result<Bound, String> {
    match text.parse() {
        _ if text == "none" => Ok(Bound(None)),
        Ok(max @ 1..) => Ok(Bound(Some(max))),
        Ok(_) => Err("it must be at least 1; to let nothing run, close the limit".to_owned()),
        Err(_) => Err("it is neither a number from 1 to 2147483647 nor `none`".to_owned()),
    }
}

pub(super) async fn run(context: &Context, command: LimitsCommand) -> anyhow::Result<Exit> {
    let db = context.db().await?;
    let (sentence, answer) = match command {
        LimitsCommand::List => return list(context, &db).await,
        LimitsCommand::Set(SetArgs { limit: name, max_running: Bound(max) }) => {
            let changed = db.set_limit(&name, max).await.map_err(|error| explain(&error))?;
            let bound = max.map_or_else(|| "any number".to_owned(), |max| format!("at most {max}"));
            let sentence = format!("limit {name}: {bound} at the same time");
            (sentence, json!({ "name": name, "max_running": max, "changed": changed }))
        }
        LimitsCommand::Close(CloseArgs { limit: name, until: end, reason }) => {
            let closed = db.close_limit(&name, end, reason.as_deref()).await.map_err(|error| explain(&error))?;
            let Closed { until: end, changed } = closed;
            let sentence = format!("limit {name} is closed {}; what runs goes on", until(end));
            (sentence, json!({ "name": name, "closed_until": end, "reason": reason, "changed": changed }))
        }
        LimitsCommand::Open(NameArgs { limit: name }) => {
            let changed = db.open_limit(&name).await.map_err(|error| explain(&error))?;
            let sentence =
                if changed { format!("limit {name} is open") } else { format!("limit {name} was not closed") };
            (sentence, json!({ "name": name, "changed": changed }))
        }
        LimitsCommand::Drop(NameArgs { limit: name }) => {
            let changed = db.drop_limit(&name).await.map_err(|error| explain(&error))?;
            (format!("limit {name} is dropped"), json!({ "name": name, "changed": changed }))
        }
    };
    if context.json {
        output::document(&answer)?;
    } else {
        output::line(&sentence)?;
    }
    Ok(Exit::Done)
}

async fn list(context: &Context, db: &Db) -> anyhow::Result<Exit> {
    let limits = db.list_limits().await.map_err(|error| explain(&error))?;
    if context.json {
        output::document(&json!({ "limits": limits }))?;
        return Ok(Exit::Done);
    }
    if limits.is_empty() {
        remark("there is no limit: `orch limits set NAME 2` makes one");
        return Ok(Exit::Done);
    }
    output::table(["LIMIT", "RUNNING", "ROOM", "STATE", "REASON"], limits.iter().map(row))?;
    Ok(Exit::Done)
}

fn row(limit: &Limit) -> [String; 5] {
    let bound = |bound: Option<i32>| bound.map_or_else(|| NONE.to_owned(), |bound| bound.to_string());
    [
        limit.name.clone(),
        format!("{}/{}", limit.running, bound(limit.max_running)),
        bound(limit.room.map(|room| room.max(0))),
        match limit.closed_until {
            Some(end) => format!("closed {}", until(end)),
            None if limit.probing => "one job probes".to_owned(),
            None => "open".to_owned(),
        },
        limit.reason.as_deref().map_or_else(|| NONE.to_owned(), |reason| cut(reason, 60)),
    ]
}

#[cfg(test)]
mod tests {
    use super::{Bound, parse_bound};

    #[test]
    fn a_bound_is_a_number_from_1_or_none() {
        assert_eq!(parse_bound("none"), Ok(Bound(None)));
        assert_eq!(parse_bound("7"), Ok(Bound(Some(7))));
        for bad in ["0", "-1", "2147483648", "", "two", "1.5"] {
            assert!(parse_bound(bad).is_err(), "{bad}");
        }
    }
}
