//! Low-water marks: where the lanes that a claim saw begin, so that the next need not wade through the dead rows before.
//!
//! Pure. A claim that looks at every lane steps over each index entry of a job that is gone and not yet vacuumed; where an
//! old snapshot keeps hundreds of thousands of them, that is all it does. So, while dead rows abound, claims go on from the
//! heads that the last one saw. Nothing hides below a mark for longer than a poll: such a look is followed by one at
//! everything as soon as it brings less than was wanted, and after a while in any case.

use std::time::Duration;

use jiff::Timestamp;

/// Dead rows below which looking at everything costs nothing to speak of.
const MANY_DEAD: i64 = 10_000;
/// Looking at everything takes at most one part in so many of a claimant's time, unless that would be rarer than a poll.
const SHARE: u32 = 10;

/// The first job of a lane, when a claim saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The project,
    pub project: String,
    /// its lane,
    pub lane: i64,
    /// and where in the lane's order the job stands.
    pub run_at: Timestamp,
    /// The job's number.
    pub id: i64,
}

/// What a claim came to, as far as marks go.
#[derive(Debug, Clone, Copy)]
pub struct Looked {
    /// Whether it saw every lane, or went on from all marks.
    pub whole: bool,
    /// Whether it brought as many jobs as were wanted.
    pub enough: bool,
    /// Dead rows of the table, as the statistics have it.
    pub dead_rows: i64,
    /// How long it took.
    pub took: Duration,
}

/// Where to go on.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    heads: Vec<Head>,
    /// How long they hold, counted from the last look at everything.
    good_for: Duration,
    /// Whether the claim now under way goes on from them.
    used: bool,
}

impl Marks {
    /// Where the next claim is to go on, if not everywhere. `since` is how long ago the last look at everything was.
    pub fn take(&mut self, since: Duration) -> Option<Vec<Head>> {
        self.used = !self.heads.is_empty() && since < self.good_for;
        self.used.then(|| self.heads.clone())
    }

    /// Notes what came of it. Whether everything was looked at.
    pub fn saw(&mut self, heads: Vec<Head>, looked: Looked, poll: Duration) -> bool {
        let used = std::mem::take(&mut self.used);
        if !used {
            self.good_for = looked.took.saturating_mul(SHARE - 1).min(poll);
        }
        let go_on = looked.whole && looked.enough && looked.dead_rows >= MANY_DEAD;
        self.heads = if go_on { heads } else { Vec::new() };
        !used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(1);
    const SLOW: Duration = Duration::from_millis(20);
    const GOOD: Looked = Looked { whole: true, enough: true, dead_rows: MANY_DEAD, took: SLOW };

    fn heads() -> Vec<Head> {
        vec![Head { project: "p".to_owned(), lane: 1, run_at: Timestamp::UNIX_EPOCH, id: 7 }]
    }

    #[test]
    fn marks_are_used_for_a_while_after_a_look_at_everything_that_brought_enough_among_many_dead_rows() {
        let mut marks = Marks::default();
        assert_eq!(marks.take(Duration::ZERO), None, "nothing was seen yet");
        assert!(marks.saw(heads(), GOOD, POLL), "that was a look at everything");
        assert_eq!(marks.take(SLOW * 8), Some(heads()));
        assert!(!marks.saw(heads(), GOOD, POLL), "that was none");
        assert_eq!(marks.take(SLOW * 9), None, "it is time for one");
    }

    #[test]
    fn whatever_leaves_a_doubt_has_the_next_claim_look_at_everything() {
        for doubt in [
            Looked { whole: false, ..GOOD },
            Looked { enough: false, ..GOOD },
            Looked { dead_rows: MANY_DEAD - 1, ..GOOD },
        ] {
            let mut marks = Marks::default();
            marks.saw(heads(), GOOD, POLL);
            marks.take(Duration::ZERO);
            marks.saw(heads(), doubt, POLL);
            assert_eq!(marks.take(Duration::ZERO), None, "{doubt:?}");
        }
    }

    #[test]
    fn however_slow_a_look_at_everything_is_there_is_one_in_every_poll() {
        let mut marks = Marks::default();
        marks.saw(heads(), Looked { took: POLL * 3, ..GOOD }, POLL);
        assert!(marks.take(POLL.mul_f64(0.999)).is_some());
        assert_eq!(marks.take(POLL), None);
    }
}
