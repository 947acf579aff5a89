//! `orch config check`: everything that is wrong, what is doubtful, and what the settings mean.

use std::{ffi::OsString, os::unix::fs::PermissionsExt as _, path::Path};

use super::{
    Overrides, Settings, bounds, load_reporting,
    paths::{Environment, process_environment},
    problem::{Problem, nearest},
    table::SETTINGS,
};
use crate::agents::{self, Agent};

/// What a check found.
#[derive(Debug)]
pub struct Report {
    /// The settings, if nothing is wrong.
    pub settings: Option<Settings>,
    /// What is wrong: orch would not start.
    pub errors: Vec<Problem>,
    /// What is doubtful.
    pub warnings: Vec<Problem>,
    /// What the settings mean for whoever runs this.
    pub notes: Vec<String>,
}

/// Variables that begin with `ORCH_` and are no setting: the log filter, what a run sees, what tests use.
const OTHER_VARIABLES: &[&str] = &[
    "ORCH_LOG",
    "ORCH_JOB_ID",
    "ORCH_RUN_ID",
    "ORCH_ATTEMPT",
    "ORCH_PROJECT",
    "ORCH_PAYLOAD_FILE",
    "ORCH_RESULT_FILE",
    "ORCH_PREVIOUS_ERROR",
];

/// Checks the configuration as `orch up` would read it.
#[must_use]
pub fn check(overrides: &Overrides) -> Report {
    let names = std::env::vars_os().map(|(name, _)| name).collect();
    check_from(overrides, &process_environment, names)
}

fn check_from(overrides: &Overrides, environment: Environment<'_>, variables: Vec<OsString>) -> Report {
    let (settings, errors) = load_reporting(overrides, environment);
    let mut warnings = unknown_variables(variables);
    let mut notes = Vec::new();
    if let Some(settings) = &settings {
        for agent in settings.agents.values() {
            let place = format!("agent {:?}", agent.name);
            warnings.extend(agents::warnings(agent).into_iter().map(|message| Problem::at(place.as_str(), message)));
            warnings.extend(missing_program(agent, environment).map(|message| Problem::at(place.as_str(), message)));
            warnings.extend(too_short(agent, environment).map(|message| Problem::at(place.as_str(), message)));
            warnings.extend(missing_user(agent).map(|message| Problem::at(place.as_str(), message)));
        }
        if settings.agents.is_empty() {
            warnings
                .push(Problem::general("there is no agent, so no job can run here: write [agents.NAME] in orch.toml"));
        }
        notes = bounds::explanations(settings);
    }
    Report { settings, errors, warnings, notes }
}

fn unknown_variables(variables: Vec<OsString>) -> Vec<Problem> {
    let known = |name: &str| {
        SETTINGS.iter().any(|setting| setting.variable == name)
            || OTHER_VARIABLES.contains(&name)
            || name.starts_with("ORCH_TEST_")
    };
    let mut unknown: Vec<Problem> = variables
        .into_iter()
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with("ORCH_") && !known(name))
        .map(|name| {
            let hint = nearest(&name, SETTINGS.iter().map(|setting| setting.variable));
            Problem::at(name.as_str(), format!("this variable is no setting and changes nothing: {hint}"))
        })
        .collect();
    unknown.sort();
    unknown
}

/// A program that is not to be found now; it may still be installed before a job asks for it.
fn missing_program(agent: &Agent, environment: Environment<'_>) -> Option<String> {
    let program = agents::plain(agent.command.first()?)?;
    let executable = |path: &Path| {
        path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return (!executable(Path::new(&program))).then(|| {
            format!("its program {program} does not exist or cannot be executed: install it or correct the path")
        });
    }
    let path = agents::search_path(agent, environment);
    let found = std::env::split_paths(&path).any(|directory| executable(&directory.join(&program)));
    (!found).then(|| {
        format!("its program {program:?} is in no directory of PATH ({path}): install it, or write its whole path")
    })
}

/// A secret of this environment, which may not be the one that orch will have.
fn too_short(agent: &Agent, environment: Environment<'_>) -> Option<String> {
    let name = agents::too_short(agent, environment)?;
    Some(format!(
        "its variable {name} is too short here to be hidden, so that its runs could not start: choose a longer value"
    ))
}

fn missing_user(agent: &Agent) -> Option<String> {
    let user = agent.user.as_deref()?;
    match nix::unistd::User::from_name(user) {
        Ok(Some(found)) => {
            let own = nix::unistd::Uid::effective();
            (!own.is_root() && found.uid != own)
                .then(|| format!("its user {user:?} is another than the one of orch, and only root may change to it"))
        }
        _ => Some(format!("its user {user:?} does not exist here: create it or correct the name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(toml: &str, variables: &[&str]) -> Report {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("orch.toml");
        std::fs::write(&file, toml).unwrap();
        let overrides = Overrides::default().with("config", file.to_str().unwrap()).with("state_dir", "/x");
        check_from(&overrides, &|_| None, variables.iter().map(OsString::from).collect())
    }

    #[test]
    fn doubtful_things_are_warnings_and_the_lease_is_explained() {
        let report = report(
            "[agents.a]\ncommand = [\"/bin/sh\", \"-c\", \"{{ payload.x }}\"]\n\
             [agents.b]\ncommand = [\"no-such-program-anywhere\", \"--\", \"{{ payload.x }}\"]\nuser = \"no-such-user\"\n",
            &["ORCH_REAP_GRASE", "ORCH_LOG", "ORCH_LEASE", "HOME"],
        );
        assert_eq!(report.errors, []);
        let warnings: Vec<String> = report.warnings.iter().map(ToString::to_string).collect();
        for (index, words) in
            ["ORCH_REAP_GRACE", "\"--\" before", "no-such-program-anywhere", "no-such-user"].iter().enumerate()
        {
            assert!(warnings[index].contains(words), "{index}: {warnings:#?}");
        }
        assert_eq!(warnings.len(), 4, "{warnings:#?}");
        assert!(report.notes[0].contains("45s") && report.notes[1].contains("1m 5s"), "{:?}", report.notes);
    }

    #[test]
    fn every_error_is_reported_with_its_line() {
        let report = report("leese = \"5s\"\nreap_grace = 5\n[agents.a]\ncomand = []\n[agents.b]\ncommand = []\n", &[]);
        let places: Vec<_> = report.errors.iter().map(|e| e.at.as_ref().unwrap().line.unwrap()).collect();
        assert_eq!(places, [1, 2, 3, 4, 6], "{:#?}", report.errors);
        assert!(report.settings.is_none());
    }
}
