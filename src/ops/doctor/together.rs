//! The database and this machine together: whether they belong together, whether their clocks agree, and what of the runs
//! either has and the other lacks.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    time::Duration,
};

use jiff::Timestamp;

use super::{Finding, Verdict, live};
use crate::{
    db::{self, Db, doctor::DirectoryRun, identity::KnownRun},
    model::{ReplicaId, RunId},
    replica::{StateDir, identity},
    shim::protocol::RunDir,
};

/// A difference of the clocks that somebody should know of. Seconds.
const NOTABLE_DRIFT: f64 = 1.0;

/// What is on its way (a run between its claim and its start, or its end and its settle) is not what it looks like: what
/// is found is looked at again after this.
const MOMENT: Duration = Duration::from_secs(2);

/// Names that are shown of many.
const SHOWN: usize = 5;

/// Looks at both. `reap_grace` is G. Blocks for some milliseconds, and for a moment where something is found.
pub async fn examine_together(db: &Db, state_dir: &Path, reap_grace: Duration) -> anyhow::Result<Vec<Finding>> {
    let mut findings = vec![fingerprint(db, state_dir).await?, clock(db, reap_grace).await?];
    let mut found = examine_runs(db, state_dir).await?;
    if found.iter().any(|finding| finding.verdict != Verdict::Ok) {
        tokio::time::sleep(MOMENT).await;
        found = examine_runs(db, state_dir).await?;
    }
    findings.extend(found);
    Ok(findings)
}

async fn fingerprint(db: &Db, state_dir: &Path) -> anyhow::Result<Finding> {
    let look = identity::look(db, state_dir).await?;
    Ok(match look.obstacle() {
        Some(why) => Finding::new("fingerprint", Verdict::Wrong, format!("a replica here is paused: {why}")),
        None if look.is_whole() => Finding::new("fingerprint", Verdict::Ok, look.database()),
        None => Finding::new(
            "fingerprint",
            Verdict::Note,
            format!(
                "{}: this user may not execute pg_control_system(), so that databases are told apart by their oid alone",
                look.database()
            ),
        ),
    })
}

/// The clock of the database against this machine's, by the quickest of three answers.
async fn clock(db: &Db, reap_grace: Duration) -> db::Result<Finding> {
    let mut best: Option<(f64, f64)> = None;
    for _ in 0..3 {
        let before = Timestamp::now();
        let there = db.clock().await?;
        let after = Timestamp::now();
        let half = after.duration_since(before).as_secs_f64().abs() / 2.0;
        let drift = there.duration_since(before).as_secs_f64() - half;
        if best.is_none_or(|(_, error)| half < error) {
            best = Some((drift, half));
        }
    }
    let (drift, error) = best.unwrap_or_default();
    Ok(judge_clock(drift, error, reap_grace.as_secs_f64()))
}

/// `drift`: by how much the database is ahead, give or take `error`. Seconds.
fn judge_clock(drift: f64, error: f64, reap_grace: f64) -> Finding {
    let certain = drift.abs() - error;
    let sign = if drift < 0.0 { "behind" } else { "ahead of" };
    let shown = format!("the database is {:.3} s {sign} this machine, give or take {error:.3} s", drift.abs());
    let harmless = "no lease or fence depends on it, but times that people read and compare do";
    if certain > reap_grace {
        let advice = "one of the two is set wrong, and if it is the database's and it is put right at once, leases look \
                      expired: synchronize both slowly (chrony, NTP)";
        Finding::new("clock", Verdict::Wrong, format!("{shown}: {harmless}; {advice}"))
    } else if certain > NOTABLE_DRIFT {
        Finding::new("clock", Verdict::Note, format!("{shown}: {harmless}; synchronize both"))
    } else {
        Finding::new("clock", Verdict::Ok, shown)
    }
}

/// What the database and this directory know of each other's runs, and what lives here although it is over.
async fn examine_runs(db: &Db, state_dir: &Path) -> anyhow::Result<Vec<Finding>> {
    // The machine first, the database after it: a run that is over there was over before, and should be here.
    let locks = live::Locks::read()?;
    let processes = live::processes()?;
    let dirs = RunDir::list(state_dir)?;
    let mut asked: Vec<RunId> = dirs.iter().map(RunDir::run_id).chain(processes.keys().copied()).collect();
    asked.sort_unstable();
    asked.dedup();
    let known = db.known_runs(&asked).await?;
    let mut findings: Vec<Finding> = strangers(&dirs, &known).into_iter().collect();
    findings.extend(survivors(&processes, &known));
    findings.extend(unending(&processes, &known));
    if let Some(identity) = StateDir::identity_of(state_dir)? {
        let served = locks.hold(&state_dir.join("lock"));
        let runs = db.directory_runs(&identity.directory).await?;
        let mut lost = Vec::new();
        for run in &runs {
            let dir = RunDir::new(state_dir, run.run_id);
            let evidence = identity.is_evidence_for(&run.state_dir_id, &run.boot_id);
            if !evidence || !locks.hold(&dir.lock_path()) {
                lost.push((run, dir.exit_path().exists(), evidence));
            }
        }
        findings.extend(lost.iter().map(|(run, ended, evidence)| without_shim(run, *ended, *evidence, served)));
        if findings.is_empty() {
            findings.push(Finding::new(
                "runs",
                Verdict::Ok,
                format!("{} open here, each held by its shim", runs.len()),
            ));
        }
        findings.extend(leases(db, state_dir).await?);
    }
    Ok(findings)
}

