//! What is wrong with a configuration, and where. Every problem is kept, not only the first.

use std::fmt;

/// Where something stands: `orch.toml:12`, `ORCH_LEASE`, `--lease`, `agent "x"`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, the variable, the flag, the agent.
    pub name: String,
    /// The line of the file, from 1.
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

impl From<String> for Place {
    fn from(name: String) -> Self {
        Self { name, line: None }
    }
}

impl From<&str> for Place {
    fn from(name: &str) -> Self {
        Self::from(name.to_owned())
    }
}

/// One thing that is wrong, or worth a warning.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where; `None` where it concerns several settings.
    pub at: Option<Place>,
    /// A sentence that says what to do.
    pub message: String,
}

impl Problem {
    pub(super) fn at(at: impl Into<Place>, message: impl Into<String>) -> Self {
        Self { at: Some(at.into()), message: message.into() }
    }

    pub(super) fn general(message: impl Into<String>) -> Self {
        Self { at: None, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) => write!(f, "{at}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// All that is wrong, in one line: each its place and its sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The known name nearest to a mistaken one, as the end of a sentence: `: did you mean "lease"?`, or what is known.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let best = known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&word.to_lowercase(), &name.to_lowercase()), name))
        .min_by_key(|(distance, _)| *distance);
    match best {
        Some((distance, name)) if distance <= 1 + name.len() / 3 => format!("did you mean {name:?}?"),
        Some((_, name)) => format!("the nearest known name is {name:?}; remove the key or correct it"),
        None => "remove it".to_owned(),
    }
}
