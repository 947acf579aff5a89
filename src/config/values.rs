//! The layers: `orch.toml`, below the environment, below flags. Here a setting is a text and the place it came from.

use std::{collections::BTreeMap, ffi::OsString, fmt};

use clap::{Arg, ArgMatches, Command, Error, FromArgMatches};

use super::{
    paths::Environment,
    problem::{Place, Problem},
    table::{Fallback, SETTINGS},
};

/// Flags, one for each setting. Commands flatten it; it is also how tests and other code override settings.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Overrides(BTreeMap<&'static str, String>);

impl Overrides {
    /// Overrides the setting called `name` by a text, as its flag would.
    ///
    /// # Panics
    /// If there is no such setting, which is a mistake of the code and not of its input.
    #[must_use]
    pub fn with(mut self, name: &str, text: impl Into<String>) -> Self {
        let setting = super::Setting::named(name).expect("overridden settings exist");
        self.0.insert(setting.name, text.into());
        self
    }
}

impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl clap::Args for Overrides {
    fn augment_args(mut command: Command) -> Command {
        for setting in SETTINGS {
            let (default, variable) = (setting.default_text(), setting.variable);
            let doc = setting.doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
            command = command.arg(
                Arg::new(setting.name)
                    .long(setting.flag)
                    .value_name(setting.unit)
                    .help(format!("{doc} [default: {default}] [env: {variable}]"))
                    .help_heading("Settings"),
            );
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut overrides = Self::default();
        overrides.update_from_arg_matches(matches)?;
        Ok(overrides)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for setting in SETTINGS {
            if let Some(text) = matches.get_one::<String>(setting.name) {
                self.0.insert(setting.name, text.clone());
            }
        }
        Ok(())
    }
}

/// A text and the place that it came from.
#[derive(Clone)]
pub(super) struct Value {
    pub(super) text: String,
    pub(super) at: Place,
}

/// The texts of the settings, the highest layer each.
#[derive(Default)]
pub(super) struct Values {
    highest: BTreeMap<&'static str, Value>,
    /// What stands in the file although a variable or a flag wins over it: a mistake there is told all the same.
    shadowed: BTreeMap<&'static str, Value>,
}

impl Values {
    /// Sets a text, over what stood there.
    pub(super) fn set(&mut self, name: &'static str, text: String, at: impl Into<Place>) {
        let above = self.highest.insert(name, Value { text, at: at.into() });
        if let Some(below) = above.filter(|value| value.at.line.is_some()) {
            self.shadowed.insert(name, below);
        }
    }

    /// The text of a setting, if any layer has one.
    pub(super) fn text(&self, name: &str) -> Option<&Value> {
        self.highest.get(name)
    }

    /// Lays the environment over what is there. An empty variable is the same as none.
    pub(super) fn lay_environment(&mut self, environment: Environment<'_>, problems: &mut Vec<Problem>) {
        for setting in SETTINGS {
            // The name that everything else uses comes first, ours wins over it.
            let common = (setting.name == "database_url").then_some("DATABASE_URL");
            for variable in common.into_iter().chain([setting.variable]) {
                match environment(variable).map(OsString::into_string) {
                    Some(Ok(text)) if text.is_empty() => {}
                    Some(Ok(text)) => self.set(setting.name, text, variable),
                    Some(Err(_)) => problems.push(Problem::at(variable, "it is not UTF-8: write plain text")),
                    None => {}
                }
            }
        }
    }

    /// Lays flags over what is there.
    pub(super) fn lay_flags(&mut self, overrides: &Overrides) {
        for (name, text) in &overrides.0 {
            self.set(name, text.clone(), format!("--{}", name.replace('_', "-")));
        }
    }

    /// Fills in what no layer has.
    pub(super) fn lay_defaults(&mut self, environment: Environment<'_>, problems: &mut Vec<Problem>) {
        for setting in SETTINGS.iter().filter(|setting| !self.highest.contains_key(setting.name)).collect::<Vec<_>>() {
            let text = match setting.default {
                Fallback::Text(text) => text.to_owned(),
                Fallback::Unset(_) => String::new(),
                Fallback::Found(_, find) => match find(environment) {
                    Ok(text) => text,
                    Err(message) => {
                        problems.push(Problem::general(format!("{message}: set {}", setting.name)));
                        continue;
                    }
                },
            };
            self.set(setting.name, text, format!("default of {}", setting.name));
        }
    }

    /// The value of a setting; a refusal becomes a problem.
    pub(super) fn get<T>(
        &self,
        name: &str,
        parse: fn(&str) -> Result<T, String>,
        problems: &mut Vec<Problem>,
    ) -> Option<T> {
        let mut check = |value: &Value| {
            parse(&value.text)
                .map_err(|message| problems.push(Problem::at(value.at.clone(), format!("{name} {message}"))))
                .ok()
        };
        self.shadowed.get(name).map(&mut check);
        self.highest.get(name).and_then(check)
    }
}