/// Directories of runs that the database never heard of.
fn strangers(dirs: &[RunDir], known: &[KnownRun]) -> Option<Finding> {
    let known: HashSet<RunId> = known.iter().map(|run| run.run_id).collect();
    let unknown: Vec<String> =
        dirs.iter().map(RunDir::run_id).filter(|run| !known.contains(run)).map(|run| run.to_string()).collect();
    (!unknown.is_empty()).then(|| {
        Finding::new(
            "runs",
            Verdict::Note,
            format!(
                "{} directories of runs that the database does not know ({}): the next start here ends and removes them",
                unknown.len(),
                some_of(&unknown)
            ),
        )
    })
}

/// Runs that are over in the database while a process of theirs lives here.
fn survivors(processes: &BTreeMap<RunId, Vec<i32>>, known: &[KnownRun]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for run in known.iter().filter(|run| !run.open) {
        // Looked at again: what ended while the database was asked is no survivor.
        let pids = processes.get(&run.run_id).map(Vec::as_slice).unwrap_or_default();
        let alive: Vec<String> =
            pids.iter().filter(|pid| live::run_of(**pid) == Some(run.run_id)).map(ToString::to_string).collect();
        if alive.is_empty() {
            continue;
        }
        let what =
            format!("run {} of job {} is over, and of its processes live {}", run.run_id, run.job_id, some_of(&alive));
        findings.push(if run.ending {
            let soon = "an operator took the job, which waits until they are gone";
            Finding::new("processes", Verdict::Note, format!("{what}: {soon}"))
        } else {
            let advice = "no KILL ends them, or no replica runs here: look at their state (`ps -o pid,stat,wchan,args`), and \
                          start the replica of this machine";
            Finding::new("processes", Verdict::Wrong, format!("{what}: {advice}"))
        });
    }
    findings
}

/// Open runs with processes that were killed and live on. One that is only slow has ended by the second look.
fn unending(processes: &BTreeMap<RunId, Vec<i32>>, known: &[KnownRun]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for run in known.iter().filter(|run| run.open) {
        let pids = processes.get(&run.run_id).map(Vec::as_slice).unwrap_or_default();
        let alive: Vec<String> =
            pids.iter().filter(|pid| live::is_being_killed(**pid)).map(ToString::to_string).collect();
        if !alive.is_empty() {
            let what = format!(
                "run {} of job {}: no KILL ends {}: it is not settled and keeps its slot until they are gone; look at their \
                 state (`ps -o pid,stat,wchan,args`), a frozen cgroup or a device that does not answer",
                run.run_id,
                run.job_id,
                some_of(&alive)
            );
            findings.push(Finding::new("processes", Verdict::Wrong, what));
        }
    }
    findings
}

/// An open run that a boot of this directory began, and that no shim holds here.
fn without_shim(run: &DirectoryRun, ended: bool, evidence: bool, served: bool) -> Finding {
    let what = format!("run {} of job {} is open", run.run_id, run.job_id);
    let lease = if run.lease_left_seconds > 0.0 {
        format!("else its lease decides in {:.0} s", run.lease_left_seconds)
    } else {
        "else the reaper takes it back".to_owned()
    };
    let (what, advice) = match (ended, evidence) {
        (true, _) => (format!("{what} and its result waits here"), "is sent"),
        (false, true) => (format!("{what} and no shim holds it here"), "is settled"),
        (false, false) => (
            format!("{what} and was begun in another boot of this machine or another container"),
            "is settled if it ended",
        ),
    };
    let what = if served {
        format!("{what}: the replica here settles it as soon as the database takes it, {lease}")
    } else {
        format!("{what}: no replica runs here; once one is started it {advice}, {lease}")
    };
    Finding::new("runs", Verdict::Note, what)
}

/// Lease files that nobody follows.
async fn leases(db: &Db, state_dir: &Path) -> anyhow::Result<Option<Finding>> {
    let entries = match std::fs::read_dir(state_dir.join("leases")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let files: Vec<ReplicaId> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    // Those that are live or own something.
    let present: HashSet<ReplicaId> =
        db.list_replicas(false, i64::from(i32::MAX)).await?.into_iter().map(|replica| replica.replica_id).collect();
    let left: Vec<String> =
        files.iter().filter(|replica| !present.contains(replica)).map(ToString::to_string).collect();
    Ok((!left.is_empty()).then(|| {
        Finding::new(
            "leases",
            Verdict::Note,
            format!(
                "{} leases of boots that are over ({}): the next start here removes them",
                left.len(),
                some_of(&left)
            ),
        )
    }))
}

/// The first of many.
fn some_of(names: &[String]) -> String {
    let mut shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        shown.push_str(", …");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_judged_by_what_is_certain_of_it() {
        for (drift, error, verdict) in [
            (0.2, 0.001, Verdict::Ok),
            (-1.4, 0.5, Verdict::Ok),
            (1.6, 0.5, Verdict::Note),
            (-4.9, 0.0, Verdict::Note),
            (5.2, 0.3, Verdict::Note),
            (-5.2, 0.1, Verdict::Wrong),
            (3600.0, 1.0, Verdict::Wrong),
        ] {
            let finding = judge_clock(drift, error, 5.0);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
        }
        assert!(judge_clock(-2.0, 0.0, 5.0).what.contains("2.000 s behind this machine"));
    }
}
