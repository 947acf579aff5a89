//! Row 11: a black hole between a replica and Postgres. Packets vanish and nobody is told: the replica's trees end before the
//! database lets anybody else have its jobs, and then another replica takes them.

use crate::{
    bound::REAP_GRACE,
    case::{BOUND, Case},
    network::Place,
    support::{eventually, eventually_within, say},
    witness,
};

const JOBS: usize = 4;

pub(crate) async fn its_trees_end_before_the_deadline_and_another_takes_over(case: &mut Case) {
    cut_off(case, 11, Place::black_hole).await;
}

/// Cuts a replica with live runs off, has another one take over, and heals the network. Returns how often the replica asked
/// for a connection in each second without one.
pub(super) async fn cut_off(case: &mut Case, row: u8, cut: impl FnOnce(&Place)) -> f64 {
    case.move_to_network().await;
    // Nothing but KILL ends it.
    case.agent("once", "[ \"$ORCH_ATTEMPT\" = 1 ] || exit 0; trap '' TERM; while :; do sleep 1; done", "");
    case.add_node_apart("cut off").up().await;
    let mut jobs = Vec::new();
    for _ in 0..JOBS {
        jobs.push(case.enqueue("once").await);
    }
    for job in &jobs {
        case.until_alive(*job).await;
    }
    case.add_node_apart("other").up().await;
    let former = case.replica_id("cut off").await;

    let place = case.node("cut off").place();
    let asked_before = place.connects();
    let began = std::time::Instant::now();
    cut(&place);
    let left = "select extract(epoch from lease_until - clock_timestamp())::float8
                  from orch.replicas where replica_id = $1::text::uuid";
    let spare = eventually_within(BOUND, "the trees to end", async || {
        // In this order: what lives after the lease was seen to be over has outlived it.
        let left: f64 = case.sql.query_one(left, &[&former]).await.unwrap().get(0);
        let alive = jobs.iter().filter(|job| witness::is_alive(&case.witness(), **job)).count();
        assert!(alive == 0 || left > 0.0, "{alive} trees live, and the lease was over {:.2} s ago", -left);
        (alive == 0).then_some(left)
    })
    .await;
    let granted = "select (r.claimed_at > p.lease_until + make_interval(secs => $2)) from orch.agent_runs r,
                   orch.replicas p where p.replica_id = $1::text::uuid and r.job_id = $3 and r.attempt = 2";
    for job in &jobs {
        case.until(*job, "succeeded", BOUND).await;
        assert_eq!(case.outcomes(*job).await, [Some("lost".to_owned()), Some("succeeded".to_owned())]);
        assert_eq!(case.runs(*job).await[0].get::<_, Option<&str>>("closed_by"), Some("reap"));
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&former, &REAP_GRACE.as_secs_f64(), job];
        assert!(case.sql.query_one(granted, &params).await.unwrap().get::<_, bool>(0), "job {job} was taken too early");
    }
    let rate = (place.connects() - asked_before) as f64 / began.elapsed().as_secs_f64();
    say(&format!(
        "row {row}: the trees ended {spare:.2} s before the lease, all was done elsewhere after {:.2} s; {rate:.1} connections \
         asked for a second",
        began.elapsed().as_secs_f64()
    ));

    // What it says about its runs now changes nothing, and it goes on under a new name.
    place.heal();
    eventually_within(BOUND, "the replica to be back", async || {
        (case.replica_id("cut off").await != former).then_some(())
    })
    .await;
    let again = case.enqueue("once").await;
    case.until_alive(again).await;
    case.sql.execute("select orch.cancel($1)", &[&again]).await.unwrap();
    eventually("its word on the old runs to be written", async || {
        let dirs = std::fs::read_dir(case.node("cut off").state_dir().join("runs")).into_iter().flatten().flatten();
        let names: Vec<_> = dirs.map(|dir| dir.file_name().to_string_lossy().into_owned()).collect();
        for job in &jobs {
            let run: String = case.runs(*job).await[0].get("run");
            if names.contains(&run) {
                return None;
            }
        }
        Some(())
    })
    .await;
    for job in &jobs {
        assert_eq!(case.runs(*job).await.len(), 2, "job {job} ran again");
    }
    rate
}
