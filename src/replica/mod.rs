//! A replica: claims jobs, has the spawner run them, renews its lease, settles what ended, reaps what others left.
//!
//! Owns the loops and what they share ([`Boot`]). Meets HTTP and CLI only in Postgres. Never forks, waits for or
//! signals a process (that is `shim`), never decides what follows for a job (that is `orch.settle_rule`).
//!
//! A loop's body is a `tick`, idempotent and callable by a test; a loop that errors logs once and goes on; a loop that
//! ends stops the replica with an error.

mod adopt;
mod ask;
mod boot;
mod cancel;
mod claim;
mod drain;
mod give_up;
mod horizon;
pub mod identity;
mod launch;
mod local;
mod outage;
mod outcome;
mod pulse;
mod reap;
mod recover;
mod renew;
pub mod resolve;
mod schedule;
mod settle;
mod ship;
mod slots;
mod spares;
mod stamp;
mod state_dir;
mod unending;
mod upkeep;
mod wake;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
pub use ask::MOST as MOST_RENEWALS;
pub use boot::Boot;
use outage::Outage;
pub use reap::{Done, Reaper};
pub use schedule::{Ticked, steps as schedule_steps, tick as tick_schedules};
pub use state_dir::StateDir;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    agents::Agent,
    config::Settings,
    db::Db,
    model::{ReplicaId, RunId},
    shim,
};

/// How long a stop waits for the output of runs that have ended; the next start ships what is left.
const LOGS_STORED_WITHIN: Duration = Duration::from_secs(10);

/// How a replica is told to stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Stop claiming; live runs finish within `drain_grace`, or are handed over, as the setting `drain` says.
    pub drain: CancellationToken,
    /// Do not wait for anything.
    pub now: CancellationToken,
}

/// The agents that a replica serves, exchanged whole when the file is read again.
pub type Agents = Arc<BTreeMap<String, Agent>>;

/// What is done for a claimed job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executor {
    /// The agent's command, under the spawner and a shim.
    Processes,
    /// Nothing, at once and well: `orch bench engine` measures what is left.
    Nothing,
}

/// What a replica is started with.
#[derive(Debug)]
pub struct Start {
    /// What is done for a job.
    pub executor: Executor,
    /// Every setting.
    pub settings: Settings,
    /// The pool.
    pub db: Db,
    /// A pool of [`MOST_RENEWALS`] connections, for renewals alone; all but one are for when that one is silent.
    pub renewals: Db,
    /// The state directory, locked.
    pub state_dir: StateDir,
    /// The agents, and each later reading of them.
    pub agents: watch::Receiver<Agents>,
    /// How it is stopped.
    pub shutdown: Shutdown,
    /// Why it does nothing, while it must not: see [`identity`].
    pub paused: watch::Sender<Option<String>>,
    /// Told of each renewal of the lease that the database granted.
    pub renewed: watch::Sender<()>,
    /// The runs of which processes live on after KILL.
    pub unending: watch::Sender<BTreeSet<RunId>>,
}

/// Runs a replica until it is told to stop. `ready` is called whenever it has registered and claims: once, and again
/// under each new name after it was declared dead.
///
/// # Errors
/// Where it cannot start (no database, no spawner, no lease file), or where a loop ended that must not.
pub async fn run(start: Start, mut ready: impl FnMut(ReplicaId)) -> anyhow::Result<()> {
    // Their shims have gone with the process that had them forked ahead.
    if let Err(error) = shim::protocol::SpareDir::remove_all(start.state_dir.path()) {
        warn!(%error, "failed to remove the directories that waited for runs of an earlier boot");
    }
    let spawner = shim::client::Spawner::start(
        shim::client::own_exe(),
        start.state_dir.path().to_owned(),
        start.settings.kill_grace,
    )
    .await
    .context("start the spawner")?;
    // After the spawner, so that jobs get the limit that this process was given.
    raise_descriptor_limit();
    let mut registered = false;
    let mut outage = Outage::new("register anew", Duration::from_secs(5));
    let ended = loop {
        match boot_once(&start, &spawner, &mut registered, &mut ready).await {
            Ok(Ended::Stopped) => break Ok(()),
            // Declared dead: everything of the old name is over. What goes on is a new boot with a new name.
            Ok(Ended::DeclaredDead) => info!("registering anew after having been declared dead"),
            // At the first start that is said, and that is that; who has been there waits until the database is back.
            Err(error) if registered && is_unavailable(&error) && !start.shutdown.drain.is_cancelled() => {
                tokio::select! {
                    () = tokio::time::sleep(outage.failed(&format!("{error:#}"))) => {}
                    () = start.shutdown.drain.cancelled() => break Ok(()),
                }
            }
            Err(error) => break Err(error),
        }
    };
    spawner.shutdown().await;
    ended
}

