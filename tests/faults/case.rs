//! A case: one database, one place for replicas, the two judges, and a seed. What a row injects, it injects here.

mod servers;

use std::{
    cell::RefCell,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use rand::{SeedableRng as _, rngs::StdRng};
use tokio_postgres::{Client, NoTls, Row};

use crate::{
    auditor::{self, Auditor, Violation},
    bound::{HANDOVER_LEASE, HEARTBEAT, POLL, REAP_GRACE, TICK},
    disk::SmallDisk,
    kept,
    network::Network,
    node::Node,
    support::{Cluster, Orch, Replica, TestDb, eventually_within, processes_beneath, say},
    witness,
};

pub(crate) use crate::bound::{BOUND, BOUND_AFTER_OUTAGE, KILL_GRACE, LEASE};

/// One row's world.
pub(crate) struct Case {
    name: &'static str,
    seed: u64,
    /// Random choices of the row; the seed repeats them.
    pub(crate) random: StdRng,
    pub(crate) db: TestDb,
    /// A connection of the row's own, as superuser.
    pub(crate) sql: Client,
    pub(crate) orch: Orch,
    pub(crate) auditor: Auditor,
    replica: Option<Replica>,
    nodes: Vec<Node>,
    agents: String,
    network: Option<Network>,
    /// After what uses it.
    cluster: Option<Cluster>,
    standby: Option<Cluster>,
    /// Under the data of `cluster`.
    disk: Option<SmallDisk>,
}

impl Case {
    /// A migrated database, judges at work, no replica yet.
    pub(crate) async fn new(name: &'static str) -> Self {
        let given = std::env::var("ORCH_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(rand::random::<u32>).into();
        say(&format!("{name}: seed {seed}"));
        let db = TestDb::new().await;
        let sql = db.client().await;
        let mut orch = Orch::on(&db);
        for (setting, time) in [
            ("ORCH_LEASE", LEASE),
            ("ORCH_HEARTBEAT", HEARTBEAT),
            ("ORCH_KILL_GRACE", KILL_GRACE),
            ("ORCH_REAP_GRACE", REAP_GRACE),
            ("ORCH_REAP_INTERVAL", TICK),
            ("ORCH_POLL_INTERVAL", POLL),
            ("ORCH_DRAIN_GRACE", Duration::from_secs(1)),
            ("ORCH_HANDOVER_LEASE", HANDOVER_LEASE),
        ] {
            orch.set(setting, format!("{}ms", time.as_millis()));
        }
        orch.set("ORCH_MAX_CONCURRENCY", "8");
        std::fs::create_dir(orch.path("witness")).expect("the witness's directory");
        let auditor = Auditor::start(db.config());
        let random = StdRng::seed_from_u64(seed);
        let agents = String::new();
        Self {
            name,
            seed,
            random,
            db,
            sql,
            orch,
            auditor,
            replica: None,
            nodes: Vec::new(),
            agents,
            network: None,
            cluster: None,
            standby: None,
            disk: None,
        }
    }

    /// Replaces the row's own connection, which a fault took along.
    pub(crate) async fn reconnect(&mut self) {
        let (client, connection) = self.config().connect(NoTls).await.expect("a connection to the case's database");
        tokio::spawn(connection);
        self.sql = client;
    }

    /// Where the witness writes.
    pub(crate) fn witness(&self) -> PathBuf {
        self.orch.path("witness")
    }

    /// Adds an agent whose command is a shell script under the witness's eyes. `settings` are further lines of TOML.
    /// Returns what alone makes this agent.
    pub(crate) fn agent(&mut self, name: &str, script: &str, settings: &str) -> String {
        let program = std::env::current_exe().expect("this program");
        let witness = self.witness();
        let words = [program.to_str().unwrap(), "witness", witness.to_str().unwrap(), "sh", "-c", script];
        self.plain_agent(name, &words, settings)
    }

    /// Adds an agent with just this command: the witness does not see it.
    pub(crate) fn plain_agent(&mut self, name: &str, command: &[&str], settings: &str) -> String {
        // JSON strings are TOML strings.
        let command = serde_json::to_string(command).unwrap();
        let agent = format!("[agents.{name}]\ncommand = {command}\n{settings}\n");
        self.agents.push_str(&agent);
        self.orch.config(&self.agents);
        agent
    }

    /// Starts the replica and waits until it is ready.
    pub(crate) async fn up(&mut self) {
        assert!(self.replica.is_none(), "a second replica");
        self.replica = Some(self.orch.up().await);
    }

    /// Waits until a replica that was started otherwise is ready.
    pub(crate) async fn until_ready(&mut self) {
        self.replica.as_mut().expect("a replica").until_ready().await;
    }

    /// The running replica.
    pub(crate) fn replica(&self) -> &Replica {
        self.replica.as_ref().expect("a replica")
    }

    /// Adds a node with a state directory of its own, and the settings that the case has by now. No replica is started.
    pub(crate) fn add_node(&mut self, name: &str) -> &mut Node {
        assert!(self.nodes.iter().all(|node| node.name() != name), "there is a node {name} already");
        self.nodes.push(Node::beside(&self.orch, name));
        self.node(name)
    }

    /// A node that was added.
    pub(crate) fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name() == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    /// What the database calls the newest boot of the node.
    pub(crate) async fn replica_id(&self, node: &str) -> String {
        let newest = "select replica_id::text from orch.replicas where name = $1 order by started_at desc limit 1";
        self.sql.query_one(newest, &[&node]).await.expect("a registered replica").get(0)
    }

    /// Gives a replica that was started otherwise to the case.
    pub(crate) fn adopt(&mut self, replica: Replica) {
        self.replica = Some(replica);
    }

    /// Enqueues a job with an empty payload.
    pub(crate) async fn enqueue(&self, agent: &str) -> i64 {
        self.enqueue_with(agent, &serde_json::json!({})).await
    }

    /// Enqueues a job.
    pub(crate) async fn enqueue_with(&self, agent: &str, payload: &serde_json::Value) -> i64 {
        self.sql.query_one("select orch.enqueue($1, $2)", &[&agent, payload]).await.unwrap().get(0)
    }

    /// The job's row.
    pub(crate) async fn job(&self, id: i64) -> Row {
        self.sql.query_one("select * from orch.jobs where id = $1", &[&id]).await.unwrap()
    }

    /// The job's runs, in order.
    pub(crate) async fn runs(&self, id: i64) -> Vec<Row> {
        let runs = "select *, run_id::text as run, ended_at is null as open from orch.agent_runs where job_id = $1 order by attempt";
        self.sql.query(runs, &[&id]).await.unwrap()
    }

    /// The outcomes of the job's runs, in order; an open run has none.
    pub(crate) async fn outcomes(&self, id: i64) -> Vec<Option<String>> {
        self.runs(id).await.iter().map(|run| run.get("outcome")).collect()
    }

    /// Waits until the job has this status.
    pub(crate) async fn until(&self, id: i64, status: &str, bound: Duration) {
        let last = RefCell::new(String::new());
        let what = fmt::from_fn(|text| write!(text, "job {id} to be {status}: it is {}", last.borrow()));
        eventually_within(bound, &what, async || {
            let row = self.job(id).await;
            last.replace(format!("{:?} {:?}", row.get::<_, &str>("status"), row.get::<_, Option<&str>>("error")));
            let found: &str = row.get("status");
            let finished = ["succeeded", "failed", "cancelled"];
            assert!(found == status || !finished.contains(&found) || status == "queued", "{what}");
            (found == status).then_some(())
        })
        .await;
    }

    /// Waits until the job runs, its pid is stamped and the witness has seen the run; returns the pid.
    pub(crate) async fn until_alive(&self, id: i64) -> i32 {
        eventually_within(BOUND_AFTER_OUTAGE, &format!("job {id} to be alive"), async || {
            let pid: Option<i32> = self.job(id).await.get("pid");
            pid.filter(|_| witness::is_alive(&self.witness(), id))
        })
        .await
    }

    /// Stops every replica as an operator would, and requires that each ends well and that no process is left, of nodes
    /// without a replica neither.
    pub(crate) async fn down(&mut self) {
        let mut places = vec![self.orch.state_dir().to_owned()];
        if let Some(mut replica) = self.replica.take() {
            replica.signal(Signal::SIGTERM);
            let status = replica.ended().await;
            assert!(status.success(), "the replica ended with {status}:\n{}", replica.log());
            assert!(!replica.log().contains("panicked"), "a panic in the replica's log:\n{}", replica.log());
        }
        for node in &mut self.nodes {
            node.stop().await;
            places.push(node.state_dir().to_owned());
        }
        eventually_within(BOUND, "all of the replicas' processes to end", async || {
            places.iter().all(|place| processes_beneath(place).is_empty()).then_some(())
        })
        .await;
    }

    /// The end of every row: nothing unfinished, no process left, and both judges content.
    pub(crate) async fn judge(&mut self) {
        self.everything_is_finished().await;
        self.down().await;
        let seen = self.auditor.stop();
        assert!(seen.is_empty(), "the auditor saw:\n{}", seen.join("\n"));
        let audit = auditor::violations(&self.sql).await.expect("the auditor's query");
        let views = self.sql.query("select invariant::text, what::text from orch.violations", &[]).await.unwrap();
        let view: Vec<_> = views.iter().map(|row| Violation { invariant: row.get(0), what: row.get(1) }).collect();
        assert_eq!((audit, view), (vec![], vec![]), "the auditor, and the view orch.violations");
        self.runs_add_up().await;
        let overlaps = witness::overlaps(&self.witness());
        assert!(overlaps.is_empty(), "the witness saw two processes of one job:\n{}", overlaps.join("\n"));
        self.witness_agrees().await;
    }

    async fn everything_is_finished(&self) {
        let live = "select id, status, error from orch.jobs where finished_at is null order by id";
        eventually_within(BOUND_AFTER_OUTAGE, "every job to be in a final state", async || {
            self.sql.query(live, &[]).await.unwrap().is_empty().then_some(())
        })
        .await;
    }

    /// Every start of a run was counted, and no run is open.
    pub(crate) async fn runs_add_up(&self) {
        let wrong = "select j.id, j.attempt, count(r.run_id) as runs, count(*) filter (where r.run_id is not null and r.ended_at is null) as open
            from orch.jobs j left join orch.agent_runs r on r.job_id = j.id
            group by j.id, j.attempt having j.attempt <> count(r.run_id)
            or count(*) filter (where r.run_id is not null and r.ended_at is null) > 0";
        let wrong = self.sql.query(wrong, &[]).await.unwrap();
        assert!(wrong.is_empty(), "runs and attempts do not add up: {wrong:?}");
    }

    /// The witness saw no run that the database does not know, and every success from its start to its end.
    async fn witness_agrees(&self) {
        for (job, seen) in witness::all(&self.witness()) {
            let runs = self.runs(job).await;
            for interval in &seen {
                let run = runs.iter().find(|run| run.get::<_, &str>("run") == interval.run_id);
                let run = run.unwrap_or_else(|| panic!("job {job}: the database knows nothing of {interval:?}"));
                let succeeded = run.get::<_, Option<&str>>("outcome") == Some("succeeded");
                assert!(!succeeded || interval.stop.is_some(), "job {job}: succeeded without an end: {interval:?}");
            }
            assert!(!witness::is_alive(&self.witness(), job), "job {job}: a process of it still lives");
        }
    }

    /// Copies all that explains a failure to a directory that stays, and returns it.
    pub(crate) async fn keep_evidence(&self) -> PathBuf {
        let to = kept::directory(self.name, self.seed);
        let _ = std::fs::write(to.join("seed"), self.seed.to_string());
        // A fault may have taken the connection along.
        let kept = async {
            let (client, connection) = self.config().connect(NoTls).await?;
            tokio::spawn(connection);
            kept::tables(&client, &to).await
        };
        if let Err(error) = kept.await {
            say(&format!("the tables are not kept: {error}"));
        }
        let _ = kept::copy(&self.orch.path(""), &to.join("home"));
        for node in &self.nodes {
            let _ = kept::copy(&node.orch.path(""), &to.join(node.name()));
        }
        to
    }
}

/// A process that no job has anything to do with, and that nobody may touch.
#[derive(Debug)]
pub(crate) struct Decoy(tokio::process::Child);

impl Decoy {
    /// Starts one.
    pub(crate) fn start() -> Self {
        let child = tokio::process::Command::new("sleep").arg("100000").kill_on_drop(true).spawn();
        Self(child.expect("a decoy"))
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> i32 {
        self.0.id().expect("a living decoy") as i32
    }

    /// Panics if somebody ended or stopped it.
    pub(crate) fn assert_untouched(&mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "somebody ended the decoy");
        let stat = std::fs::read_to_string(Path::new("/proc").join(self.pid().to_string()).join("stat")).unwrap();
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        assert_eq!(state, Some('S'), "the decoy sleeps as before");
    }
}
