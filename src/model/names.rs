//! What to say of a name that nobody knows: the nearest that somebody does, or some of those.

/// How many names a sentence lists.
const SHOWN: usize = 8;

/// The known name that was probably meant.
#[must_use]
pub fn nearest<'a>(word: &str, known: &'a [String]) -> Option<&'a str> {
    let distance = |name: &str| strsim::damerau_levenshtein(&word.to_lowercase(), &name.to_lowercase());
    let (name, distance) = known.iter().map(|name| (name, distance(name))).min_by_key(|(_, distance)| *distance)?;
    (distance <= (word.chars().count().max(name.chars().count()) / 3).max(1)).then_some(name)
}

/// `did you mean "x"?`, or `there are x, y and 3 more`; `known` is not empty.
#[must_use]
pub fn meant(word: &str, known: &[String]) -> String {
    match nearest(word, known) {
        Some(name) => format!("did you mean {name:?}?"),
        None => format!("there are {}", some_of(known)),
    }
}

/// Why an agent is refused that no replica has ever registered; `None` where one has.
#[must_use]
pub fn unknown_agent(agent: &str, known: &[String]) -> Option<String> {
    if known.iter().any(|name| name == agent) {
        return None;
    }
    Some(if known.is_empty() {
        format!("no replica has registered agent {agent:?}, nor any other: start `orch up` with it in orch.toml")
    } else {
        format!("no replica has registered agent {agent:?}: {}", meant(agent, known))
    })
}

fn some_of(known: &[String]) -> String {
    let shown = known.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if known.len() > SHOWN { format!("{shown} and {} more", known.len() - SHOWN) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::unknown_agent;

    #[test]
    fn an_unknown_agent_is_refused_with_the_nearest() {
        let known = ["count-lines".to_owned(), "deploy".to_owned()];
        let said = |agent: &str| unknown_agent(agent, &known).unwrap_or_default();
        assert_eq!(unknown_agent("deploy", &known), None);
        assert!(said("Deplyo").contains("did you mean \"deploy\"?"));
        assert!(said("sing").contains("there are count-lines, deploy"));
        assert!(unknown_agent("deploy", &[]).unwrap_or_default().contains("orch up"));
    }
}
