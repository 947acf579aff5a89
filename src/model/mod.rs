//! The words of the design as types, and its decisions as functions of facts.
//!
//! Pure: no clock, no input or output, no SQL.

pub mod fence;
mod fingerprint;
mod ids;
mod lineage;
mod marks;
mod names;
mod outcome;
pub mod ownership;
mod reason;
mod round;
mod rules;
pub mod schedule;
pub mod secret;
mod settle;
mod shares;
mod span;
mod status;

pub use fingerprint::{Disagreement, Fingerprint, IdentityFacts, Memory};
pub use ids::{JobId, ReplicaId, RunId};
pub use lineage::{Lineage, Strayed};
pub use marks::{Head, Looked, Marks};
pub use names::{meant, nearest, unknown_agent};
pub use outcome::{ClosedBy, Containment, Outcome};
pub use reason::Reason;
pub use round::{Round, Seen, Window};
pub use rules::{Backoff, OnLost, Rules};
pub use settle::{Counts, Due, Facts, Next, Reaped, settle, settle_late};
pub use shares::{InSight, Shares};
pub use span::{parse_positive_span, parse_span};
pub use status::JobStatus;

/// A word that names none of the values of a type, with the words that do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {word:?}: it is one of {known}")]
pub struct UnknownWord {
    /// What was being named, e.g. `status`.
    pub what: &'static str,
    /// The word that was given.
    pub word: String,
    /// The words that are known, separated by commas.
    pub known: String,
}

/// Declares an enum whose variants have one word each: in SQL, in JSON, in the CLI and in logs alike.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident as $what:literal { $($(#[$vmeta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $word)] $variant,)+ }

        impl $name {
            /// Every value, in the order of the declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word in SQL, JSON, CLI and logs.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::model::UnknownWord;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::model::UnknownWord {
                        what: $what,
                        word: word.to_owned(),
                        known: [$($word),+].join(", "),
                    }),
                }
            }
        }
    };
}
pub(crate) use words;
