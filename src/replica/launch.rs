//! One run, from the claim to the answered settle: prepare, launch, watch, judge, settle. Its log and its directory are
//! `ship`'s then.
//!
//! Owns the slot until the settle is answered, since capacity is the count of running rows.

use std::{io, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tracing::{error, warn};

use super::{
    Boot, Executor, give_up,
    local::Order,
    outcome,
    settle::Settled,
    ship,
    slots::Slot,
    spares::{self, Spare},
};
use crate::{
    agents::{self, Agent, JobFacts},
    db::runs::{Claimed, Ending, Owned, Process},
    failpoint::{self, Point},
    model::{ClosedBy, Outcome, RunId},
    shim::{
        client::{Begun, Ended, NotStarted, RunHandle},
        protocol::{RunDir, Spec, Started, Stdin},
    },
};

/// Looks after a claimed run until it is answered for.
pub(super) async fn run(
    boot: Arc<Boot>,
    claimed: Claimed,
    orders: watch::Receiver<Option<Order>>,
    slot: Slot,
    spare: Option<Spare>,
) {
    let run_id = claimed.owned.run_id();
    let dir = RunDir::new(&boot.settings().state_dir, run_id);
    match boot.executor() {
        Executor::Processes => {
            ship::begin(&boot, run_id);
            let (ending, handle) = execute(&boot, &claimed, &dir, orders, spare).await;
            finish(&boot, claimed.owned, ending, handle, dir).await;
        }
        Executor::Nothing => {
            boot.local().settling(run_id);
            let ending = Ending { error: None, ..Ending::bare(Outcome::Succeeded, ClosedBy::Owner, "") };
            super::settle::settle(&boot, claimed.owned.ended(ending)).await;
            boot.local().end(run_id);
        }
    }
    drop(slot);
    boot.claim_nudge.notify_one();
}

/// Settles a run that has ended, until the database has answered, then hands its directory on, with the output in it.
pub(super) async fn finish(boot: &Boot, owned: Owned, ending: Ending, handle: Option<RunHandle>, dir: RunDir) {
    let (run_id, job_id) = (owned.run_id(), owned.job_id());
    let (outcome, error) = (ending.outcome, ending.error.clone());
    boot.local().settling(run_id);
    let settled = super::settle::settle(boot, owned.ended(ending)).await;
    settled.say(job_id, run_id, outcome, error.as_deref());
    if let Some(handle) = handle {
        handle.stored().await;
    }
    boot.local().end(run_id);
    ship::finish(boot, dir);
    if settled == Settled::NotOurs {
        // An operator may have taken its job, which waits for the word that its process is gone.
        boot.renew_nudge.notify_one();
    }
}

async fn execute(
    boot: &Boot,
    claimed: &Claimed,
    dir: &RunDir,
    mut orders: watch::Receiver<Option<Order>>,
    spare: Option<Spare>,
) -> (Ending, Option<RunHandle>) {
    let catalogue = boot.agents();
    let unused = |spare: Option<Spare>| spares::discard(spare.into_iter().collect());
    let Some(agent) = catalogue.get(&claimed.agent) else {
        unused(spare);
        let error = format!("agent {:?} is no longer in this replica's orch.toml", claimed.agent);
        return (Ending::bare(Outcome::Interrupted, ClosedBy::Owner, error), None);
    };
    let spec = match spec(boot, claimed, agent, dir) {
        Ok(spec) => spec,
        Err(error) => {
            unused(spare);
            return (Ending::bare(Outcome::SpawnFailed, ClosedBy::Owner, error), None);
        }
    };
    let prepared = {
        let (dir, payload, orders) = (dir.clone(), claimed.payload.clone(), orders.clone());
        blocking(move || prepare(&dir, &spec, payload.as_bytes(), &orders, spare)).await
    };
    let launched = match prepared {
        Ok(Prepared::Begun(begun)) => begun.handle().map_err(|error| format!("failed to listen to the shim: {error}")),
        Ok(Prepared::Ready) => boot.spawner().launch(dir).await.map_err(|error| error.to_string()),
        Ok(Prepared::Stopped(order)) => return (stopped_before_start(order), None),
        Err(error) => Err(format!("failed to prepare the run's directory: {error}")),
    };
    match launched {
        Ok(handle) => {
            let watched =
                Watched { owned: &claimed.owned, dir, success_codes: &agent.success_codes, is_adopted: false };
            watch_run(boot, watched, handle, &mut orders).await
        }
        Err(message) => {
            boot.spawn_trouble.trouble(&message);
            (Ending::bare(Outcome::Interrupted, ClosedBy::Owner, message), None)
        }
    }
}

/// How far a start has come.
enum Prepared {
    /// A spare shim was told to begin.
    Begun(Begun),
    /// The directory stands.
    Ready,
    /// It must not start any more.
    Stopped(Order),
}

/// Makes the run's directory with everything that a shim needs, and has a spare shim begin, if there is one.
fn prepare(
    dir: &RunDir,
    spec: &Spec,
    payload: &[u8],
    orders: &watch::Receiver<Option<Order>>,
    spare: Option<Spare>,
) -> io::Result<Prepared> {
    // Whatever is wrong with a spare one, it is gone then, and says nothing about the run.
    let shim = spare.and_then(|spare| spare.become_run(dir, spec, payload).ok());
    if shim.is_none() {
        dir.create(spec, payload)?;
    }
    failpoint::hit(Point::SpecWritten);
    if let Some(order) = *orders.borrow() {
        return Ok(Prepared::Stopped(order));
    }
    let begun = shim.map(|(shim, word)| shim.begin(dir, &word)).transpose()?.flatten();
    // One that is gone has not begun.
    Ok(begun.map_or(Prepared::Ready, Prepared::Begun))
}

fn stopped_before_start(order: Order) -> Ending {
    match order {
        Order::Cancel => Ending::bare(Outcome::Cancelled, ClosedBy::Owner, "cancelled before it started"),
        _ => Ending::bare(Outcome::Interrupted, ClosedBy::Owner, "stopped before it started"),
    }
}

/// What the shim is to start; an error is the job's own and would be the same next time.
fn spec(boot: &Boot, claimed: &Claimed, agent: &Agent, dir: &RunDir) -> Result<Spec, String> {
    let payload: serde_json::Value = serde_json::from_str(&claimed.payload)
        .map_err(|error| format!("the payload cannot be read (JSON nested deeper than 127 levels?): {error}"))?;
    let facts = JobFacts {
        job_id: claimed.owned.job_id(),
        run_id: claimed.owned.run_id(),
        attempt: claimed.attempt,
        project: claimed.project.clone(),
        payload_file: dir.payload_path(),
        result_file: dir.result_path(),
        previous_error: claimed.previous_error.clone(),
    };
    let command = agents::render(agent, &facts, &payload, &|name| std::env::var_os(name))
        .map_err(|error| format!("failed to make the command of agent {:?}: {error}", agent.name))?;
    Ok(Spec {
        run_id: claimed.owned.run_id(),
        job_id: claimed.owned.job_id(),
        replica_id: claimed.owned.replica_id(),
        argv: command.argv,
        env: command.env,
        redact: agent.redact.clone(),
        cwd: command.cwd,
        user: agent.user.clone(),
        identity: None,
        stdin: match agent.stdin {
            agents::Stdin::Payload => Stdin::Payload,
            agents::Stdin::Null => Stdin::Null,
        },
        timeout_ms: claimed.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        silence_timeout_ms: agent.silence_timeout.map(|silence| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
        kill_grace_ms: boot.settings().kill_grace.as_millis() as u64,
        containment: agent.containment,
        memory_max: agent.memory_max,
        pids_max: agent.pids_max,
        log_cap: boot.settings().log_cap,
    })
}

/// A run that is watched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watched<'a> {
    pub owned: &'a Owned,
    pub dir: &'a RunDir,
    /// The exit statuses of its agent that mean success.
    pub success_codes: &'a [i32],
    /// Whether another boot started it: when it began is then known to the database alone.
    pub is_adopted: bool,
}

/// Watches a run until nothing of it is left.
pub(super) async fn watch_run(
    boot: &Boot,
    run: Watched<'_>,
    mut handle: RunHandle,
    orders: &mut watch::Receiver<Option<Order>>,
) -> (Ending, Option<RunHandle>) {
    let run_id = run.owned.run_id();
    let grace = boot.settings().kill_grace;
    orders.mark_changed();
    ship::follow(boot, run_id, handle.output());
    let mut began: Option<(Started, Instant)> = None;
    let mut failed = false;
    let mut stuck = handle.unending();
    stuck.mark_changed();
    let (mut is_stuck, mut unending) = (false, None);
    let ended = loop {
        tokio::select! {
            event = next_event(&mut handle, began.is_none() && !failed) => match event {
                Event::Ended(ended) => break ended,
                Event::Started(Ok(started)) => {
                    failpoint::hit(Point::ShimStarted);
                    boot.spawn_trouble.over();
                    for remark in &started.remarks {
                        warn!(%run_id, remark, "the run could not be held as its agent asks");
                    }
                    // A stamp that is lost with its loop is made up for by the settle.
                    let _ = boot.stamps().send((run.owned.job_id(), run_id, process(&started)));
                    began = Some((started, Instant::now()));
                    boot.local().begun(run_id);
                }
                Event::Started(Err(error)) => {
                    if let NotStarted::Failed(error) = error && error.temporary {
                        boot.spawn_trouble.trouble(&error.message);
                    }
                    failed = true;
                }
            },
            Ok(()) = stuck.changed(), if !is_stuck => {
                is_stuck = *stuck.borrow_and_update();
                unending = if is_stuck { boot.unending(run_id) } else { None };
            }
            changed = orders.changed() => {
                if changed.is_err() {
                    // Nobody can order anything any more: the process is about to end.
                    std::future::pending::<()>().await;
                }
                let order = *orders.borrow_and_update();
                if let Some(order) = order {
                    handle.terminate(order.grace(grace), order.reason()).await;
                }
            }
        }
    };
    let lasted = began.as_ref().filter(|_| !run.is_adopted).map(|(_, at)| at.elapsed());
    let started = began.map(|(started, _)| started);
    let outcome = match ended {
        Ended::Exit(mut exit) if exit.processes_left > 0 => {
            // A sweep gave up. The shim goes once it hears this; then the tree is swept until it is empty, and only then
            // is the run settled.
            handle.stored().await;
            let remains = give_up::make_sure_nothing_lives(boot, run.dir, Duration::ZERO).await;
            exit.processes_killed += remains.killed;
            (outcome::judge(&exit, run.success_codes, ClosedBy::Owner, lasted), None)
        }
        Ended::Exit(exit) => (outcome::judge(&exit, run.success_codes, ClosedBy::Owner, lasted), Some(handle)),
        Ended::ShimGone => (after_shim(boot, run, started, lasted).await, None),
    };
    drop(unending);
    outcome
}

enum Event {
    Started(Result<Started, NotStarted>),
    Ended(Ended),
}

/// What a run's handle tells next; may be dropped and asked again.
async fn next_event(handle: &mut RunHandle, starting: bool) -> Event {
    if starting { Event::Started(handle.started().await) } else { Event::Ended(handle.ended().await) }
}

pub(super) fn process(started: &Started) -> Process {
    Process { pid: started.pid, pid_started: started.pid_started, containment: started.containment }
}

/// The shim went without a word. Its lock says when it is gone; then its tree is swept and found empty, and only then
/// is there anything to say about the run.
async fn after_shim(boot: &Boot, run: Watched<'_>, started: Option<Started>, lasted: Option<Duration>) -> Ending {
    let run_id = run.owned.run_id();
    let remains = give_up::make_sure_nothing_lives(boot, run.dir, Duration::ZERO).await;
    if let Some(exit) = remains.exit {
        return outcome::judge(&exit, run.success_codes, ClosedBy::Owner, lasted);
    }
    if started.is_none() && remains.killed == 0 && remains.never_began {
        let message = "the spawner could not begin the run";
        boot.spawn_trouble.trouble(message);
        return Ending::bare(Outcome::Interrupted, ClosedBy::Owner, message);
    }
    error!(%run_id, killed = remains.killed, "the run's shim died; what it held is ended");
    let error = format!("the run's shim died; {} of its processes were ended", remains.killed);
    let mut ending = Ending::bare(Outcome::Lost, ClosedBy::Owner, error);
    ending.process = started.as_ref().map(process);
    ending.lasted = lasted;
    ending
}

/// File work beside the loops.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// For logs: the run's directory could not be asked.
pub(super) fn log_dir_error(run_id: RunId, error: &io::Error) {
    warn!(%run_id, %error, "failed to look into the run's directory; trying again");
}
