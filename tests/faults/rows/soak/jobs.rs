//! What runs: jobs that end well, that fail, that ask for another time, that hang, that leave processes behind; some share a
//! gate, and take a lock of it that no two can have; some need limits.

use rand::{RngExt as _, seq::IndexedRandom as _};
use tokio_postgres::types::ToSql;

use super::Soak;
use crate::case::Case;

/// Jobs that are kept unfinished.
const LOAD: i64 = 26;

const PROJECTS: [&str; 3] = ["default", "web", "data"];

/// Name, script, settings, and how many of a hundred jobs. The payload is a number of seconds.
const AGENTS: [(&str, &str, &str, u32); 12] = [
    ("plain", "sleep \"$(cat)\"", "containment = \"pidns\"", 20),
    ("deaf", "trap '' TERM; s=$(cat); setsid -f sleep 1000; sleep \"$s\"", "containment = \"pidns\"", 12),
    ("noisy", "s=$(cat); seq 2000; sleep \"$s\"; seq 2000", "containment = \"pidns\"", 8),
    ("kept", "s=$(cat); setsid -f sleep 1000; sleep \"$s\"", "containment = \"cgroup\"", 16),
    ("kept-deaf", "trap '' TERM; s=$(cat); (sleep 1000 &) ; sleep \"$s\"", "containment = \"cgroup\"", 8),
    ("result", "sleep \"$(cat)\"; echo '{\"verdict\": \"done\"}' > \"$ORCH_RESULT_FILE\"", "", 8),
    ("flaky", "sleep \"$(cat)\"; exit $((ORCH_ATTEMPT % 2))", "", 6),
    ("later", "[ $((ORCH_ATTEMPT % 3)) = 0 ] || exit 75; sleep \"$(cat)\"", "", 5),
    ("fails", "sleep \"$(cat)\"; exit 1", "max_attempts = 2", 5),
    ("hangs", "trap '' TERM; sleep 1000", "timeout = \"1s\"\nmax_attempts = 1", 4),
    ("gate-a", GATED, "containment = \"pidns\"", 4),
    ("gate-b", GATED, "containment = \"cgroup\"", 4),
];

/// Named caps, with how many jobs may hold each; who needs the second one needs both.
const LIMITS: [(&str, i32); 2] = [("api", 5), ("db", 2)];

/// Which of them more runs hold than may.
const EXCEEDED: &str = "
    select format('%s runs hold limit %s', count(*), l.name) from orch.limits l
      join orch.agent_runs r on r.ended_at is null and r.limits @> array[l.name]
     group by l.name, l.max_running having count(*) > l.max_running";

/// Takes its gate's lock, which its whole tree holds.
const GATED: &str =
    "s=$(cat); exec 9>> GATE; flock -n 9 || { echo \"two runs of gate GATE: $ORCH_RUN_ID\" >> OVERLAPS; exit 1; }
    setsid -f sleep 1000; sleep \"$s\"";

/// Jobs of these may fail; of the others none does.
pub(super) const MAY_FAIL: [&str; 2] = ["fails", "hangs"];

pub(super) fn add_agents(case: &mut Case) {
    for (name, script, settings, _) in AGENTS {
        let file = |name: &str| case.orch.path(name).to_str().expect("a path of letters").to_owned();
        let script = script.replace("GATE", &file(name)).replace("OVERLAPS", &file("witness/overlaps"));
        let attempts = if settings.contains("max_attempts") { "" } else { "max_attempts = 1000\n" };
        let backoff = "backoff = { base = \"100ms\", factor = 1.5, max = \"1s\" }";
        case.agent(name, &script, &format!("{settings}\n{attempts}{backoff}"));
    }
}

/// Whether nothing of a run of this agent is left once its shim is killed, replica or no replica.
pub(super) fn is_in_a_pid_namespace(agent: &str) -> bool {
    AGENTS.iter().any(|(name, _, settings, _)| *name == agent && settings.contains("pidns"))
}

/// Whether jobs of this agent share a gate.
pub(super) fn has_gate(agent: &str) -> bool {
    agent.starts_with("gate-")
}

impl Soak<'_> {
    pub(super) async fn make_limits(&self) {
        for (name, most) in LIMITS {
            self.case.sql.execute("select orch.set_limit($1, $2)", &[&name, &most]).await.unwrap();
        }
    }

    pub(super) async fn no_limit_is_exceeded(&self) {
        let exceeded = self.case.sql.query(EXCEEDED, &[]).await.unwrap();
        let exceeded: Vec<String> = exceeded.iter().map(|row| row.get(0)).collect();
        assert!(exceeded.is_empty(), "too many at a time: {exceeded:?}");
    }

    /// Keeps jobs waiting: most are short, some live through several faults.
    pub(super) async fn feed(&mut self) {
        let unfinished = "select count(*) from orch.jobs where finished_at is null";
        let unfinished: i64 = self.case.sql.query_one(unfinished, &[]).await.unwrap().get(0);
        for _ in unfinished..LOAD {
            let random = &mut self.case.random;
            let (agent, ..) = AGENTS.choose_weighted(random, |agent| agent.3).expect("there are some");
            let seconds: f64 = match random.random_range(0..100) {
                0..5 => random.random_range(12.0..25.0),
                5..25 => random.random_range(4.0..12.0),
                _ => random.random_range(0.05..1.5),
            };
            let project = PROJECTS.choose(random).expect("there are some");
            let priority = random.random_range(-1..=1);
            let gate = has_gate(agent).then_some(*agent);
            let needed = [0, 0, 0, 0, 0, 0, 1, 1, 1, 2].choose(random).expect("there are some");
            let limits: Vec<&str> = LIMITS[..*needed].iter().map(|(name, _)| *name).collect();
            let limits = (!limits.is_empty()).then_some(limits);
            let enqueue = "select orch.enqueue($1, $2, project => $3, priority => $4, gate => $5, limits => $6)";
            let payload = serde_json::json!(seconds);
            let wish: &[&(dyn ToSql + Sync)] = &[agent, &payload, project, &priority, &gate, &limits];
            let row = self.case.sql.query_one(enqueue, wish).await.unwrap();
            self.jobs.insert(row.get(0));
        }
    }
}
