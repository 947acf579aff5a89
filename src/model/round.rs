//! Where a replica looks next: the window of lanes of each claim, so that every lane is seen once a round.
//!
//! Pure. Small queues are one window, and nothing of this is noticed. With more lanes than a window has, it moves on: from
//! project to project, and in a project with many lanes a piece a pass.

use std::collections::HashMap;

/// Lanes that a claim for many slots looks at while jobs are found,
const LANES: i32 = 128;
/// one for few,
const LEAST: i32 = 32;
/// and between these for each slot: shares are fair among the lanes in sight, and each of them costs.
const A_SLOT: usize = 8;
/// Lanes that a claim looks at which follows one in vain: then looking is all that a claim costs.
const WIDE: i32 = 2048;
/// A claim that finds jobs looks at so many lanes of one project at the least, however many projects have more.
const FEWEST: i32 = 4;

/// The lanes that a claim looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// It begins behind this project, or, where that is among `cuts`, behind that lane of it; empty for the first.
    pub behind: String,
    /// Projects whose lanes were not seen to the end, and the lane behind which to go on.
    pub cuts: HashMap<String, i64>,
    /// How many lanes to look at.
    pub lanes: i32,
    /// How many of one project.
    pub of_one_project: i32,
}

impl Window {
    /// Whether it begins with the first lane of all.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.behind.is_empty() && self.cuts.is_empty()
    }
}

impl Default for Window {
    fn default() -> Self {
        Round::default().window(usize::MAX)
    }
}

/// What a claim says of its window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Behind which project to go on, where the window was full; otherwise there is none behind it.
    pub last_project: Option<String>,
    /// Projects whose lanes it did not see to the end, and the last lane of each that it saw.
    pub cuts: Vec<(String, i64)>,
}

impl Seen {
    /// Whether the window held every lane.
    #[must_use]
    pub fn is_all_of(&self, window: &Window) -> bool {
        window.is_first() && self.last_project.is_none() && self.cuts.is_empty()
    }
}

/// A project whose lanes were not seen to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    lane: i64,
    /// Whether it has more lanes than a window holds of one project, and was not just the last of its window.
    many: bool,
}

/// How far a replica has come in its round over all lanes.
///
/// While jobs are found, windows go from project to project, and in a project with many lanes a piece a pass, so that each
/// lane has its turn. A window in vain is followed by a walk over all lanes in their order: at its end the round is over.
#[derive(Debug, Clone, Default)]
pub struct Round {
    behind: String,
    /// The window before ended in the middle of that project: behind this lane of it, and not behind all of them.
    lane: Option<i64>,
    /// Where to go on in this pass over the projects,
    cuts: HashMap<String, Cut>,
    /// and in the next.
    ahead: HashMap<String, Cut>,
    /// The next window begins at the first lanes of its projects, which have the highest priorities. Every other one does
    /// while jobs are found, so that a project with many lanes has its urgent jobs found soon, and the others in turn.
    from_the_top: bool,
    /// How many projects had more lanes than a window holds of one, in the last pass.
    large: usize,
    /// Where the walk over all lanes goes on.
    walk: Option<Walk>,
}

/// A walk over all lanes since something was claimed.
#[derive(Debug, Clone, Default)]
struct Walk {
    behind: String,
    /// Behind this lane of that project, if not behind all of them.
    lane: Option<i64>,
    /// The last claim found what it wanted in the hands of another one: the next looks no wider than others do, or it would
    /// be longer in their way.
    narrow: bool,
}

impl Round {
    /// What to look at next, for so many slots.
    ///
    /// Shares are fair among the projects of a window. So, while jobs are found, those that could fill it by themselves
    /// share it.
    #[must_use]
    pub fn window(&self, slots: usize) -> Window {
        let few = i32::try_from(slots.saturating_mul(A_SLOT)).unwrap_or(LANES).clamp(LEAST, LANES);
        if let Some(Walk { behind, lane, narrow }) = &self.walk {
            let lanes = if *narrow { few } else { WIDE };
            let cuts = lane.map(|lane| (behind.clone(), lane)).into_iter().collect();
            return Window { behind: behind.clone(), cuts, lanes, of_one_project: lanes };
        }
        // The project behind which the window begins may have been cut in an earlier pass, and was seen to its end now.
        let cuts = self.cuts.iter().filter(|(project, _)| **project != self.behind);
        let cuts = cuts.map(|(project, cut)| (project.clone(), cut.lane));
        let middle = |lane| (self.behind.clone(), lane);
        let large = self.large.max(self.ahead.len()).clamp(1, few as usize);
        Window {
            behind: self.behind.clone(),
            cuts: if self.from_the_top {
                self.lane.map(|_| middle(i64::MIN)).into_iter().collect()
            } else {
                cuts.chain(self.lane.map(middle)).collect()
            },
            lanes: few,
            of_one_project: (few / 4 * 3 / large as i32).max(FEWEST),
        }
    }

