//! Claim and `why` agree: over random states, made by the product's own statements alone, a job is claimed exactly when
//! `why` says that nothing keeps it, or nothing but a slot.
//!
//! What is asked after every few acts, of each replica:
//! - offered slots without end, its claim takes the jobs of which `why` says `next`, `fair_share` or `no_free_slot`, and that
//!   it serves. (Where replicas serve different things, no others: a job that is behind another one here may be first there.)
//! - offered the slots that it has, its claim takes the jobs of which `why` says `next` by this replica. With gates or
//!   bounded limits in play a claim does not look behind each of them for the last slot, and the claim after it does: then
//!   it takes some, as long as one is next, and none that anything keeps but jobs before it.
//! - `orch.waiting` says of every job what `why` says, with its since, until and detail, and the counts are its counts.
//! - `why` names who is in the way.
//! - The slots that it has free are those that `orch.free_slots` says.
//!
//! Acts are those of producers, operators and replicas, with the deaths, takeovers and late results of the latter.
//!
//! `ORCH_TEST_SEED` repeats a run, and `ORCH_TEST_CASES` makes it longer. A failure is shrunk to the acts that matter.

mod acts;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use orch::db::runs::Look;
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use rand::{SeedableRng as _, rngs::StdRng};

use self::world::{World, run_ids};
use super::alike::{DIFFERS, UNNAMED};
use crate::support::{TestDb, eventually, say};

/// More than there are jobs.
const ENOUGH: usize = 200;
/// In so short a time nothing comes due: the comparison waits for a moment before which that is so.
const QUICK: Duration = Duration::from_secs(2);
/// Acts between two questions.
const PACE: usize = 5;

