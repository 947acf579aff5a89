//! What operators do meanwhile: cancel, retry, hold, release, and plain UPDATEs of running rows.

use std::time::{Duration, Instant};

use rand::RngExt as _;

use super::{Due, Soak, jobs};

impl Soak<'_> {
    /// Does something, if there is a job to do it to.
    pub(super) async fn some_act(&mut self) -> bool {
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

    pub(super) async fn release(&mut self, job: i64) {
        match self.case.sql.execute("select orch.release($1)", &[&job]).await {
            Ok(_) => {}
            // Cancelled meanwhile, or released with an earlier hold.
            Err(error) if error.code().is_some_and(|code| code.code() == "OR001") => {}
            Err(error) => panic!("release of job {job}: {error:?}"),
        }
    }
}
