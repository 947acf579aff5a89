//! The flags that say when a schedule ticks, and what it enqueues.

use std::{collections::BTreeMap, time::Duration};

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;

use super::super::{
    context::{Context, explain},
    enqueue::{check_agent, check_payload, parse_label, read_payload},
    when::parse_positive_span,
};
use crate::{
    db::{Db, schedules::Change},
    model::schedule::{CatchUp, Overlap},
};

/// What is said of a schedule, new or not.
#[derive(Debug, Args)]
pub(super) struct Flags {
    /// When it ticks, as clocks in --tz show it: "minute hour day month weekday", e.g. "30 2 * * MON-FRI"; with a second
    /// before them, if you like; or @hourly, @daily, @weekly, @monthly, @yearly
    #[arg(long, value_name = "EXPRESSION", conflicts_with = "every")]
    cron: Option<String>,
    /// Or: so long after one another, e.g. 15m, whatever the clocks do
    #[arg(long, value_name = "DURATION", value_parser = parse_positive_span)]
    every: Option<Duration>,
    /// The RFC 3339 time that --every is counted from [default: now]
    #[arg(long, value_name = "TIME", conflicts_with = "cron")]
    anchor: Option<Timestamp>,
    /// The time zone that --cron means, e.g. Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE", conflicts_with = "every")]
    tz: Option<String>,
    /// Ticks that were missed while no replica lived: `skip`, `one` for all of them, or `all` [default: one]
    #[arg(long, value_name = "POLICY")]
    catch_up: Option<CatchUp>,
    /// With `--catch-up all`: the latest N of them [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1000))]
    catch_up_max: Option<i32>,
    /// A tick that is late by more was missed [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = parse_positive_span)]
    grace: Option<Duration>,
    /// While the job of the last tick is live: `skip` this one, `queue` it, or `replace` that job [default: skip]
    #[arg(long, value_name = "POLICY")]
    overlap: Option<Overlap>,
    /// The tenant of the queue
    #[arg(long)]
    project: Option<String>,
    /// Higher runs first, from -32768 to 32767
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i16>,
    /// Of jobs with the same gate only one runs at a time
    #[arg(long)]
    gate: Option<String>,
    /// A limit that its jobs need; may be given several times
    #[arg(long, value_name = "NAME")]
    limit: Vec<String>,
    /// A label that the replica must have, KEY=VALUE; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    require: Vec<(String, String)>,
    /// A label of its jobs, KEY=VALUE; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// Failures after which a job is failed [default: the agent's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    max_attempts: Option<i32>,
    /// After how long a run is ended [default: the agent's]
    #[arg(long, value_name = "DURATION", value_parser = parse_positive_span)]
    timeout: Option<Duration>,
    /// Tell each job its tick (RFC 3339, UTC) under this key of its payload
    #[arg(long, value_name = "KEY")]
    tick_key: Option<String>,
    /// Take it although no replica has registered the agent
    #[arg(long)]
    any_agent: bool,
}

/// What `add` has as arguments, and what only a schedule that is there has.
#[derive(Debug, Args)]
pub(super) struct Rewish {
    /// What is to run
    #[arg(long)]
    pub(super) agent: Option<String>,
    /// JSON; @FILE reads it from a file, - from standard input
    #[arg(long, allow_negative_numbers = true)]
    pub(super) payload: Option<String>,
    /// Take something away again; may be given several times
    #[arg(long, value_name = "WHAT",
          value_parser = ["gate", "limits", "labels", "require", "max_attempts", "timeout", "tick_key"])]
    pub(super) clear: Vec<String>,
}

impl Flags {
    /// Whether nothing says when it ticks.
    pub(super) const fn has_no_rhythm(&self) -> bool {
        self.cron.is_none() && self.every.is_none()
    }

    /// Refuses what would say nothing to a schedule that ticks, and catches up, so. What is said together clap has judged.
    pub(super) fn check_use(&self, by_cron: bool, catch_up: CatchUp) -> anyhow::Result<()> {
        if self.tz.is_some() && !by_cron {
            bail!("--tz goes with --cron: an interval is as long in every zone");
        }
        if self.anchor.is_some() && by_cron {
            bail!("--anchor goes with --every: a cron expression is not counted from an instant");
        }
        if self.catch_up_max.is_some() && catch_up != CatchUp::All {
            bail!("--catch-up-max goes with --catch-up all: nothing else makes up for more than one tick");
        }
        Ok(())
    }

    /// As the database takes it.
    pub(super) fn change(&self, context: &Context, payload: Option<&str>) -> anyhow::Result<Change> {
        let payload = payload.map(|payload| read_payload(payload, context.settings.payload_max)).transpose()?;
        if let Some(payload) = &payload {
            check_payload(payload)?;
        }
        let labels = |labels: &[(String, String)]| -> Option<BTreeMap<String, String>> {
            (!labels.is_empty()).then(|| labels.iter().cloned().collect())
        };
        Ok(Change {
            cron: self.cron.clone(),
            every: self.every,
            anchor_at: self.anchor,
            time_zone: self.tz.clone(),
            catch_up: self.catch_up,
            catch_up_max: self.catch_up_max,
            grace: self.grace,
            overlap: self.overlap,
            payload,
            project: self.project.clone(),
            priority: self.priority,
            gate: self.gate.clone(),
            limits: (!self.limit.is_empty()).then(|| self.limit.clone()),
            labels: labels(&self.label),
            require: labels(&self.require),
            max_attempts: self.max_attempts,
            timeout: self.timeout,
            tick_key: self.tick_key.clone(),
            ..Change::default()
        })
    }

    /// Refuses an agent that nobody serves, unless told otherwise.
    pub(super) async fn check_agent(&self, db: &Db, agent: Option<&str>) -> anyhow::Result<()> {
        match agent {
            Some(agent) if !self.any_agent => {
                check_agent(agent, &db.agent_names().await.map_err(|error| explain(&error))?)
            }
            _ => Ok(()),
        }
    }
}