    /// Notes what the claim saw. Whether there is more to see: not, if all lanes were seen since something was claimed.
    pub fn saw(&mut self, seen: &Seen, claimed: bool, contended: bool) -> bool {
        if let Some(walk) = &mut self.walk {
            let more = seen.last_project.is_some();
            if let (Some(last), false) = (&seen.last_project, claimed) {
                let cut = seen.cuts.iter().find(|(project, _)| project == last);
                *walk = Walk { behind: last.clone(), lane: cut.map(|(_, lane)| *lane), narrow: contended };
            } else {
                self.walk = None;
            }
            return claimed || more;
        }
        let everything = self.behind.is_empty()
            && (self.from_the_top || self.cuts.is_empty())
            && seen.last_project.is_none()
            && seen.cuts.is_empty();
        if std::mem::take(&mut self.from_the_top) {
            // What it saw it saw out of turn.
        } else {
            self.go_on(seen);
            self.from_the_top = claimed && self.cuts.values().chain(self.ahead.values()).any(|cut| cut.many);
        }
        if !claimed && !everything {
            self.walk = Some(Walk { narrow: contended, ..Walk::default() });
        }
        claimed || !everything
    }

    /// Takes the place where the next window in turn begins from what this one saw.
    fn go_on(&mut self, seen: &Seen) {
        if self.lane.take().is_some() {
            self.ahead.remove(&self.behind);
        }
        for (project, lane) in &seen.cuts {
            let before = self.cuts.remove(project);
            let many = before.is_some_and(|cut| cut.many) || seen.last_project.as_ref() != Some(project);
            self.ahead.insert(project.clone(), Cut { lane: *lane, many });
        }
        if let Some(last) = &seen.last_project {
            self.behind.clone_from(last);
            // Or a project at the end of full windows would have next to nothing of each.
            self.lane = seen.cuts.iter().find(|(project, _)| project == last).map(|(_, lane)| *lane);
            return;
        }
        // What was cut before and is not cut now was seen to its end, and begins anew; it has as many lanes again.
        self.large = self.ahead.len() + self.cuts.len();
        self.cuts = std::mem::take(&mut self.ahead);
        self.behind.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, ops::Bound};

    use proptest::prelude::*;

    use super::*;

    /// What `sql/runs/claim.sql` sees of a window.
    fn look(lanes: &BTreeSet<(String, i64)>, window: &Window) -> (Vec<(String, i64)>, Seen) {
        let (mut seen, mut turn) = (Vec::new(), 0);
        let after = |project: &str, lane: i64| {
            lanes.range((Bound::Excluded((project.to_owned(), lane)), Bound::Unbounded)).next()
        };
        let mut next = after(&window.behind, window.cuts.get(&window.behind).copied().unwrap_or(i64::MAX));
        let mut answer = Seen::default();
        while let Some((project, lane)) = next {
            turn = if seen.last().is_some_and(|(last, _)| last == project) { turn + 1 } else { 1 };
            seen.push((project.clone(), *lane));
            let full = seen.len() as i32 >= window.lanes;
            if turn >= window.of_one_project || (full && turn > 1) {
                answer.cuts.push((project.clone(), *lane));
            }
            if full {
                let last = if turn > 1 { seen.len() - 1 } else { seen.len() - 2 };
                answer.last_project = Some(seen[last].0.clone());
                break;
            }
            let behind = match window.cuts.get(project) {
                _ if turn >= window.of_one_project => i64::MAX,
                Some(cut) if turn == 1 => *cut.max(lane),
                _ => *lane,
            };
            next = after(project, behind);
        }
        (seen, answer)
    }

