//! Replicas that a row plays by hand, statement by statement and without a process, on two connections; and a gate that
//! stops one of the two in the middle of a statement, with its locks in hand.

use std::collections::BTreeMap;

use orch::{
    db::{
        Db,
        reaper::Timing,
        replicas::Registration,
        runs::{Answer, CLAIM_MAX, Claimant, ClaimantRules, Claimed, Ending, Look, Owned},
    },
    model::{ClosedBy, Outcome, ReplicaId, RunId},
    replica::{Done, Reaper},
};
use tokio_postgres::Client;

use crate::{
    case::Case,
    support::{TestDb, eventually},
};

/// L, H and G of what is played, in seconds.
pub(crate) const TIMING: Timing = Timing { lease: 60.0, heartbeat: 5.0, reap_grace: 5.0 };

/// The name of the connection that the gate stops.
const SLOW: &str = "slow";

/// The key of the gate's advisory lock.
const GATE: i64 = 54;

/// A pool of its own, of connections that the gate stops.
pub(crate) fn slow(db: &TestDb) -> Db {
    let mut config = db.config();
    config.application_name(SLOW);
    Db::new(config, 1, true).unwrap()
}

/// Makes every statement of a slow connection that writes a job wait in its middle, until the gate is opened.
pub(crate) async fn shut_gate(case: &Case) {
    shut_gate_for(&case.sql, SLOW).await;
}

/// The same for the connections of this name.
pub(crate) async fn shut_gate_for(sql: &Client, name: &str) {
    let gate = format!(
        "create or replace function public.wait_at_gate() returns trigger language plpgsql as
         $$ begin perform pg_advisory_xact_lock_shared({GATE}); return new; end $$;
         create or replace trigger aaa_gate before update on orch.jobs for each row
             when (current_setting('application_name') = '{name}') execute function public.wait_at_gate();
         select pg_advisory_lock({GATE})"
    );
    sql.batch_execute(&gate).await.unwrap();
}

/// Waits until a slow statement stands at the gate.
pub(crate) async fn until_at_gate(sql: &Client) {
    until_stands_at_gate(sql, "").await;
}

/// Waits until a statement whose file begins like this stands at the gate; the server's process that executes it.
pub(crate) async fn until_stands_at_gate(sql: &Client, header: &str) -> i32 {
    let waits = "select l.pid from pg_locks l join pg_stat_activity a using (pid)
        where locktype = 'advisory' and objid = $1::bigint::oid and not granted and starts_with(a.query, $2)
          and database = (select oid from pg_database where datname = current_database())";
    eventually("the statement to stand at the gate", async || {
        sql.query(waits, &[&GATE, &header]).await.unwrap().first().map(|row| row.get(0))
    })
    .await
}

/// Lets it through.
pub(crate) async fn open_gate(sql: &Client) {
    sql.execute("select pg_advisory_unlock($1)", &[&GATE]).await.unwrap();
}

/// A live replica.
pub(crate) async fn register(db: &Db) -> Claimant {
    let replica_id = ReplicaId::new();
    db.register_replica(&Registration {
        replica_id,
        name: "by hand".into(),
        host: "here".into(),
        boot_id: "boot".into(),
        state_dir_id: format!("{replica_id}/1/1 pid:[1]"),
        version: "0".into(),
        agents: vec!["a".into()],
        labels: BTreeMap::new(),
        max_concurrency: 4,
        lease: TIMING.lease,
    })
    .await
    .unwrap();
    Claimant {
        replica_id,
        host: "here".into(),
        boot_id: "boot".into(),
        serial_gate: true,
        rules: ClaimantRules { max_lost: 3, max_transient: 5, max_interrupted: 5, lease: TIMING.lease },
    }
}

/// Claims as many jobs as there are slots, in as many claims as a replica needs for them; no error reaches whoever claims.
pub(crate) async fn claim(db: &Db, claimant: &Claimant, slots: usize, only: Option<&[i64]>) -> Vec<Claimed> {
    let runs: Vec<RunId> = (0..slots).map(|_| RunId::new()).collect();
    let look = Look { only: only.map(<[i64]>::to_vec), ..Look::default() };
    let mut claimed = Vec::new();
    for runs in runs.chunks(CLAIM_MAX) {
        claimed.extend(db.claim_jobs(claimant, &["a".into()], runs, &look).await.unwrap().jobs);
    }
    claimed
}

/// Says how a run ended, in time or late.
pub(crate) async fn say(db: &Db, owned: Owned, outcome: Outcome) -> Answer {
    let ending = Ending::bare(outcome, ClosedBy::Owner, "as played");
    db.settle_runs(vec![owned.ended(ending)]).await.unwrap().remove(0)
}

/// The token of a run as the database has it, whether it is open or not.
pub(crate) async fn token(db: &Db, run: RunId) -> Option<Owned> {
    db.list_inherited(&[], &[run]).await.unwrap().pop().map(|found| found.owned)
}

/// Lets a replica's lease run out, in a database where somebody has been ticking all along.
pub(crate) async fn expire(sql: &Client, replica: ReplicaId) {
    let expire =
        "update orch.replicas set lease_until = now() - interval '10 s' where replica_id = $1 and state = 'live'";
    sql.execute(expire, &[&replica.0]).await.unwrap();
    sql.execute("update orch.meta set last_tick_at = clock_timestamp(), wait_until = null", &[]).await.unwrap();
}

/// One tick of a reaper; no error reaches it either.
pub(crate) async fn tick(db: &Db) -> Done {
    Reaper::new(TIMING, true).tick(db, false).await.unwrap()
}
