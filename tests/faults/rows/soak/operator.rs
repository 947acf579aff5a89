//! What operators do meanwhile: cancel, retry, hold, release, plain UPDATEs of running rows; close, open, pause, resume.

use std::time::{Duration, Instant};

use rand::RngExt as _;

use super::{Due, Soak, jobs};

const CLOSE_FOR_A_WHILE: &str = "select orch.close_limit($1, clock_timestamp() + interval '2 seconds')";

impl Soak<'_> {
    /// Does something, if there is a job to do it to.
    pub(super) async fn some_act(&mut self) -> bool {
        if self.case.random.random_ratio(1, 12) {
            return self.close_something().await;
        }
        let (name, chosen, act) = match self.case.random.random_range(0..100) {
            0..30 => ("cancel", "finished_at is null", "select orch.cancel($1)"),
            30..55 => ("retry", "finished_at is not null", "select orch.retry($1)"),
            55..75 => (
                "plain UPDATE of a running row to `queued`",
                "status = 'running'",
                "update orch.jobs set status = 'queued' where id = $1 and status = 'running'",
            ),
            75..85 => (
                "plain UPDATE of a running row to `held`, and release",
                "status = 'running'",
                "update orch.jobs set status = 'held' where id = $1 and status = 'running'",
            ),
            _ => ("hold and release", "status = 'queued'", "select orch.hold($1)"),
        };
        let choose = format!("select id, agent from orch.jobs where {chosen} order by id desc limit 60");
        let candidates = self.case.sql.query(&choose, &[]).await.unwrap();
        // By an UPDATE a gate is free before the process is gone.
        let is_plain = name.starts_with("plain");
        let candidates: Vec<i64> =
            candidates.iter().filter(|row| !(is_plain && jobs::has_gate(row.get(1)))).map(|row| row.get(0)).collect();
        if candidates.is_empty() {
            return false;
        }
        let job = candidates[self.case.random.random_range(0..candidates.len())];
        match self.case.sql.execute(act, &[&job]).await {
            Ok(0) => return false,
            Ok(_) => {}
            // It has gone on since it was chosen.
            Err(error) if error.code().is_some_and(|code| code.code() == "OR001") => return false,
            Err(error) => panic!("{name} of job {job}: {error:?}"),
        }
        if name == "cancel" {
            self.cancelled.insert(job);
        }
        if name.contains("release") {
            let after = Duration::from_secs_f64(self.case.random.random_range(0.5..4.0));
            self.due.push((Instant::now() + after, Due::Release(job)));
        }
        *self.acts.entry(name).or_default() += 1;
        true
    }

    /// Closes a limit, or pauses an agent or a project, for a while.
    async fn close_something(&mut self) -> bool {
        let (name, what, close, open) = match self.case.random.random_range(0..4) {
            0 => ("limit closed and opened", "api", "select orch.close_limit($1)", "select orch.open_limit($1)"),
            1 => ("limit closed for a while, and a probe", "db", CLOSE_FOR_A_WHILE, "select $1::text"),
            2 => ("agent paused and resumed", "agent:plain", "select orch.pause($1)", "select orch.resume($1)"),
            _ => ("project paused and resumed", "project:web", "select orch.pause($1)", "select orch.resume($1)"),
        };
        self.case.sql.execute(close, &[&what]).await.unwrap();
        let after = Duration::from_secs_f64(self.case.random.random_range(0.5..4.0));
        self.due.push((Instant::now() + after, Due::Open(open, what)));
        *self.acts.entry(name).or_default() += 1;
        true
    }

    pub(super) async fn release(&mut self, job: i64) {
        match self.case.sql.execute("select orch.release($1)", &[&job]).await {
            Ok(_) => {}
            // Cancelled meanwhile, or released with an earlier hold.
            Err(error) if error.code().is_some_and(|code| code.code() == "OR001") => {}
            Err(error) => panic!("release of job {job}: {error:?}"),
        }
    }
}