fn is_unavailable(error: &anyhow::Error) -> bool {
    error.downcast_ref::<crate::db::Error>().is_some_and(crate::db::Error::is_ambiguous)
}

/// A live run holds a socket here, and the usual soft limit of 1,024 is for programs that use `select`.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "failed to raise the limit of open files; many live runs may not fit");
    }
}

enum Ended {
    Stopped,
    DeclaredDead,
}

async fn boot_once(
    start: &Start,
    spawner: &shim::client::Spawner,
    registered: &mut bool,
    ready: &mut impl FnMut(ReplicaId),
) -> anyhow::Result<Ended> {
    let agreed =
        identity::wait_until_agreed(&start.db, start.state_dir.path(), &start.paused, &start.shutdown.drain).await?;
    if !agreed {
        return Ok(Ended::Stopped);
    }
    let (boot, queues) = Boot::new(start, spawner.clone());
    let (former, lease) = boot.register().await?;
    *registered = true;
    let mut loops = JoinSet::new();
    // Renewals begin with the registration: taking over a former boot's runs may take longer than a lease.
    let renewals = renew::spawn(&boot, start.renewals.clone(), lease).context("start the renewal thread")?;
    // The loops that settle and stamp end when the last run has ended; the others when they are told to.
    loops.spawn(settle::run(boot.clone(), queues.settlements));
    loops.spawn(stamp::run(boot.clone(), queues.stamps));
    loops.spawn(resolve::run(boot.clone(), queues.ended));
    loops.spawn(ship::run(boot.db().clone(), queues.logs));

    if let Err(error) = recover::former_boots(&boot, former).await {
        renewals.stop();
        boot.leave().await;
        return Err(error);
    }
    reap::before_the_first_claim(&boot).await;
    loops.spawn(reap::run(boot.clone()));
    loops.spawn(claim::run(boot.clone()));
    loops.spawn(wake::run(boot.clone(), start.renewals.clone()));
    loops.spawn(cancel::run(boot.clone()));
    loops.spawn(schedule::run(boot.clone()));
    loops.spawn(horizon::run(boot.clone()));
    loops.spawn(upkeep::run(boot.clone()));
    loops.spawn(spares::run(boot.clone()));
    loops.spawn(boot.clone().follow_agents());
    if !boot.is_over() {
        ready(boot.replica_id());
    }

    let broken = tokio::select! {
        // The loops end once they are told to: that is looked at first.
        biased;
        () = boot.over() => None,
        name = first_end(&mut loops) => Some(name),
    };
    boot.stop_claiming();
    boot.pulses().stop();
    drain::drain(&boot, &start.shutdown, renewals).await;
    tokio::select! {
        _ = boot.shipper().drained(LOGS_STORED_WITHIN) => {}
        () = start.shutdown.now.cancelled() => {}
        // The next boot ships what is left, and is to register soon.
        () = boot.declared_dead().cancelled() => {}
    }
    if let Some(name) = broken {
        anyhow::bail!("the {name} loop ended, which it must not; see the log above");
    }
    if boot.declared_dead().is_cancelled() && !start.shutdown.drain.is_cancelled() {
        return Ok(Ended::DeclaredDead);
    }
    Ok(Ended::Stopped)
}

/// Which loop ended although nobody told it to.
async fn first_end(loops: &mut JoinSet<&'static str>) -> String {
    match loops.join_next().await {
        Some(Ok(name)) => name.to_owned(),
        Some(Err(error)) => format!("unknown ({error})"),
        None => std::future::pending().await,
    }
}
