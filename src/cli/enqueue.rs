//! `orch enqueue`: one job into the queue and, if asked, its end and its output; or the jobs of a file, all or none.

mod bulk;
mod ids;
mod lines;
mod payload;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{anyhow, bail};
use clap::Args;
use serde_json::json;

pub(super) use payload::{check_payload, read_payload};

use super::{
    context::{Context, explain},
    exit::{Exit, remark},
    logs::Follower,
    output, wait,
    when::{parse_positive_span, parse_when},
};
use crate::{
    db::{
        self,
        jobs::{NewJob, When},
    },
    model::{JobId, unknown_agent},
};

/// What to enqueue.
#[derive(Debug, Args)]
pub(super) struct EnqueueArgs {
    /// What is to run: an agent of some replica's orch.toml
    #[arg(required_unless_present = "from")]
    agent: Option<String>,
    /// JSON; @FILE reads it from a file, - from standard input
    #[arg(default_value = "{}", allow_negative_numbers = true)]
    payload: String,
    /// Enqueue the jobs of a file, or of - for standard input, all or none of them: each line a JSON object whose keys are
    /// the parameters of orch.enqueue. AGENT and flags are for lines that do not say otherwise
    #[arg(long, value_name = "FILE", conflicts_with_all = ["payload", "dedupe_key", "on_conflict", "wait", "follow"])]
    from: Option<PathBuf>,
    /// The tenant of the queue [default: default]
    #[arg(long)]
    project: Option<String>,
    /// Higher runs first, from -32768 to 32767 [default: 0]
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i16>,
    /// Not before: an RFC 3339 time, or a duration from now such as 10m
    #[arg(long, value_name = "TIME", value_parser = parse_when)]
    run_at: Option<When>,
    /// Of jobs with the same gate only one runs at a time
    #[arg(long)]
    gate: Option<String>,
    /// At most one live job has this key
    #[arg(long, value_name = "KEY")]
    dedupe_key: Option<String>,
    /// What to do about such a job: `return` its number, `replace` its payload, or `refuse` [default: return]
    #[arg(long, value_name = "WORD", requires = "dedupe_key", value_parser = ["return", "replace", "refuse"])]
    on_conflict: Option<String>,
    /// A limit that it needs, beside those of its agent; may be given several times
    #[arg(long, value_name = "NAME")]
    limit: Vec<String>,
    /// A label that its replica must have, KEY=VALUE; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    require: Vec<(String, String)>,
    /// Jobs that must succeed first; if one fails or is cancelled, so is this one
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    after: Vec<JobId>,
    /// A label, KEY=VALUE; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// Failures after which it is failed [default: the agent's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    max_attempts: Option<i32>,
    /// After how long a run is ended [default: the agent's]
    #[arg(long, value_name = "DURATION", value_parser = parse_positive_span)]
    timeout: Option<Duration>,
    /// Enqueue although no replica has registered the agent
    #[arg(long)]
    any_agent: bool,
    /// Wait for the job's end, and exit as it did
    #[arg(long)]
    wait: bool,
    /// Wait as with --wait, and print the output of its runs
    #[arg(long)]
    follow: bool,
}

pub(super) async fn run(context: &Context, args: EnqueueArgs) -> anyhow::Result<Exit> {
    if let Some(file) = &args.from {
        return bulk::run(context, &args, file).await;
    }
    let payload = read_payload(&args.payload, context.settings.payload_max)?;
    check_payload(&payload)?;
    let db = context.db().await?;
    let agent = args.agent.unwrap_or_default();
    if !args.any_agent {
        let known = db.agent_names().await.map_err(|error| explain(&error))?;
        check_agent(&agent, &known)?;
    }
    let some = |labels: Vec<(String, String)>| -> Option<BTreeMap<String, String>> {
        (!labels.is_empty()).then(|| labels.into_iter().collect())
    };
    let job = NewJob {
        agent,
        payload,
        project: args.project.unwrap_or_else(|| "default".to_owned()),
        priority: args.priority.unwrap_or_default(),
        run_at: args.run_at,
        gate: args.gate,
        limits: args.limit,
        labels: some(args.label),
        require: some(args.require),
        dedupe_key: args.dedupe_key,
        on_conflict: args.on_conflict,
        after: args.after,
        max_attempts: args.max_attempts,
        timeout: args.timeout,
    };
    let id = db.enqueue_job(&job).await.map_err(|error| refusal(&error))?;
    // With --follow, stdout belongs to the job's output.
    if args.follow {
        remark(&format!("job {id}"));
    } else {
        show(context, id)?;
    }
    let mut follower = args.follow.then(|| Follower::new(context));
    if args.wait || args.follow { wait::for_end(&db, id, follower.as_mut()).await } else { Ok(Exit::Done) }
}

/// The payload is the one part of a wish that only the database can judge whole: JSON allows what jsonb cannot hold.
fn refusal(error: &db::Error) -> anyhow::Error {
    match error {
        db::Error::Data { code, message, .. } if matches!(code.get(..2), Some("22" | "54")) => {
            anyhow!("the database cannot hold the payload: {message}; nothing was enqueued")
        }
        error => explain(error),
    }
}

fn show(context: &Context, id: JobId) -> anyhow::Result<()> {
    if context.json { output::document(&json!({ "id": id })) } else { output::line(&id.to_string()) }
}

/// Refuses an agent that nobody serves, with the nearest that somebody does.
pub(super) fn check_agent(agent: &str, known: &[String]) -> anyhow::Result<()> {
    match unknown_agent(agent, known) {
        None => Ok(()),
        Some(why) => bail!("{why} (--any-agent enqueues it all the same)"),
    }
}

pub(super) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_label;

    #[test]
    fn a_label_has_a_key() {
        assert_eq!(parse_label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(parse_label("a").is_err() && parse_label("=b").is_err());
    }
}
