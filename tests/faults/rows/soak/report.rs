//! What is counted, and the report: Markdown, for `docs/reliability.md`.

use std::{collections::BTreeSet, time::Duration};

use super::{Soak, jobs::MAY_FAIL};
use crate::{
    bound::{BOUND, RECOVERY},
    processes,
    recovery::Recovered,
    support::say,
};

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
        let (jobs, runs) = self.jobs_and_runs().await;
        let total: usize = self.faults.values().sum();
        let mut text = format!("\n| fault | times |\n|---|---|\n");
        for (name, times) in &self.faults {
            text += &format!("| {name} | {times} |\n");
        }
        text += &format!("| **in all** | **{total}** |\n\n| act of an operator | times |\n|---|---|\n");
        for (name, times) in &self.acts {
            text += &format!("| {name} | {times} |\n");
        }
        let outcomes = "select coalesce(outcome, 'open'), count(*) from orch.agent_runs group by 1 order by 2 desc";
        let outcomes = self.case.sql.query(outcomes, &[]).await.unwrap();
        let outcomes: Vec<String> =
            outcomes.iter().map(|row| format!("{} {}", row.get::<_, i64>(1), row.get::<_, &str>(0))).collect();
        text += &format!(
            "\n| | |\n|---|---|\n| time | {:.1} min |\n| machines, at a time and in all | {}, {} |\n| jobs | {jobs} |\n| runs | {runs}: {} |\n\
             | two processes of one job, or of one gate (witness) | 0 |\n| jobs lost | 0 |\n| jobs stuck | 0 |\n\
             | violations (auditor, {} looks) | 0 |\n",
            self.began.elapsed().as_secs_f64() / 60.0,
            self.places.len(),
            self.machines,
            outcomes.join(", "),
            self.case.auditor.looks(),
        );
        let all = self.recovery.all();
        let reasons: BTreeSet<&str> = all.iter().map(|run| run.why).collect();
        text += "\n| orphaned runs, by what happened | | p50 | p99 | max | bound | beyond it, for want of a processor |\n|---|---|---|---|---|---|---|\n";
        for why in reasons {
            let of_it = all.iter().filter(|run| run.why == why);
            let (by_lease, longer): (Vec<_>, Vec<_>) = of_it.partition(|run| run.bound <= RECOVERY + ROUNDED);
            text += &line(why, &by_lease);
            text += &line(&format!("{why}; the database away meanwhile, or a handover's lease"), &longer);
        }
        text += &line("all", &all.iter().collect::<Vec<_>>());
        text += "\n| eldest replica, at rest, after | resident memory | descriptors |\n|---|---|---|\n";
        for sample in &self.samples {
            let Sample { minutes, resident, descriptors } = sample;
            text +=
                &format!("| {minutes:.0} min | {:.1} MiB | {descriptors} |\n", *resident as f64 / f64::from(1 << 20));
        }
        say(&text);
        assert!(!all.is_empty(), "nothing was ever orphaned");
        let late: Vec<_> = all.iter().filter(|run| run.took > run.bound + (BOUND - RECOVERY)).collect();
        assert!(late.is_empty(), "runs that recovered too late: {late:?}");
        let (Some(first), Some(last)) = (self.samples.first(), self.samples.last()) else {
            panic!("no round has ended")
        };
        assert!(last.resident < first.resident + GROWTH, "memory grows: {first:?}, {last:?}");
        assert!(last.descriptors < first.descriptors + MORE_DESCRIPTORS, "descriptors leak: {first:?}, {last:?}");
    }
}

/// One line of the table of recoveries.
fn line(what: &str, runs: &[&Recovered]) -> String {
    let Some(last) = runs.last() else { return String::new() };
    let at = |share: f64| runs[((runs.len() - 1) as f64 * share) as usize].took.as_secs_f64();
    let (least, most) = (runs.iter().map(|run| run.bound).min(), runs.iter().map(|run| run.bound).max());
    let [least, most] = [least, most].map(|bound| bound.unwrap_or_default().as_secs_f64());
    let bound =
        if most - least < 0.1 { format!("{most:.1} s") } else { format!("each its own, {least:.1} to {most:.1} s") };
    let beyond = runs.iter().filter(|run| run.took > run.bound).count();
    format!(
        "| {what} | {} | {:.2} s | {:.2} s | {:.2} s | {bound} | {beyond} |\n",
        runs.len(),
        at(0.5),
        at(0.99),
        last.took.as_secs_f64(),
    )
}
