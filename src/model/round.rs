//! Where a replica looks next: the window of lanes of each claim, so that every lane is seen once a round.
//!
//! Pure. Small queues are one window, and nothing of this is noticed. With more lanes than a window has, it moves on: from
//! project to project, and in a project with many lanes a piece a pass.

use std::collections::HashMap;

/// Lanes that a claim looks at while jobs are found.
const LANES: i32 = 128;
/// How many more a claim looks at that follows one which found nothing: then looking is all that a claim costs.
const WIDER: i32 = 16;

/// The lanes that a claim looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// It begins behind this project; empty for the first.
    pub behind: String,
    /// Projects whose lanes were not seen to the end, and the lane behind which to go on.
    pub cuts: HashMap<String, i64>,
    /// How many lanes to look at.
    pub lanes: i32,
    /// How many of one project.
    pub of_one_project: i32,
}

impl Default for Window {
    fn default() -> Self {
        Round::default().window()
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

/// A project whose lanes were not seen to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    lane: i64,
    /// Whether all its lanes up to this one were seen since something was claimed.
    whole: bool,
    /// Whether it has more lanes than a window holds of one project, and was not just the last of its window.
    many: bool,
    /// Whether all its lanes were seen since something was claimed: where it is cut now is for later rounds.
    done: bool,
}

/// How far a replica has come in its round over all lanes.
#[derive(Debug, Clone, Default)]
pub struct Round {
    behind: String,
    /// Where to go on in this pass over the projects,
    cuts: HashMap<String, Cut>,
    /// and in the next.
    ahead: HashMap<String, Cut>,
    /// Whether this pass has seen every project up to here since something was claimed.
    whole: bool,
    /// The next window begins at the first lanes of its projects, which have the highest priorities. Every other one does
    /// while jobs are found, so that a project with many lanes has its urgent jobs found soon, and the others in turn.
    from_the_top: bool,
    fruitless: bool,
}

impl Round {
    /// What to look at next.
    #[must_use]
    pub fn window(&self) -> Window {
        let cuts = self.cuts.iter().filter(|_| !self.from_the_top);
        let lanes = if self.fruitless { LANES * WIDER } else { LANES };
        Window {
            behind: self.behind.clone(),
            cuts: cuts.map(|(project, cut)| (project.clone(), cut.lane)).collect(),
            lanes,
            of_one_project: lanes / 4 * 3,
        }
    }

    /// Notes what the claim saw. Whether there is more to see: not, if all lanes were seen since something was claimed.
    ///
    /// A claim that found what it wanted in the hands of another one looks no wider the next time: it would be longer in
    /// the way of the others, of whom it is one.
    pub fn saw(&mut self, seen: &Seen, claimed: bool, contended: bool) -> bool {
        self.fruitless = !claimed && !contended;
        if std::mem::take(&mut self.from_the_top) {
            if claimed {
                self.begin_anew();
            }
            return true;
        }
        self.whole |= self.behind.is_empty();
        for (project, lane) in &seen.cuts {
            let before = self.cuts.remove(project);
            let whole = before.is_none_or(|cut| cut.whole);
            let many = before.is_some_and(|cut| cut.many) || seen.last_project.as_ref() != Some(project);
            let done = before.is_some_and(|cut| cut.done);
            self.ahead.insert(project.clone(), Cut { lane: *lane, whole, many, done });
        }
        if claimed {
            self.begin_anew();
            self.from_the_top = self.cuts.values().chain(self.ahead.values()).any(|cut| cut.many);
        }
        if let Some(last) = &seen.last_project {
            self.behind.clone_from(last);
            return true;
        }
        // The last project was passed. What was cut before and is not cut now was seen to its end: from the cut on only,
        // unless it had been followed from its first lane. Then its first one is all that the next passes look at: what they
        // have room for is for those that are not done.
        let begin =
            |cut: Cut| Cut { lane: if cut.whole { i64::MAX } else { i64::MIN }, whole: true, done: cut.whole, ..cut };
        self.ahead.extend(self.cuts.drain().map(|(project, cut)| (project, begin(cut))));
        self.cuts = std::mem::take(&mut self.ahead);
        self.behind.clear();
        let more = claimed || !self.whole || self.cuts.values().any(|cut| !cut.done);
        if !more {
            // Whenever it is, the next round sees every lane again.
            *self = Self { fruitless: self.fruitless, ..Self::default() };
        }
        more
    }

    /// Something was claimed: what was seen before may look different now.
    fn begin_anew(&mut self) {
        self.whole = false;
        for cuts in [&mut self.cuts, &mut self.ahead] {
            cuts.retain(|_, cut| cut.lane != i64::MIN && cut.lane != i64::MAX);
            for cut in cuts.values_mut() {
                (cut.whole, cut.done) = (false, false);
            }
        }
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
        let mut next = after(&window.behind, i64::MAX);
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
            claims in prop::collection::vec(any::<bool>(), 0..40),
        ) {
            let lanes = lanes_of(&projects);
            let mut round = Round::default();
            for claimed in claims {
                let (_, seen) = look(&lanes, &round.window());
                round.saw(&seen, claimed, false);
            }
            let (_, seen) = look(&lanes, &round.window());
            round.saw(&seen, true, false);
            let mut unseen = lanes.clone();
            let mut windows = 0;
            loop {
                let (found, seen) = look(&lanes, &round.window());
                for lane in found {
                    unseen.remove(&lane);
                }
                windows += 1;
                prop_assert!(windows <= 100 + 8 * lanes.len() / 512, "{windows} windows for {} lanes", lanes.len());
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
        ) {
            let lanes = lanes_of(&projects);
            let (mut round, mut unseen) = (Round::default(), lanes.clone());
            for _ in 0..100 + 32 * lanes.len() / 128 + 8 * projects.len() {
                let (found, seen) = look(&lanes, &round.window());
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
                let (found, seen) = look(&lanes, &round.window());
                for lane in found {
                    unseen.remove(&lane);
                }
                windows += 1;
                if !round.saw(&seen, false, false) {
                    break;
                }
            }
            assert!(unseen.is_empty() && windows <= 12, "{} not seen in {windows} windows", unseen.len());
        }
    }

    #[test]
    fn a_small_queue_is_one_window_and_one_claim_that_finds_nothing_ends_the_round() {
        let lanes = lanes_of(&[3, 1, 5]);
        let mut round = Round::default();
        for claimed in [true, true, false] {
            let (found, seen) = look(&lanes, &round.window());
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
            let (found, seen) = look(&lanes, &round.window());
            firsts.push(found[1].1);
            round.saw(&seen, true, false);
        }
        assert_eq!(firsts, [1, 1, 96, 1, 191, 1]);
    }
}