    fn lanes_of(projects: &[usize]) -> BTreeSet<(String, i64)> {
        let name = |n: usize| format!("p{n:04}");
        projects.iter().enumerate().flat_map(|(n, lanes)| (0..*lanes).map(move |lane| (name(n), lane as i64))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// The promise: wherever a round stands, and whatever was claimed before, it does not stop before it has seen all.
        #[test]
        fn no_round_ends_before_every_lane_was_seen_since_the_last_claim(
            projects in prop::collection::vec(prop_oneof![4 => 0_usize..4, 1 => 100_usize..4000], 1..40),
            claims in prop::collection::vec((any::<bool>(), 0_usize..50), 0..40),
            slots in 0_usize..50,
        ) {
            let lanes = lanes_of(&projects);
            let mut round = Round::default();
            for (claimed, slots) in claims {
                let (_, seen) = look(&lanes, &round.window(slots));
                round.saw(&seen, claimed, false);
            }
            let (_, seen) = look(&lanes, &round.window(slots));
            round.saw(&seen, true, false);
            let mut unseen = lanes.clone();
            let mut windows = 0;
            loop {
                let (found, seen) = look(&lanes, &round.window(slots));
                for lane in found {
                    unseen.remove(&lane);
                }
                windows += 1;
                prop_assert!(windows <= 2 + lanes.len() / 2000, "{windows} windows for {} lanes", lanes.len());
                if !round.saw(&seen, false, false) {
                    break;
                }
            }
            prop_assert!(unseen.is_empty(), "{} of {} were not seen", unseen.len(), lanes.len());
        }

        /// And while every window brings something, no lane is passed over for ever.
        #[test]
        fn while_all_windows_bring_something_every_lane_has_its_turn(
            projects in prop::collection::vec(prop_oneof![4 => 0_usize..4, 1 => 100_usize..1000], 1..12),
            slots in prop::collection::vec(0_usize..50, 1..10),
        ) {
            let lanes = lanes_of(&projects);
            let (mut round, mut unseen) = (Round::default(), lanes.clone());
            let least = slots.iter().min().map_or(0, |slots| slots * A_SLOT).clamp(LEAST as usize, LANES as usize);
            for slots in slots.iter().cycle().take(100 + 32 * lanes.len() / least + 8 * projects.len()) {
                let (found, seen) = look(&lanes, &round.window(*slots));
                for lane in found {
                    unseen.remove(&lane);
                }
                prop_assert!(round.saw(&seen, true, false));
            }
            prop_assert!(unseen.is_empty(), "{} of {} were not seen", unseen.len(), lanes.len());
        }
    }

    #[test]
    fn after_a_round_in_vain_the_next_sees_every_lane_again_in_few_windows() {
        let lanes = lanes_of(&[5000, 3, 4000]);
        let mut round = Round::default();
        for _ in 0..3 {
            let (mut unseen, mut windows) = (lanes.clone(), 0);
            loop {
                let (found, seen) = look(&lanes, &round.window(16));
                for lane in found {
                    unseen.remove(&lane);
                }
                windows += 1;
                if !round.saw(&seen, false, false) {
                    break;
                }
            }
            assert!(unseen.is_empty() && windows <= 6, "{} not seen in {windows} windows", unseen.len());
        }
    }

    #[test]
    fn a_small_queue_is_one_window_and_one_claim_that_finds_nothing_ends_the_round() {
        let lanes = lanes_of(&[3, 1, 5]);
        let mut round = Round::default();
        for claimed in [true, true, false] {
            let (found, seen) = look(&lanes, &round.window(16));
            assert_eq!(found.len(), 9);
            assert_eq!(round.saw(&seen, claimed, false), claimed);
        }
    }

    #[test]
    fn every_other_claim_begins_with_the_urgent_lanes_of_a_project_that_has_many() {
        let lanes = lanes_of(&[1000]);
        let mut round = Round::default();
        let mut firsts = Vec::new();
        for _ in 0..6 {
            let (found, seen) = look(&lanes, &round.window(16));
            firsts.push(found[1].1);
            round.saw(&seen, true, false);
        }
        assert_eq!(firsts, [1, 1, 96, 1, 191, 1]);
    }
}
