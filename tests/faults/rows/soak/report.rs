//! What is counted, and the report: Markdown, for `docs/reliability.md`.

use std::{collections::BTreeSet, time::Duration};

use super::{Soak, jobs::MAY_FAIL};
use crate::{bound::RECOVERY, processes, recovery::Recovered, support::say};

/// What the eldest replica may hold more at the end than after the first round.
const GROWTH: u64 = 32 << 20;
const MORE_DESCRIPTORS: usize = 16;
/// What adding up seconds may cost.
const ROUNDED: Duration = Duration::from_millis(1);

/// What a replica holds while nothing runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    minutes: f64,
    resident: u64,
    descriptors: usize,
}

impl Soak<'_> {
    /// Of the replica that lives from the beginning to the end.
    pub(super) fn sample(&mut self) {
        let pid = self.case.node(&self.places[0].name).process();
        let (resident, descriptors) = (processes::resident(pid).unwrap_or_default(), processes::descriptors(pid));
        self.samples.push(Sample { minutes: self.began.elapsed().as_secs_f64() / 60.0, resident, descriptors });
    }

    /// Every job that was enqueued has come to an end, and to one that it could come to.
    pub(super) async fn no_job_is_lost(&self) {
        let rows = self.case.sql.query("select id, agent, status, error from orch.jobs", &[]).await.unwrap();
        assert_eq!(rows.len(), self.jobs.len(), "jobs in the database, and jobs that were enqueued");
        for row in rows {
            let (id, agent, status): (i64, &str, &str) = (row.get(0), row.get(1), row.get(2));
            let is_right = match status {
                "succeeded" => true,
                "failed" => MAY_FAIL.contains(&agent),
                "cancelled" => self.cancelled.contains(&id),
                _ => false,
            };
            let error: Option<&str> = row.get(3);
            assert!(is_right && self.jobs.contains(&id), "job {id} of {agent} is {status}: {error:?}");
        }
    }

    pub(super) async fn progress(&self) -> String {
        let (jobs, runs) = self.jobs_and_runs().await;
        let faults: usize = self.faults.values().sum();
        let slowest = self.recovery.all().pop();
        format!(
            "soak: after {:.1} min {faults} faults, {jobs} jobs, {runs} runs; all at rest; slowest recovery {slowest:?}; {:?}",
            self.began.elapsed().as_secs_f64() / 60.0,
            self.samples.last(),
        )
    }

    async fn jobs_and_runs(&self) -> (i64, i64) {
        let counts = "select (select count(*) from orch.jobs), (select count(*) from orch.agent_runs)";
        let counts = self.case.sql.query_one(counts, &[]).await.unwrap();
        (counts.get(0), counts.get(1))
    }

    pub(super) async fn report(&mut self) {
        let mut lines = vec![String::new(), "| fault | times |".to_owned(), "|---|---|".to_owned()];
        lines.extend(self.faults.iter().map(|(name, times)| format!("| {name} | {times} |")));
        lines.push(format!("| **in all** | **{}** |", self.faults.values().sum::<usize>()));
        lines.extend([String::new(), "| act of an operator | times |".to_owned(), "|---|---|".to_owned()]);
        lines.extend(self.acts.iter().map(|(name, times)| format!("| {name} | {times} |")));
        self.add_counts(&mut lines).await;
        let all = self.recovery.all();
        add_recoveries(&mut lines, &all);
        let heading = "| the eldest replica, at rest, after | resident memory | descriptors |";
        lines.extend([String::new(), heading.to_owned(), "|---|---|---|".to_owned()]);
        lines.extend(self.samples.iter().map(|Sample { minutes, resident, descriptors }| {
            format!("| {minutes:.0} min | {:.1} MiB | {descriptors} |", *resident as f64 / f64::from(1 << 20))
        }));
        say(&lines.join("\n"));
        assert!(!all.is_empty(), "nothing was ever orphaned");
        let (Some(first), Some(last)) = (self.samples.first(), self.samples.last()) else {
            panic!("no round has ended")
        };
        assert!(last.resident < first.resident + GROWTH, "memory grows: {first:?}, {last:?}");
        assert!(last.descriptors < first.descriptors + MORE_DESCRIPTORS, "descriptors leak: {first:?}, {last:?}");
    }

    async fn add_counts(&self, lines: &mut Vec<String>) {
        let (jobs, runs) = self.jobs_and_runs().await;
        let outcomes = "select coalesce(outcome, 'open'), count(*) from orch.agent_runs group by 1 order by 2 desc";
        let outcomes = self.case.sql.query(outcomes, &[]).await.unwrap();
        let outcomes: Vec<String> =
            outcomes.iter().map(|row| format!("{} {}", row.get::<_, i64>(1), row.get::<_, &str>(0))).collect();
        let minutes = self.began.elapsed().as_secs_f64() / 60.0;
        lines.extend([
            String::new(),
            "| | |".to_owned(),
            "|---|---|".to_owned(),
            format!("| time | {minutes:.1} min |"),
            format!("| machines, at a time and in all | {}, {} |", self.places.len(), self.machines),
            format!("| jobs | {jobs} |"),
            format!("| runs | {runs}: {} |", outcomes.join(", ")),
            // Each of these ends the run when it is not so.
            "| two processes of one job, or of one gate, at a time (witness) | 0 |".to_owned(),
            "| jobs lost | 0 |".to_owned(),
            "| jobs stuck | 0 |".to_owned(),
            format!("| violations (auditor, {} looks) | 0 |", self.case.auditor.looks()),
        ]);
    }
}

/// The table of recoveries.
fn add_recoveries(lines: &mut Vec<String>, all: &[Recovered]) {
    let heading = "| orphaned runs, by what happened | | p50 | p99 | max | bound | beyond it |";
    lines.extend([String::new(), heading.to_owned(), "|---|---|---|---|---|---|---|".to_owned()]);
    let reasons: BTreeSet<&str> = all.iter().map(|run| run.why).collect();
    for why in reasons {
        let of_it = all.iter().filter(|run| run.why == why);
        let (by_lease, longer): (Vec<_>, Vec<_>) = of_it.partition(|run| run.bound <= RECOVERY + ROUNDED);
        lines.extend(line(why, &by_lease));
        lines.extend(line(&format!("{why}; the database away meanwhile, or a handover's lease"), &longer));
    }
    lines.extend(line("all", &all.iter().collect::<Vec<_>>()));
}

/// One line of the table of recoveries.
fn line(what: &str, runs: &[&Recovered]) -> Option<String> {
    let last = runs.last()?;
    let at = |share: f64| runs[((runs.len() - 1) as f64 * share) as usize].took.as_secs_f64();
    let bounds = || runs.iter().map(|run| run.bound.as_secs_f64());
    let (shortest, longest) = (bounds().fold(f64::INFINITY, f64::min), bounds().fold(0.0, f64::max));
    let bound = if longest - shortest < 0.1 {
        format!("{longest:.1} s")
    } else {
        format!("each its own, {shortest:.1} to {longest:.1} s")
    };
    let beyond = runs.iter().filter(|run| run.took > run.bound).count();
    Some(format!(
        "| {what} | {} | {:.2} s | {:.2} s | {:.2} s | {bound} | {beyond} |",
        runs.len(),
        at(0.5),
        at(0.99),
        last.took.as_secs_f64(),
    ))
}
