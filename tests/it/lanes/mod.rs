//! Who runs next: lanes, limits, gates, fair share and routing, through the statements that replicas send.

mod cost;
mod limits;
mod load;
mod lone;
mod marks;
mod operators;
mod order;
mod probe;
mod share;
mod window;

use std::collections::{BTreeMap, HashMap};

use orch::{
    db::{
        Db,
        replicas::Registration,
        runs::{Answer, Claimant, ClaimantRules, Claimed, Closing, Ending, Look, Owned},
    },
    model::{ClosedBy, JobStatus, Outcome, ReplicaId, Round, RunId, Shares},
};
use tokio_postgres::Client;

use crate::support::TestDb;

/// A replica that remembers from claim to claim what the product's loop remembers, and starts no process.
#[derive(Debug)]
pub(crate) struct Claimer {
    pub(crate) db: Db,
    pub(crate) claimant: Claimant,
    agents: Vec<String>,
    round: Round,
    shares: Shares,
    lone: bool,
}

impl Claimer {
    /// Serves these agents and has these labels.
    pub(crate) async fn new(db: &Db, agents: &[&str], labels: &[(&str, &str)]) -> Self {
        let replica_id = ReplicaId::new();
        let agents: Vec<String> = agents.iter().map(|agent| (*agent).to_owned()).collect();
        let labels: BTreeMap<_, _> = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        db.register_replica(&Registration {
            replica_id,
            name: "claimer".into(),
            host: "here".into(),
            boot_id: "boot".into(),
            state_dir_id: format!("{replica_id}/1/1 pid:[1]"),
            version: "0".into(),
            agents: agents.clone(),
            labels,
            max_concurrency: 8,
            lease: 3600.0,
        })
        .await
        .unwrap();
        let rules = ClaimantRules { max_lost: 1000, max_transient: 100, max_interrupted: 100, lease: 60.0 };
        let claimant = Claimant { replica_id, host: "here".into(), boot_id: "boot".into(), serial_gate: true, rules };
        Self { db: db.clone(), claimant, agents, round: Round::default(), shares: Shares::default(), lone: true }
    }

    /// One claim. The jobs, whether there is more to look at, and whether another claim was in the way.
    pub(crate) async fn once(&mut self, slots: usize) -> (Vec<Claimed>, bool, bool) {
        let run_ids: Vec<RunId> = (0..slots).map(|_| RunId::new()).collect();
        let window = self.round.window(slots);
        let lone = self.lone && window.is_first();
        let look = Look { window, ahead: self.shares.ahead(), marks: None, only: None, lone };
        let claim = self.db.claim_jobs(&self.claimant, &self.agents, &run_ids, &look).await.unwrap();
        self.lone = claim.lone;
        let mut taken: HashMap<&str, usize> = HashMap::new();
        for job in &claim.jobs {
            *taken.entry(job.project.as_str()).or_default() += 1;
        }
        self.shares.claimed(&claim.in_sight, &taken, claim.seen.is_all_of(&look.window));
        let more = self.round.saw(&claim.seen, !claim.jobs.is_empty(), claim.contended);
        (claim.jobs, more, claim.contended)
    }

    /// Claims until something came of it, or the round is over.
    pub(crate) async fn claim(&mut self, slots: usize) -> Vec<Claimed> {
        loop {
            let (jobs, more, _) = self.once(slots).await;
            if !jobs.is_empty() || !more {
                return jobs;
            }
        }
    }

    /// Claims until all slots are taken, or the round is over.
    pub(crate) async fn fill(&mut self, slots: usize) -> Vec<Claimed> {
        let mut all = Vec::new();
        while all.len() < slots {
            let more = self.claim(slots - all.len()).await;
            if more.is_empty() {
                break;
            }
            all.extend(more);
        }
        all
    }
}

/// The numbers of claimed jobs.
pub(crate) fn ids(claimed: &[Claimed]) -> Vec<i64> {
    claimed.iter().map(|job| job.owned.job_id().0).collect()
}

/// Settles runs, all of which are still their owner's.
pub(crate) async fn settle(db: &Db, runs: impl IntoIterator<Item = (Owned, Ending)>) -> Vec<JobStatus> {
    let batch = runs.into_iter().map(|(owned, ending)| owned.ended(ending)).collect();
    let answers = db.settle_runs(batch).await.unwrap();
    let status = |answer| match answer {
        Answer::Settled(_, status) => status,
        other => panic!("{other:?}"),
    };
    answers.into_iter().map(status).collect()
}

/// How a run ends that has nothing to say.
pub(crate) fn ended(outcome: Outcome) -> Ending {
    Ending { error: None, ..Ending::bare(outcome, ClosedBy::Owner, "") }
}

/// How a run ends that closes a limit and waits for it.
pub(crate) fn closing(limit: &str, seconds: u64) -> Ending {
    let until = orch::db::jobs::When::In(std::time::Duration::from_secs(seconds));
    let close = Closing { limit: limit.into(), until, reason: Some("used up".into()) };
    Ending { retry_at: Some(until), close_limit: Some(close), ..ended(Outcome::Transient) }
}

/// Succeeds with all of these.
pub(crate) async fn succeed(db: &Db, claimed: Vec<Claimed>) {
    let statuses = settle(db, claimed.into_iter().map(|job| (job.owned, ended(Outcome::Succeeded)))).await;
    assert!(statuses.iter().all(|status| *status == JobStatus::Succeeded), "{statuses:?}");
}

/// The one value of a query, as text.
pub(crate) async fn one(client: &Client, sql: &str) -> String {
    let row = client.query_one(&format!("select ({sql})::text"), &[]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    row.get::<_, Option<String>>(0).unwrap_or_else(|| "null".into())
}

/// A database, a pool, a connection of the test's own, and a replica that serves `a`.
pub(crate) async fn stage() -> (TestDb, Client, Claimer) {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    let claimer = Claimer::new(&db, &["a"], &[]).await;
    (test, client, claimer)
}
