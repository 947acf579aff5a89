//! Which server answers: its cluster, and how many promotions it has been through.
//!
//! Pure. Decides whether an answer may be believed. After a failover the old primary may still be there and grant leases
//! that nobody else sees; it is known by its timeline, which every promotion raises.

/// What a server says of itself, or what this process has seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lineage {
    /// The cluster; none where the server does not tell this user.
    pub system_identifier: Option<i64>,
    /// The timeline that it writes; none on a standby.
    pub timeline: Option<u32>,
}

/// Why an answer is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Strayed {
    /// It was left behind by a failover.
    #[error(
        "the server is on timeline {answered}, and timeline {seen} was seen before, so it was left behind by a failover: \
         shut it down, or make it a standby"
    )]
    LowerTimeline {
        /// The highest seen.
        seen: u32,
        /// What it said.
        answered: u32,
    },
    /// It is another cluster.
    #[error(
        "the server is of another cluster (system {answered}) than before (system {seen}): correct where the host name \
         leads, or, if the database was moved or upgraded, start this replica again"
    )]
    OtherSystem {
        /// The one seen.
        seen: i64,
        /// What it said.
        answered: i64,
    },
}

impl Lineage {
    /// What has been seen after this answer, or why the answer is not to be believed.
    pub fn after(self, answer: Self) -> Result<Self, Strayed> {
        if let (Some(seen), Some(answered)) = (self.system_identifier, answer.system_identifier)
            && seen != answered
        {
            return Err(Strayed::OtherSystem { seen, answered });
        }
        if let (Some(seen), Some(answered)) = (self.timeline, answer.timeline)
            && answered < seen
        {
            return Err(Strayed::LowerTimeline { seen, answered });
        }
        Ok(Self {
            system_identifier: self.system_identifier.or(answer.system_identifier),
            timeline: self.timeline.max(answer.timeline),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lineages() -> impl Strategy<Value = Lineage> {
        (proptest::option::of(1..3_i64), proptest::option::of(1..4_u32))
            .prop_map(|(system_identifier, timeline)| Lineage { system_identifier, timeline })
    }

    proptest! {
        #[test]
        fn nothing_older_or_foreign_is_believed_and_nothing_seen_is_forgotten(
            answers in proptest::collection::vec(lineages(), 0..12)
        ) {
            let (mut seen, mut believed): (_, Vec<Lineage>) = (Lineage::default(), Vec::new());
            for answer in answers {
                let foreign = believed.iter().filter_map(|one| one.system_identifier)
                    .any(|one| answer.system_identifier.is_some_and(|system| system != one));
                let older = believed.iter().filter_map(|one| one.timeline)
                    .any(|one| answer.timeline.is_some_and(|timeline| timeline < one));
                match seen.after(answer) {
                    Ok(after) => {
                        prop_assert!(!foreign && !older);
                        believed.push(answer);
                        seen = after;
                    }
                    Err(Strayed::OtherSystem { .. }) => prop_assert!(foreign),
                    Err(Strayed::LowerTimeline { .. }) => prop_assert!(older && !foreign),
                }
                prop_assert_eq!(seen.timeline, believed.iter().filter_map(|one| one.timeline).max());
            }
        }
    }
}
