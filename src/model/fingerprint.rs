//! Which database a replica works for: told by the server, noted in the database, remembered by the state directory.
//!
//! Pure. Decides whether the three agree. A restored dump still says that it is the original, whose jobs may be running;
//! a state directory beside another database holds evidence about runs that this one never heard of. Nobody may claim,
//! reap or settle until a person has said which is right.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One database of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The cluster's system identifier; none where the server does not tell this user.
    pub system_identifier: Option<i64>,
    /// The database in its cluster.
    pub database_oid: u32,
}

impl Fingerprint {
    /// Whether both are one database, as far as both say.
    #[must_use]
    pub fn agrees_with(self, other: Self) -> bool {
        let system = match (self.system_identifier, other.system_identifier) {
            (Some(own), Some(theirs)) => own == theirs,
            _ => true,
        };
        system && self.database_oid == other.database_oid
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.system_identifier {
            Some(system) => write!(f, "system {system}, oid {}", self.database_oid),
            None => write!(f, "system unknown, oid {}", self.database_oid),
        }
    }
}

/// What a state directory remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Nothing: it is new.
    Nothing,
    /// Something that nobody can read.
    Garbled,
    /// A database.
    Of(Fingerprint),
}

/// What is known when a replica is about to register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdentityFacts {
    /// What the server is.
    pub server: Fingerprint,
    /// What the database says it is; none until a replica noted it.
    pub recorded: Option<Fingerprint>,
    /// Whether the database ever had a run.
    pub has_runs: bool,
    /// What the state directory remembers.
    pub remembered: Memory,
    /// How many runs the state directory holds of which the database knows nothing.
    pub unknown_runs: usize,
}

/// Why nothing may be done until a person has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disagreement {
    /// The database says that it is another one: a restored dump, or a copy.
    Restored(Fingerprint),
    /// The state directory served another database; this one is new and empty.
    NewDatabase(Fingerprint),
    /// The state directory served another database.
    OtherDatabase(Fingerprint),
    /// The state directory remembers nothing and holds runs that this database does not know.
    UnknownRuns(usize),
    /// What the state directory remembers cannot be read.
    Garbled,
}

impl IdentityFacts {
    /// What does not fit together, the most telling first.
    #[must_use]
    pub fn disagreement(&self) -> Option<Disagreement> {
        if let Some(recorded) = self.recorded
            && !recorded.agrees_with(self.server)
        {
            return Some(Disagreement::Restored(recorded));
        }
        match self.remembered {
            Memory::Of(remembered) if remembered.agrees_with(self.server) => None,
            Memory::Of(remembered) if self.recorded.is_none() && !self.has_runs => {
                Some(Disagreement::NewDatabase(remembered))
            }
            Memory::Of(remembered) => Some(Disagreement::OtherDatabase(remembered)),
            Memory::Garbled => Some(Disagreement::Garbled),
            Memory::Nothing if self.unknown_runs > 0 => Some(Disagreement::UnknownRuns(self.unknown_runs)),
            Memory::Nothing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn database(system: i64, oid: u32) -> Fingerprint {
        Fingerprint { system_identifier: Some(system), database_oid: oid }
    }

    const HERE: Fingerprint = database(1, 5);
    const UNTOLD: Fingerprint = Fingerprint { system_identifier: None, database_oid: 5 };
    const USUAL: IdentityFacts = IdentityFacts {
        server: HERE,
        recorded: Some(HERE),
        has_runs: true,
        remembered: Memory::Of(HERE),
        unknown_runs: 0,
    };

    #[test]
    fn what_agrees_goes_on() {
        for facts in [
            USUAL,
            IdentityFacts { remembered: Memory::Nothing, ..USUAL },
            IdentityFacts { recorded: None, has_runs: false, remembered: Memory::Nothing, ..USUAL },
            // The server does not tell this user, or did not tell the one before: the oid is what can be had.
            IdentityFacts { server: UNTOLD, ..USUAL },
            IdentityFacts { recorded: Some(UNTOLD), remembered: Memory::Of(UNTOLD), ..USUAL },
            // A run that was given up before its claim arrived is no sign of another database.
            IdentityFacts { unknown_runs: 3, ..USUAL },
        ] {
            assert_eq!(facts.disagreement(), None, "{facts:?}");
        }
    }

    #[test]
    fn each_disagreement_has_its_name() {
        for other in [database(2, 5), database(1, 6), Fingerprint { system_identifier: None, database_oid: 6 }] {
            let elsewhere = Memory::Of(other);
            let restored = IdentityFacts { recorded: Some(other), ..USUAL };
            for (facts, expected) in [
                (restored, Disagreement::Restored(other)),
                (IdentityFacts { remembered: elsewhere, ..restored }, Disagreement::Restored(other)),
                (IdentityFacts { remembered: elsewhere, ..USUAL }, Disagreement::OtherDatabase(other)),
                (
                    IdentityFacts { remembered: elsewhere, recorded: None, has_runs: false, ..USUAL },
                    Disagreement::NewDatabase(other),
                ),
                (IdentityFacts { remembered: elsewhere, recorded: None, ..USUAL }, Disagreement::OtherDatabase(other)),
            ] {
                assert_eq!(facts.disagreement(), Some(expected), "{facts:?}");
            }
        }
        let strange = IdentityFacts { remembered: Memory::Nothing, unknown_runs: 2, ..USUAL };
        assert_eq!(strange.disagreement(), Some(Disagreement::UnknownRuns(2)));
        assert_eq!(IdentityFacts { remembered: Memory::Garbled, ..USUAL }.disagreement(), Some(Disagreement::Garbled));
    }
}
