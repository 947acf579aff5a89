//! The command line: one file a subcommand.
//!
//! Owns flags, texts and exit codes. Data goes to stdout, everything else to stderr, and whatever stops a command is one
//! sentence that says what to do. Holds no SQL and decides nothing about jobs.

mod bench;
mod change;
mod completions;
mod config;
mod context;
mod doctor;
mod drain;
mod enqueue;
mod escape;
mod exit;
mod job;
mod jobs;
mod limits;
mod logs;
mod migrate;
mod output;
mod pause;
mod project;
mod queue;
mod replicas;
mod schedule;
mod select;
mod set;
mod up;
mod wait;
mod when;
mod why;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, error::ErrorKind};

use self::{context::Context, exit::Exit};
use crate::{
    config::{Overrides, SETTINGS},
    db::jobs::Change,
};

/// A Postgres-native orchestrator: a job is a row, a run of it is a supervised process
#[derive(Debug, Parser)]
#[command(name = "orch", version, after_help = exit::HELP, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    settings: Overrides,
    /// Data as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a replica and serve HTTP; without a database, on an embedded Postgres
    #[command(after_help = "Every setting is a flag as well: --help lists them.")]
    Up(up::UpArgs),
    /// Bring the database's schema to this version
    Migrate(migrate::MigrateArgs),
    /// Put a job into the queue
    Enqueue(enqueue::EnqueueArgs),
    /// List jobs, the newest first
    Jobs(jobs::JobsArgs),
    /// Show one job, whole
    Job(job::JobArgs),
    /// Say why a job waits, what it does, or how it ended
    Why(why::WhyArgs),
    /// Print the output of a job's run
    Logs(logs::LogsArgs),
    /// Change when, or before which others, a job is to run
    Set(set::SetArgs),
    /// Cancel jobs
    Cancel(change::ChangeArgs),
    /// Put finished jobs into the queue again
    Retry(change::ChangeArgs),
    /// Keep queued jobs from running
    Hold(change::ChangeArgs),
    /// Let held jobs run
    Release(change::ChangeArgs),
    /// Show the queue: counts, running jobs, replicas
    Queue,
    /// Named caps on what runs: list, set, close, open, drop
    #[command(subcommand)]
    Limits(limits::LimitsCommand),
    /// Start nothing more of a project, of an agent, or at all; what runs goes on
    Pause(pause::PauseArgs),
    /// Let what was paused start again
    Resume(pause::ResumeArgs),
    /// Projects: list them, and set their rules
    #[command(subcommand)]
    Project(project::ProjectCommand),
    /// List replicas: what each runs, and how long its lease still holds
    Replicas(replicas::ReplicasArgs),
    /// Tell replicas to claim nothing more; what they run goes on
    Drain(drain::DrainArgs),
    /// Enqueue again and again: by the clock, or at an interval
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// Look for whatever is wrong: invariants, guards, schema, containment, state directory
    Doctor(doctor::DoctorArgs),
    /// Look at the settings
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Measure the whole system beside what this machine can do, in a database of its own
    Bench(bench::BenchArgs),
    /// Print a shell's completions
    Completions(completions::CompletionsArgs),
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => exit::report(&error),
    }
}

/// The command line; every setting is a flag of every command, and `-h` keeps silent about them.
fn command() -> clap::Command {
    Cli::command().mut_args(|argument| {
        let is_setting = SETTINGS.iter().any(|setting| argument.get_id() == setting.name);
        if is_setting { argument.global(true).hide_short_help(true) } else { argument }
    })
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    let context = || Context::load(&cli.settings, cli.json);
    match cli.command {
        Command::Completions(args) => completions::run(&args),
        Command::Config(command) => config::run(&cli.settings, cli.json, &command),
        Command::Up(args) => up::run(context()?, args),
        Command::Migrate(args) => block_on(migrate::run(&context()?, args)),
        Command::Enqueue(args) => block_on(enqueue::run(&context()?, args)),
        Command::Jobs(args) => block_on(jobs::run(&context()?, args)),
        Command::Job(args) => block_on(job::run(&context()?, args)),
        Command::Why(args) => block_on(why::run(&context()?, args)),
        Command::Logs(args) => block_on(logs::run(&context()?, args)),
        Command::Set(args) => block_on(set::run(&context()?, args)),
        Command::Cancel(args) => block_on(change::run(&context()?, Change::Cancel, args)),
        Command::Retry(args) => block_on(change::run(&context()?, Change::Retry, args)),
        Command::Hold(args) => block_on(change::run(&context()?, Change::Hold, args)),
        Command::Release(args) => block_on(change::run(&context()?, Change::Release, args)),
        Command::Queue => block_on(queue::run(&context()?)),
        Command::Limits(command) => block_on(limits::run(&context()?, command)),
        Command::Pause(args) => block_on(pause::pause(&context()?, args)),
        Command::Resume(args) => block_on(pause::resume(&context()?, args)),
        Command::Project(command) => block_on(project::run(&context()?, command)),
        Command::Replicas(args) => block_on(replicas::run(&context()?, args)),
        Command::Drain(args) => block_on(drain::run(&context()?, args)),
        Command::Schedule(command) => block_on(schedule::run(&context()?, command)),
        Command::Doctor(args) => block_on(doctor::run(&context()?, args)),
        Command::Bench(args) => block_on(bench::run(&context()?, args)),
    }
}

/// Runs a command that talks to the database: on this thread alone, a replica as well. What it does are short steps between
/// waits, and handing each to another thread costs more than the step; what may block has threads of its own.
fn block_on(command: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

/// What clap says, in one sentence; help and version as they are.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return match output::write(error.render().to_string().as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => exit::report(&error),
        };
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        eprint!("{}", error.render());
        return ExitCode::from(2);
    }
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n").map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
    let what = paragraphs.next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(&what).to_owned();
    let (tips, rest): (Vec<_>, Vec<_>) = paragraphs.partition(|part| part.starts_with("tip: "));
    let tail = if tips.is_empty() {
        let usage = rest.iter().find_map(|part| part.strip_prefix("Usage: "));
        usage.map_or_else(|| "--help says more".to_owned(), |usage| format!("usage: {usage}; --help says more"))
    } else {
        tips.iter().map(|tip| tip.trim_start_matches("tip: ")).collect::<Vec<_>>().join("; ")
    };
    exit::say(&format!("{what}; {tail}"));
    ExitCode::from(2)
}
