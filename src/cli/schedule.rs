//! `orch schedule`: wishes that are enqueued again and again.
//!
//! Owns its flags and texts. What an expression means is `model::schedule`'s; which tick is next is a replica's to say, and
//! what is printed here as the next ticks is what this version would say.

mod flags;
mod show;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::json;

use self::flags::{Flags, Rewish};
use super::{
    context::{Context, explain},
    exit::{Exit, remark},
    output,
};
use crate::{
    db::{Db, schedules::Change},
    model::{
        meant,
        schedule::{CatchUp, Fault},
    },
};

/// More than anybody reads.
const MOST: i64 = 10_000;

#[derive(Debug, Subcommand)]
pub(super) enum ScheduleCommand {
    /// Add a schedule
    Add(AddArgs),
    /// Change a schedule; what is not said stays
    Set(SetArgs),
    /// List schedules
    List,
    /// Show one schedule, whole, with its next ticks
    Show(NameArgs),
    /// Keep a schedule from ticking
    Pause(NameArgs),
    /// Let a schedule tick again, from now on
    Resume(NameArgs),
    /// Enqueue a job of a schedule now; its ticks stay as they are
    Run(NameArgs),
    /// Remove a schedule; its jobs stay
    Remove(NameArgs),
}

/// A new schedule.
#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// What it is called
    name: String,
    /// What is to run: an agent of some replica's orch.toml
    agent: String,
    /// JSON; @FILE reads it from a file, - from standard input [default: {}]
    #[arg(allow_negative_numbers = true)]
    payload: Option<String>,
    #[command(flatten)]
    flags: Flags,
    /// It does not tick until it is resumed
    #[arg(long)]
    paused: bool,
}

/// Changes of a schedule.
#[derive(Debug, Args)]
pub(super) struct SetArgs {
    /// Which
    name: String,
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    rewish: Rewish,
}

/// Which schedule.
#[derive(Debug, Args)]
pub(super) struct NameArgs {
    /// Its name
    name: String,
}

pub(super) async fn run(context: &Context, command: ScheduleCommand) -> anyhow::Result<Exit> {
    match command {
        ScheduleCommand::Add(args) => add(context, args).await,
        ScheduleCommand::Set(args) => set(context, args).await,
        ScheduleCommand::List => show::list(context).await,
        ScheduleCommand::Show(args) => show::one(context, &context.db().await?, &args.name).await,
        ScheduleCommand::Pause(args) => pause(context, &args.name, true).await,
        ScheduleCommand::Resume(args) => pause(context, &args.name, false).await,
        ScheduleCommand::Run(args) => run_now(context, &args.name).await,
        ScheduleCommand::Remove(args) => remove(context, &args.name).await,
    }
}

async fn add(context: &Context, args: AddArgs) -> anyhow::Result<Exit> {
    if args.flags.has_no_rhythm() {
        bail!("nothing says when it ticks: give --cron or --every");
    }
    let mut new = args.flags.change(context, args.payload.as_deref())?;
    args.flags.check_use(new.cron.is_some(), new.catch_up.unwrap_or(CatchUp::One))?;
    new.agent = Some(args.agent);
    new.paused = args.paused.then_some(true);
    let db = context.db().await?;
    args.flags.check_agent(&db, new.agent.as_deref()).await?;
    check_rhythm(&db, &new).await?;
    if !db.add_schedule(&args.name, &new).await.map_err(|error| explain(&error))? {
        bail!("there is a schedule {:?} already: `orch schedule set` changes it", args.name);
    }
    show::one(context, &db, &args.name).await
}

async fn set(context: &Context, args: SetArgs) -> anyhow::Result<Exit> {
    let mut change = args.flags.change(context, args.rewish.payload.as_deref())?;
    change.agent = args.rewish.agent;
    change.clear = args.rewish.clear;
    let db = context.db().await?;
    args.flags.check_agent(&db, change.agent.as_deref()).await?;
    let Some(is) = show::find(&db, &args.name).await? else { return unknown(&db, &args.name).await };
    // What is checked is what it becomes.
    let mut becomes = change.clone();
    becomes.time_zone.get_or_insert(is.time_zone);
    if becomes.every.is_none() && becomes.cron.is_none() {
        becomes.cron = is.cron;
    }
    args.flags.check_use(becomes.cron.is_some(), becomes.catch_up.unwrap_or(is.catch_up))?;
    check_rhythm(&db, &becomes).await?;
    if !db.set_schedule(&args.name, &change).await.map_err(|error| explain(&error))? {
        return unknown(&db, &args.name).await;
    }
    show::one(context, &db, &args.name).await
}

/// What the database cannot judge whole: an expression, and whether there is ever a tick of it. An interval it judges itself.
async fn check_rhythm(db: &Db, schedule: &Change) -> anyhow::Result<()> {
    let Some(cron) = &schedule.cron else { return Ok(()) };
    let zone = schedule.time_zone.as_deref().unwrap_or("UTC");
    let rhythm = crate::model::schedule::Rhythm::cron(cron, zone)?;
    let now = db.clock().await.map_err(|error| explain(&error))?;
    if rhythm.next_after(now).is_none() {
        return Err(Fault(format!("cron {cron:?}: it never ticks: there is no such day, or it is past")).into());
    }
    Ok(())
}

async fn pause(context: &Context, name: &str, paused: bool) -> anyhow::Result<Exit> {
    let changed = context.db().await?.pause_schedule(name, paused).await.map_err(|error| explain(&error))?;
    if context.json {
        output::document(&json!({ "name": name, "paused": paused, "changed": changed }))?;
    } else {
        let state = if paused { "paused" } else { "resumed" };
        output::line(&format!("schedule {name} {}{state}", if changed { "" } else { "was already " }))?;
    }
    Ok(Exit::Done)
}

async fn run_now(context: &Context, name: &str) -> anyhow::Result<Exit> {
    let id = context.db().await?.run_schedule(name).await.map_err(|error| explain(&error))?;
    if context.json {
        output::document(&json!({ "id": id }))?;
    } else {
        output::line(&id.to_string())?;
    }
    Ok(Exit::Done)
}

async fn remove(context: &Context, name: &str) -> anyhow::Result<Exit> {
    let db = context.db().await?;
    if !db.remove_schedule(name).await.map_err(|error| explain(&error))? {
        return unknown(&db, name).await;
    }
    if context.json {
        output::document(&json!({ "removed": name }))?;
    } else {
        remark(&format!("removed schedule {name}; its jobs stay"));
    }
    Ok(Exit::Done)
}

/// There is no schedule of this name.
async fn unknown(db: &Db, name: &str) -> anyhow::Result<Exit> {
    let known = db.schedule_names().await.map_err(|error| explain(&error))?;
    if known.is_empty() {
        bail!("there is no schedule {name:?}, nor any other: `orch schedule add` adds one");
    }
    bail!("there is no schedule {name:?}: {}", meant(name, &known))
}
