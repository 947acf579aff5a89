//! Row 9: replica, spawner, shims and jobs are frozen together for longer than their lease, as by a hypervisor, and thawed.
//! Nobody could end the jobs meanwhile; they end right after the thaw, and what they say then is stale.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    bound::{BOUND_AFTER_OUTAGE, KILL_GRACE, LEASE},
    case::{BOUND, Case},
    support::{eventually, eventually_within},
    witness,
};

/// A cgroup v2 of the row's own, in which a node lives whole; its jobs' groups are below it.
struct Freezer(PathBuf);

impl Freezer {
    fn new(name: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let root = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|words| words[2] == "cgroup2");
        let path =
            Path::new(root.expect("a cgroup v2 tree")[1]).join(format!("orch-test-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn freeze(&self, is_frozen: bool) {
        std::fs::write(self.0.join("cgroup.freeze"), if is_frozen { "1" } else { "0" }).unwrap();
    }

    async fn is_frozen(&self) {
        let events = self.0.join("cgroup.events");
        eventually("the group to be frozen", async || {
            std::fs::read_to_string(&events).unwrap().contains("frozen 1").then_some(())
        })
        .await;
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("cgroup.freeze"), "0");
        let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
        remove(&self.0);
    }
}

/// Removes a group and those below it, as soon as they are empty.
fn remove(group: &Path) {
    for below in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if below.path().is_dir() {
            remove(&below.path());
        }
    }
    for _ in 0..100 {
        if std::fs::remove_dir(group).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) async fn ends_right_after_the_thaw_and_is_not_believed(case: &mut Case) {
    let freezer = Freezer::new("r09");
    // Held when it is lost, so that no second process is started while the first one is frozen.
    case.agent("held", "trap '' TERM; sleep 100000; sleep 100000", "on_lost = \"hold\"");
    // Ends well as soon as it can, when another has long done its job. The witness would see both.
    let late = "[ \"$ORCH_ATTEMPT\" = 1 ] && sleep 2; echo \"{\\\"data\\\": $ORCH_ATTEMPT}\" > \"$ORCH_RESULT_FILE\"";
    case.plain_agent("late", &["sh", "-c", late], "");
    let node = case.add_node("frozen");
    let join = format!("echo $$ > {}/cgroup.procs; exec \"$0\" \"$@\"", freezer.0.display());
    let program = node.orch.program().to_owned();
    let replica = node.orch.start_by(&["sh", "-c", &join], &program);
    node.adopt(replica);
    node.until_ready().await;
    let held = case.enqueue("held").await;
    case.until_alive(held).await;
    let late = case.enqueue("late").await;
    eventually("the late job to run", async || case.job(late).await.get::<_, Option<i32>>("pid")).await;
    freezer.freeze(true);
    freezer.is_frozen().await;
    assert!(case.job(late).await.get::<_, Option<i32>>("pid").is_some(), "it is frozen before its end");

    case.add_node("other").up().await;
    case.until(held, "held", BOUND_AFTER_OUTAGE).await;
    case.until(late, "succeeded", BOUND_AFTER_OUTAGE).await;
    tokio::time::sleep(LEASE).await;
    assert!(witness::is_alive(&case.witness(), held), "nobody could end it");
    let decided = rows(case, late).await;

    freezer.freeze(false);
    let thawed = Instant::now();
    eventually_within(BOUND, "the frozen job to end", async || {
        (!witness::is_alive(&case.witness(), held)).then_some(())
    })
    .await;
    let took = thawed.elapsed();
    assert!(took < KILL_GRACE * 3, "it lived for {took:?} after the thaw");
    eventually_within(BOUND, "the replica to register anew", async || {
        let live = "select count(*) from orch.replicas where name = 'frozen' and state = 'live'";
        let dead = "select count(*) from orch.replicas where name = 'frozen' and state = 'dead'";
        let count = async |sql| case.sql.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
        (count(live).await == 1 && count(dead).await == 1).then_some(())
    })
    .await;
    let runs = case.node("frozen").state_dir().join("runs");
    eventually_within(BOUND, "the replica to be done with its old runs", async || {
        let left = std::fs::read_dir(&runs).into_iter().flatten().flatten();
        left.filter(|run| run.path().join("exit.json").exists()).count().eq(&0).then_some(())
    })
    .await;
    assert_eq!(rows(case, late).await, decided, "what another run has decided stands");
    // What was decided about this one is that nobody knows; now somebody does.
    case.sql.execute("select orch.cancel($1)", &[&held]).await.unwrap();
    case.until(held, "cancelled", BOUND).await;
    case.node("frozen").stop().await;
}

/// The job's row, whole, and its second run.
async fn rows(case: &Case, job: i64) -> Vec<String> {
    let rows = "select to_jsonb(j)::text from orch.jobs j where id = $1
        union all select to_jsonb(r)::text from orch.agent_runs r where job_id = $1 and attempt > 1 order by 1";
    case.sql.query(rows, &[&job]).await.unwrap().iter().map(|row| row.get(0)).collect()
}
