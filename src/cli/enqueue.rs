//! `orch enqueue`: one job into the queue, and, if asked, its end and its output.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use serde::de::IgnoredAny;
use serde_json::json;

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
    agent: String,
    /// JSON; @FILE reads it from a file, - from standard input
    #[arg(default_value = "{}", allow_negative_numbers = true)]
    payload: String,
    /// The tenant of the queue
    #[arg(long, default_value = "default")]
    project: String,
    /// Higher runs first, from -32768 to 32767
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    priority: i16,
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
    let payload = read_payload(&args.payload, context.settings.payload_max)?;
    check_payload(&payload)?;
    let db = context.db().await?;
    if !args.any_agent {
        let known = db.agent_names().await.map_err(|error| explain(&error))?;
        check_agent(&args.agent, &known)?;
    }
    let some = |labels: Vec<(String, String)>| -> Option<BTreeMap<String, String>> {
        (!labels.is_empty()).then(|| labels.into_iter().collect())
    };
    let job = NewJob {
        agent: args.agent,
        payload,
        project: args.project,
        priority: args.priority,
        run_at: args.run_at,
        gate: args.gate,
        limits: args.limit,
        labels: some(args.label),
        require: some(args.require),
        dedupe_key: args.dedupe_key,
        on_conflict: args.on_conflict,
        after: Vec::new(),
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

/// The payload's text: given, from a file or from standard input; never more than a byte above `max` is read.
fn read_payload(argument: &str, max: u64) -> anyhow::Result<String> {
    let bytes = match (argument, argument.strip_prefix('@')) {
        ("-", _) => read_at_most(io::stdin().lock(), max).context("failed to read the payload from standard input")?,
        (_, Some(path)) => File::open(path)
            .and_then(|file| read_at_most(file, max))
            .with_context(|| format!("failed to read the payload from {path}"))?,
        _ => argument.as_bytes().to_vec(),
    };
    if bytes.len() as u64 > max {
        bail!("the payload has more than {max} bytes: shorten it, pass a path in it, or raise payload_max");
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => {
            bail!("the payload is not UTF-8 at byte {}: JSON is UTF-8 throughout", error.utf8_error().valid_up_to())
        }
    }
}

fn read_at_most(source: impl Read, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether it is JSON, however deep, and without the one character that no text of Postgres can hold.
fn check_payload(text: &str) -> anyhow::Result<()> {
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        bail!("the payload is no JSON: {error}; quote strings, or pass a file as @FILE");
    }
    if has_escaped_nul(text) {
        bail!("the payload contains the character \\u0000, which Postgres cannot store: remove it");
    }
    Ok(())
}

/// Whether the JSON text has `\u0000` in a string; `\\u0000` is a backslash and five letters.
fn has_escaped_nul(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let escape = &rest[at..];
        if escape.starts_with("\\u0000") {
            return true;
        }
        // The escaped character is ASCII in any valid JSON.
        rest = escape.get(2..).unwrap_or_default();
    }
    false
}

/// Refuses an agent that nobody serves, with the nearest that somebody does.
fn check_agent(agent: &str, known: &[String]) -> anyhow::Result<()> {
    match unknown_agent(agent, known) {
        None => Ok(()),
        Some(why) => bail!("{why} (--any-agent enqueues it all the same)"),
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{check_payload, parse_label, read_payload};

    #[test]
    fn a_payload_is_json_however_deep_and_has_no_nul() {
        for good in ["{}", "null", "\"\\\\u0000\"", &format!("{}{}", "[".repeat(50_000), "]".repeat(50_000))] {
            assert!(check_payload(good).is_ok());
        }
        for bad in ["", "{", "{a: 1}", "nul", "\"\\u0000\"", "{\"a\\\\\\u0000\": 1}", "\"a\u{0}b\"", "1 2"] {
            assert!(check_payload(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_payload_may_have_as_many_bytes_as_allowed_and_no_more() {
        assert_eq!(read_payload("\"é\"", 4).unwrap(), "\"é\"");
        assert!(read_payload("\"é\"", 3).unwrap_err().to_string().contains("more than 3 bytes"));
    }

    #[test]
    fn a_label_has_a_key() {
        assert_eq!(parse_label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(parse_label("a").is_err() && parse_label("=b").is_err());
    }
}