impl World {
    /// Asks `why` of every waiting job and each replica's claim, and compares.
    async fn compare(&self) -> Result<(), TestCaseError> {
        // It asks more than once, so nothing may come due or open by itself in between.
        eventually("a moment in which time changes nothing", async || {
            (!self.client.query_one(SOON, &[]).await.unwrap().get::<_, bool>(0)).then_some(())
        })
        .await;
        let waiting = self.waiting().await;
        for (faults, what) in [(DIFFERS, "why and orch.waiting differ"), (UNNAMED, "nobody is named")] {
            let faults: Vec<String> =
                self.client.query(faults, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
            prop_assert!(faults.is_empty(), "{what}: {faults:#?}");
        }
        let mut counts = BTreeMap::new();
        for job in &waiting {
            *counts.entry(job.reason.clone()).or_insert(0) += 1;
        }
        let counted = self.db.count_waiting(self.gates).await.unwrap();
        let counted: BTreeMap<_, _> = counted.iter().map(|(reason, jobs)| (reason.to_string(), *jobs)).collect();
        prop_assert_eq!(&counts, &counted);

        let contended: bool = self.client.query_one(CONTENDED, &[&self.gates]).await.unwrap().get(0);
        for boot in &self.replicas {
            let look = Look::default();
            let taken = async |slots: usize| -> BTreeSet<i64> {
                let ids = self.db.list_claimable(&boot.claimant, &boot.agents, &run_ids(slots), &look).await.unwrap();
                ids.into_iter().map(|id| id.0).collect()
            };
            let id = boot.id().0;
            let free_to_run: BTreeSet<i64> = waiting
                .iter()
                .filter(|job| matches!(job.reason.as_str(), "next" | "fair_share" | "no_free_slot"))
                .filter(|job| job.served_by.contains(&id))
                .map(|job| job.id)
                .collect();
            let all = taken(ENOUGH).await;
            if self.alike {
                prop_assert_eq!(&all, &free_to_run, "slots without end");
            } else {
                prop_assert!(all.is_subset(&free_to_run), "slots without end: {all:?} of {free_to_run:?}");
            }
            let free = self.free(boot);
            let said = "select greatest(f.free, 0) from orch.free_slots f where f.replica_id = $1";
            if let Some(row) = self.client.query_opt(said, &[&id]).await.unwrap() {
                prop_assert_eq!(row.get::<_, i64>(0), free as i64, "free slots");
            }
            let next: BTreeSet<i64> =
                waiting.iter().filter(|job| job.taken_by.contains(&id)).map(|job| job.id).collect();
            if free == 0 {
                prop_assert!(next.is_empty(), "next without a slot: {next:?}");
                continue;
            }
            let some = taken(free).await;
            if contended {
                let open: BTreeSet<i64> = waiting.iter().filter(|job| job.is_open).map(|job| job.id).collect();
                prop_assert!(some.is_subset(&open), "{free} slots: {some:?} of {open:?}");
                prop_assert_eq!(some.is_empty(), next.is_empty(), "{} slots: {:?}, next {:?}", free, some, next);
            } else {
                prop_assert_eq!(&some, &next, "{} slots", free);
            }
        }
        Ok(())
    }

    async fn waiting(&self) -> Vec<Waiting> {
        let sql = "select j.id, y.reason,
                          array(select jsonb_array_elements_text(y.detail -> 'taken_by'))::uuid[] as taken_by,
                          array(select p.replica_id from orch.replicas p where orch.serves(p, j.agent, j.require)) as served_by,
                          j.claimable and j.run_at <= now() and exists (
                              select from orch.waiting_lanes l
                               where l.project = j.project and l.lane = j.lane
                                 and case when $1 then l.reason else l.reason_without_gates end is null) as is_open
                     from orch.jobs j, orch.why(j.id, $1) y
                    where j.status in ('queued', 'held')
                    order by j.id";
        let rows = self.client.query(sql, &[&self.gates]).await.unwrap();
        let waiting = rows.iter().map(|row| Waiting {
            id: row.get(0),
            reason: row.get(1),
            taken_by: row.get(2),
            served_by: row.get(3),
            is_open: row.get(4),
        });
        waiting.collect()
    }
}

/// What `why` says of a job.
#[derive(Debug)]
struct Waiting {
    id: i64,
    reason: String,
    taken_by: Vec<uuid::Uuid>,
    served_by: Vec<uuid::Uuid>,
    /// Neither its gate nor a limit, nor anything else, keeps its lane.
    is_open: bool,
}

/// Whether a job comes due soon, or a limit opens.
const SOON: &str = "select exists (select from orch.limits l
                                    where l.closed_until between clock_timestamp() and clock_timestamp() + interval '2 s')
                        or exists (select from orch.jobs j
                                    where j.run_at between clock_timestamp() and clock_timestamp() + interval '2 s')";

/// Whether a job that may run needs a gate, where gates are kept, or a limit that has a bound.
const CONTENDED: &str = "select exists (select from orch.waiting_lanes l
                                         where l.run_at <= now()
                                           and case when $1 then l.reason else l.reason_without_gates end is null
                                           and ($1 and l.gate is not null
                                                or exists (select from orch.limit_use u
                                                            where u.name = any (l.needs) and u.room is not null)))";

#[test]
fn a_job_is_claimed_exactly_when_nothing_but_a_slot_keeps_it() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("ORCH_TEST_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let cases = number("ORCH_TEST_CASES").unwrap_or(8) as u32;
    say(&format!("why::property: seed {seed}"));
    let mut bytes = [0; 32];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let outcome = runner.run(&(acts::places(), acts::acts()), |(places, acts)| {
        runtime.block_on(async {
            let test = TestDb::new().await;
            let mut world = World::new(&test, &places).await;
            for (step, act) in acts.iter().enumerate() {
                world.act(act).await;
                if step % PACE == PACE - 1 || step + 1 == acts.len() {
                    // One that took long may have seen a job come due.
                    let began = Instant::now();
                    if let Err(error) = world.compare().await {
                        if began.elapsed() < QUICK {
                            return Err(error);
                        }
                        world.compare().await?;
                    }
                }
            }
            Ok(())
        })
    });
    outcome.unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
}
