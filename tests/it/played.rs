//! A replica that the test plays itself, through the product's own statements: claims, stamps and settles on command,
//! and starts no process.

use std::collections::BTreeMap;

use orch::{
    agents::{Agent, Stdin},
    db::{
        Db,
        replicas::Registration,
        runs::{Answer, Claimant, ClaimantRules, Claimed, Ending, Look, Process},
    },
    model::{Backoff, ClosedBy, Containment, OnLost, Outcome, ReplicaId, RunId},
};

use crate::support::{TestDb, eventually};

/// Its lease, in seconds.
pub(crate) const LEASE: f64 = 60.0;

/// The replica.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) db: Db,
    pub(crate) replica_id: ReplicaId,
    /// Where its runs are said to be.
    pub(crate) host: String,
    agents: Vec<String>,
}

impl Played {
    /// Registers, with the agents that it serves.
    pub(crate) async fn on(db: &TestDb, agents: &[&str]) -> Self {
        let (db, replica_id) = (db.db(), ReplicaId::new());
        let registered: Vec<Agent> = agents.iter().map(|name| agent(name)).collect();
        db.register_agents(&registered.iter().collect::<Vec<_>>()).await.unwrap();
        let agents: Vec<String> = agents.iter().map(|name| (*name).to_owned()).collect();
        db.register_replica(&Registration {
            replica_id,
            name: "played".to_owned(),
            host: "stage".to_owned(),
            boot_id: "boot".to_owned(),
            state_dir_id: replica_id.to_string(),
            version: "test".to_owned(),
            agents: agents.clone(),
            labels: BTreeMap::new(),
            max_concurrency: 4,
            lease: LEASE,
        })
        .await
        .unwrap();
        Self { db, replica_id, host: "stage".to_owned(), agents }
    }

    /// Claims one job, if one is due.
    pub(crate) async fn claim(&self) -> Option<Claimed> {
        let claimant = Claimant {
            replica_id: self.replica_id,
            host: self.host.clone(),
            boot_id: "boot".to_owned(),
            serial_gate: true,
            rules: ClaimantRules { max_lost: 3, max_transient: 100, max_interrupted: 100, lease: LEASE },
        };
        self.db.claim_jobs(&claimant, &self.agents, &[RunId::new()], &Look::default()).await.unwrap().jobs.pop()
    }

    /// Stamps a pid.
    pub(crate) async fn stamp(&self, claimed: &Claimed, pid: i32) {
        let process = Process { pid, pid_started: 1, containment: Containment::Sweep };
        let stamp = (claimed.owned.job_id(), claimed.owned.run_id(), process);
        assert_eq!(self.db.stamp_runs(self.replica_id, &[stamp]).await.unwrap(), [claimed.owned.run_id()]);
    }

    /// Settles a run; as a replica does, again while another transaction has the row in its hands.
    pub(crate) async fn settle(&self, claimed: Claimed, outcome: Outcome) {
        let ending = Ending::bare(outcome, ClosedBy::Owner, "as played");
        let mut settlement = Some(claimed.owned.ended(ending));
        eventually("the run to be settled", async || {
            let sent = settlement.take().expect("it came back from the last try");
            match self.db.settle_runs(vec![sent]).await.unwrap().remove(0) {
                Answer::Busy(back) => settlement = Some(back),
                Answer::Settled(..) => return Some(()),
                other => panic!("{other:?}"),
            }
            None
        })
        .await;
    }
}

pub(crate) fn agent(name: &str) -> Agent {
    Agent {
        name: name.to_owned(),
        command: vec!["true".to_owned()],
        env: BTreeMap::new(),
        pass_env: Vec::new(),
        redact: Vec::new(),
        cwd: None,
        user: None,
        stdin: Stdin::Null,
        timeout: None,
        silence_timeout: None,
        max_attempts: 1,
        backoff: Backoff::default(),
        on_lost: OnLost::Requeue,
        containment: None,
        memory_max: None,
        pids_max: None,
        success_codes: vec![0],
        limits: Vec::new(),
    }
}
