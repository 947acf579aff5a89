//! The numbers of many jobs and their lines, in order, in as much memory as they have gaps.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::model::JobId;

/// Numbers in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Ids {
    /// First and last of each stretch without a gap.
    stretches: Vec<(i64, i64)>,
    /// First and last of each stretch without a gap in numbers or lines, and the line of the first.
    lines: Vec<(i64, i64, u64)>,
}

impl Ids {
    /// How many.
    pub(super) fn count(&self) -> i64 {
        self.stretches.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// The first line that got this number.
    pub(super) fn line_of(&self, JobId(id): JobId) -> Option<u64> {
        let (first, _, line) = self.lines.iter().find(|(first, last, _)| (*first..=*last).contains(&id))?;
        Some(line + (id - first) as u64)
    }
}

impl Extend<(JobId, u64)> for Ids {
    fn extend<T: IntoIterator<Item = (JobId, u64)>>(&mut self, ids: T) {
        for (JobId(id), line) in ids {
            match self.stretches.last_mut() {
                Some((_, last)) if *last + 1 == id => *last = id,
                _ => self.stretches.push((id, id)),
            }
            match self.lines.last_mut() {
                Some((first, last, at)) if *last + 1 == id && *at + (id - *first) as u64 == line => *last = id,
                _ => self.lines.push((id, id, line)),
            }
        }
    }
}

/// `3 jobs: 17 to 19`; where there are gaps, the least and the greatest.
impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.count();
        match (self.stretches.as_slice(), count) {
            ([], _) => f.write_str("0 jobs"),
            ([(id, _)], 1) => write!(f, "1 job: {id}"),
            ([(first, last)], _) => write!(f, "{count} jobs: {first} to {last}"),
            (stretches, _) => {
                let least = stretches.iter().map(|(first, _)| first).min().unwrap_or(&0);
                let greatest = stretches.iter().map(|(_, last)| last).max().unwrap_or(&0);
                write!(f, "{count} jobs, between {least} and {greatest}")
            }
        }
    }
}

impl Serialize for Ids {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.stretches.iter().flat_map(|(first, last)| *first..=*last))
    }
}

#[cfg(test)]
mod tests {
    use super::{Ids, JobId};

    #[test]
    fn numbers_keep_their_order_and_are_said_in_short() {
        for (numbers, says) in [
            (vec![], "0 jobs"),
            (vec![7], "1 job: 7"),
            (vec![7, 8, 9], "3 jobs: 7 to 9"),
            (vec![7, 8, 3, 8, 9], "5 jobs, between 3 and 9"),
        ] {
            let mut ids = Ids::default();
            ids.extend(numbers.iter().copied().map(JobId).zip(1..));
            assert_eq!((ids.to_string().as_str(), ids.count()), (says, numbers.len() as i64));
            assert_eq!(serde_json::to_value(&ids).unwrap(), serde_json::json!(numbers));
        }
    }

    #[test]
    fn a_number_is_found_by_the_first_line_that_got_it() {
        let mut ids = Ids::default();
        ids.extend([(7, 1), (8, 2), (9, 5), (3, 6), (8, 7), (4, 8)].map(|(id, line)| (JobId(id), line)));
        for (id, line) in [(7, Some(1)), (8, Some(2)), (9, Some(5)), (3, Some(6)), (4, Some(8)), (5, None), (10, None)]
        {
            assert_eq!(ids.line_of(JobId(id)), line, "{id}");
        }
    }
}
