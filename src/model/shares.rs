//! Which project has had more than its share of late, as one replica remembers it.
//!
//! Fair share goes by what runs now (`sql/runs/claim.sql`), and whole runs are coarse: two slots cannot be split one to
//! three at any instant, and one slot is free or taken. This makes up for it over time: a project that was above its share
//! when slots were given away is held to be so much ahead the next time, one below it behind, by two runs at the most. What
//! runs is everybody's count; the memory is each replica's own, and losing it costs nothing but a turn.

use std::collections::HashMap;

/// How far one project may be ahead or behind, in runs.
const MOST: f64 = 2.0;
/// How much of a deviation is remembered each time.
const GAIN: f64 = 0.5;
/// More projects than this are not remembered beyond the claim that saw them.
const PROJECTS: usize = 4096;

/// A project with a job that may run, as a claim found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InSight {
    /// Its name.
    pub project: String,
    /// Its weight.
    pub weight: i32,
    /// How many of its jobs ran before the claim.
    pub running: i64,
}

/// By how many runs each project is ahead of its share.
#[derive(Debug, Clone, Default)]
pub struct Shares(HashMap<String, f64>);

impl Shares {
    /// The projects and by how much each is ahead; one that is not here is neither ahead nor behind.
    #[must_use]
    pub fn ahead(&self) -> HashMap<String, f64> {
        self.0.clone()
    }

    /// Notes a claim that found jobs of these projects (none, where it found one project alone) and took some of each;
    /// and whether it saw all that waits.
    pub fn claimed(&mut self, in_sight: &[InSight], claimed: &HashMap<&str, usize>, all: bool) {
        if claimed.is_empty() || (in_sight.len() < 2 && !all) {
            return;
        }
        if in_sight.len() < 2 {
            // Alone, it can have no more than its share; who comes now has its turn all the same before it goes on.
            self.0 = claimed.keys().map(|project| ((*project).to_owned(), GAIN)).collect();
            return;
        }
        let now = |seen: &InSight| seen.running as f64 + claimed.get(seen.project.as_str()).map_or(0.0, |n| *n as f64);
        let running: f64 = in_sight.iter().map(now).sum();
        let weights: f64 = in_sight.iter().map(|seen| f64::from(seen.weight)).sum();
        if self.0.len() > PROJECTS {
            self.0.retain(|project, _| in_sight.iter().any(|seen| seen.project == *project));
        }
        for seen in in_sight {
            let above = now(seen) - running * f64::from(seen.weight) / weights;
            let ahead = self.0.entry(seen.project.clone()).or_default();
            *ahead = (*ahead + GAIN * above).clamp(-MOST, MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claims for `slots` slots, of which one is freed at a time, and says how many of each project were started. The end
    /// of a run is drawn by `next`, a number below the one it is given.
    fn played(weights: &[i32], slots: usize, runs: usize, mut next: impl FnMut(usize) -> usize) -> Vec<usize> {
        let mut shares = Shares::default();
        let name = |p: usize| format!("p{p}");
        let (mut running, mut started) = (Vec::new(), vec![0; weights.len()]);
        while started.iter().sum::<usize>() < runs {
            let ahead = shares.ahead();
            let count = |p: usize, list: &[usize]| list.iter().filter(|q| **q == p).count();
            let in_sight: Vec<InSight> = (0..weights.len())
                .map(|p| InSight { project: name(p), weight: weights[p], running: count(p, &running) as i64 })
                .collect();
            let mut taken = vec![0; weights.len()];
            while running.len() < slots {
                let key = |p: usize| {
                    (count(p, &running) as f64 + ahead.get(&name(p)).copied().unwrap_or(0.0)) / f64::from(weights[p])
                };
                let first = (0..weights.len()).min_by(|a, b| key(*a).total_cmp(&key(*b))).unwrap();
                running.push(first);
                (taken[first], started[first]) = (taken[first] + 1, started[first] + 1);
            }
            let names: Vec<_> = (0..weights.len()).map(name).collect();
            let claimed = (0..weights.len()).filter(|p| taken[*p] > 0).map(|p| (names[p].as_str(), taken[p])).collect();
            shares.claimed(&in_sight, &claimed, true);
            running.swap_remove(next(running.len()));
        }
        started
    }

    #[test]
    fn over_time_runs_are_shared_by_weight_however_few_the_slots() {
        let mut state = 1_u64;
        let mut draw = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for weights in [vec![1, 3], vec![1, 1], vec![1, 2, 5], vec![1; 7]] {
            for slots in [1, 2, 3, 4, 8, 10, 16] {
                let started = played(&weights, slots, 4000, &mut draw);
                for (p, n) in started.iter().enumerate() {
                    let share = 4000.0 * f64::from(weights[p]) / f64::from(weights.iter().sum::<i32>());
                    let off = (*n as f64 / share - 1.0).abs();
                    assert!(off < 0.1, "{weights:?} on {slots} slots: {started:?}");
                }
            }
        }
    }

    #[test]
    fn who_was_alone_stands_behind_who_comes() {
        let mut shares = Shares::default();
        shares.claimed(&[], &HashMap::from([("busy", 3)]), true);
        assert_eq!(shares.ahead(), HashMap::from([("busy".to_owned(), 0.5)]));
    }

    #[test]
    fn nobody_is_ever_ahead_or_behind_by_more_than_two_runs() {
        let mut shares = Shares::default();
        let seen = |project: &str, running| InSight { project: project.into(), weight: 1, running };
        for _ in 0..50 {
            shares.claimed(&[seen("long", 0), seen("short", 90)], &HashMap::from([("short", 10)]), true);
        }
        assert!(shares.0.values().all(|ahead| ahead.abs() <= MOST), "{shares:?}");
    }
}
