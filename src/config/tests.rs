//! Layers, bounds, refusals and `.env.example`.

use std::{ffi::OsString, fmt::Write as _, path::PathBuf, time::Duration};

use super::*;
use crate::{
    agents::Stdin,
    model::{Containment, OnLost},
};

struct Case {
    directory: tempfile::TempDir,
    variables: Vec<(&'static str, &'static str)>,
    overrides: Overrides,
}

impl Case {
    fn new(toml: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("orch.toml"), toml).unwrap();
        let overrides = Overrides::default().with("config", directory.path().join("orch.toml").to_str().unwrap());
        Self { directory, variables: vec![("XDG_STATE_HOME", "/state")], overrides }
    }

    fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }

    fn flag(mut self, name: &str, value: &str) -> Self {
        self.overrides = self.overrides.with(name, value);
        self
    }

    fn load(&self) -> anyhow::Result<Settings> {
        load_from(&self.overrides, &|name| {
            self.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
    }

    fn error(&self) -> String {
        let error = self.load().unwrap_err().to_string();
        error.replace(self.directory.path().to_str().unwrap(), ".")
    }
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let case = Case::new("reap_grace = \"1s\"\nheartbeat = \"2s\"\npool_size = 9\nreaper_enabled = false")
        .variable("ORCH_HEARTBEAT", "3s")
        .variable("ORCH_REAP_GRACE", "2s")
        .variable("ORCH_LEASE", "")
        .variable("ORCH_SERIAL_GATE_ENABLED", "0")
        .flag("reap_grace", "3s");
    let settings = case.load().unwrap();
    assert_eq!(settings.reap_grace, Duration::from_secs(3), "the flag");
    assert_eq!(settings.heartbeat, Duration::from_secs(3), "the variable");
    assert_eq!(settings.pool_size, 9, "the file");
    assert!(!settings.reaper_enabled && !settings.serial_gate_enabled);
    assert_eq!(settings.lease, Duration::from_mins(1), "an empty variable is none");
    assert_eq!(settings.config, Some(case.directory.path().join("orch.toml")));
}

#[test]
fn the_database_url_has_its_common_variable_and_is_never_shown() {
    let case =
        Case::new("database_url = \"postgres://file@h/d\"").variable("DATABASE_URL", "postgres://me:hunter2@h/d");
    let settings = case.load().unwrap();
    assert_eq!(settings.database_url.as_deref(), Some("postgres://me:hunter2@h/d"));
    assert!(!format!("{settings:?} {:?}", case.overrides).contains("hunter2"));
    let own = case.variable("ORCH_DATABASE_URL", "postgres://own@h/d").load().unwrap();
    assert_eq!(own.database_url.as_deref(), Some("postgres://own@h/d"));
}

#[test]
fn defaults_are_those_of_the_design() {
    let settings = Case::new("").load().unwrap();
    assert_eq!(settings.listen, "127.0.0.1:8080".parse().unwrap());
    assert_eq!((settings.pool_size, settings.prepared_statements), (8, true));
    assert_eq!(settings.max_concurrency, paths::cores());
    let seconds =
        [settings.heartbeat, settings.lease, settings.kill_grace, settings.reap_grace, settings.reap_interval];
    assert_eq!(seconds.map(|duration| duration.as_secs()), [5, 60, 10, 5, 5]);
    assert_eq!((settings.drain, settings.drain_grace), (Drain::Finish, Duration::from_secs(30)));
    assert_eq!(settings.handover_lease, Duration::from_mins(5));
    assert_eq!((settings.log_cap, settings.payload_max), (16 << 20, 1 << 20));
    assert_eq!((settings.max_lost, settings.max_transient, settings.max_interrupted), (3, 100, 100));
    assert_eq!(settings.keep_finished, Duration::from_hours(14 * 24));
    assert_eq!(settings.database_url, None);
    let root = nix::unistd::Uid::effective().is_root();
    let base = if root { "/var/lib/orch" } else { "/state/orch" };
    assert_eq!(settings.state_dir.parent(), Some(Path::new(base)));
}

#[test]
fn every_refusal_is_one_sentence_with_its_place() {
    for (toml, expected) in [
        ("reap_grase = \"5s\"", "./orch.toml:1: unknown key \"reap_grase\": did you mean \"reap_grace\"?"),
        ("\n\nlease = \"5 parsecs\"", "./orch.toml:3: lease is \"5 parsecs\", which is no duration: write for example"),
        ("lease = 60", "./orch.toml:1: lease is \"60\", which is no duration"),
        ("lease = \"20s\"", "lease is 20s, shorter than 4 heartbeat + kill_grace + reap_grace, which are 35s"),
        ("reap_interval = \"16s\"", "reap_interval is 16s, longer than a quarter of the lease (1m): write at most 15s"),
        ("max_concurrency = 0", "./orch.toml:1: max_concurrency is 0, which is out of bounds: write a number from 1"),
        ("pool_size = 1", "./orch.toml:1: pool_size is 1, which is out of bounds: write a number from 2"),
        ("pool_size = 1.5", "./orch.toml:1: pool_size is a number with a fraction, which it cannot be"),
        ("listen = \"0.0.0.0:80\"", "listen is 0.0.0.0:80, which other hosts may reach, and no http_token_file says"),
        ("listen = \"[::]:80\"\nhttp_token_file = \"\"", "name a file with tokens, or write a loopback address"),
        ("listen = \"127.0.0.1:70000\"", "no address: write an address and a port"),
        (
            "lease = \"60s\"\nkill_grace = \"26s\"",
            "lease is 1m, shorter than 2 kill_grace + 2 heartbeat, which are 1m 2s: a run starts only while",
        ),
        (
            "lease = \"6m\"\ndrain = \"handover\"",
            "handover_lease is 5m, shorter than the lease (6m), which a handover must not shorten: write at least 6m",
        ),
        ("drain = \"leave\"", "drain is \"leave\", which is no way to stop: write \"finish\" or \"handover\""),
        ("log_format = \"xml\"", "no log format: write \"text\" or \"json\""),
        ("log_cap = \"16MB16\"", "no size: write for example"),
        ("reaper_enabled = \"maybe\"", "neither: write \"true\" or \"false\""),
        ("lease = \"5s", "./orch.toml:1: this is no TOML"),
        ("agents = 3", "agents is no table: write [agents.NAME]"),
        ("[agents]\na = 3", "agents.a is no table: write [agents.a]"),
        ("[agents.\"a b\"]\ncommand = [\"true\"]", "its name is not well formed"),
        ("[agents.a]", "./orch.toml:1: agent \"a\" has no command"),
        ("[agents.a]\ncommand = \"true\"", "./orch.toml:2: agent \"a\" has a command that is a text: write a list"),
        ("[agents.a]\ncommand = []", "its command is empty"),
        (
            "[agents.a]\ncommand = [\"true\"]\ntimout = \"5s\"",
            "./orch.toml:3: agent \"a\" has the unknown key \"timout\": did you mean \"timeout\"?",
        ),
        (
            "[agents.a]\ncommand = [\"true\"]\npass_env = [\"HOME\"]\nredact = [\"HOME\", \"TOKEN\"]",
            "./orch.toml:4: agent \"a\": its redact names \"TOKEN\", which its runs do not get: add it to env or pass_env",
        ),
        (
            "[agents.a]\ncommand = [\"true\"]\nenv = { PIN = \"123\" }\nredact = [\"PIN\"]",
            "./orch.toml:4: agent \"a\": its variable PIN has no line of at least 4 bytes, so that it cannot be hidden",
        ),
        (
            "[agents.a]\ncommand = [\"true\"]\nredact = \"HOME\"",
            "agent \"a\" has a redact that is a text: write a list",
        ),
        ("[agents.a]\ncommand = [\"true\"]\nlimits = [\"a b\"]", "has \"a b\" in it, which is no name of a limit"),
        ("[agents.a]\ncommand = [\"true\"]\nlimits = [\"all\"]", "has \"all\" in it, which every job needs unsaid"),
        ("[agents.a]\ncommand = [\"true\"]\nlimits = \"api\"", "limits that is a text"),
        ("[agents.a]\ncommand = [\"true\"]\nsilence_timeout = \"5ms\"", "has a silence_timeout that"),
        (
            "[agents.a]\ncommand = [\"true\"]\non_lost = \"retry\"",
            "is \"retry\", which is unknown: write one of requeue, hold, fail",
        ),
        ("[agents.a]\ncommand = [\"true\"]\nbackoff = { base = \"1h\", max = \"1s\" }", "max shorter than its base"),
        ("[agents.a]\ncommand = [\"true\"]\nbackoff = { factor = 0.5 }", "a factor that is out of bounds"),
        ("[agents.a]\ncommand = [\"true\"]\nsuccess_codes = []", "empty, so that no run could succeed"),
        ("[agents.a]\ncommand = [\"true\"]\nsuccess_codes = [256]", "256, which is out of bounds"),
        ("[agents.a]\ncommand = [\"{{ payload.x }}\"]", "its program comes from a template"),
        ("[agents.a]\ncommand = [\"echo\", \"{{ env.HOME }}\"]", "unknown name \"env.HOME\" in a template"),
        ("[agents.a]\ncommand = [\"echo\", \"{{ payload.x\"]", "has {{ without }}"),
        ("[agents.a]\ncommand = [\"true\"]\nenv = { ORCH_RUN_ID = \"x\" }", "is orch's own"),
        ("[agents.a]\ncommand = [\"true\"]\npass_env = [\"ORCH_DATABASE_URL\"]", "is orch's own"),
        ("[agents.a]\ncommand = [\"true\"]\ncwd = \"x/../{{ payload.x }}\"", "both a template and \"..\""),
    ] {
        let error = Case::new(toml).error();
        assert!(error.contains(expected), "{toml}\n  got {error}\n  not {expected}");
        assert!(!error.contains("; ") && !error.contains('\n'), "one sentence: {toml}\n  got {error}");
    }
    let error = Case::new("").variable("ORCH_LEASE", "soon").error();
    assert!(error.starts_with("ORCH_LEASE: lease is \"soon\""), "{error}");
    let error = Case::new("").flag("reap_grace", "soon").error();
    assert!(error.starts_with("--reap-grace: reap_grace is \"soon\""), "{error}");
}

#[test]
fn a_lease_that_is_only_just_long_enough_is_accepted() {
    for toml in [
        "lease = \"35s\"",
        "lease = \"1m\"\nkill_grace = \"25s\"",
        "lease = \"6m\"",
        "lease = \"5m\"\ndrain = \"handover\"",
    ] {
        Case::new(toml).load().unwrap_or_else(|error| panic!("{toml}: {error}"));
    }
    assert_eq!(Case::new("drain = \"handover\"").load().unwrap().drain, Drain::Handover);
}

#[test]
fn another_address_is_accepted_with_a_token_file_relative_to_what_names_it() {
    let case = Case::new("listen = \"0.0.0.0:80\"\nhttp_token_file = \"tokens\"");
    let settings = case.load().unwrap();
    assert_eq!(settings.listen, "0.0.0.0:80".parse().unwrap());
    assert_eq!(settings.http_token_file, Some(case.directory.path().join("tokens")));
    let here = std::env::current_dir().unwrap().join("other");
    assert_eq!(case.flag("http_token_file", "other").load().unwrap().http_token_file, Some(here));
}

#[test]
fn a_mistake_in_the_file_is_told_although_a_variable_wins_over_it() {
    let error = Case::new("lease = \"soon\"").variable("ORCH_LEASE", "60s").error();
    assert!(error.starts_with("./orch.toml:1: lease is \"soon\""), "{error}");
}

#[test]
fn a_named_file_must_exist_and_an_unnamed_one_need_not() {
    let missing = Case::new("").flag("config", "/nowhere/orch.toml").error();
    assert!(missing.starts_with("/nowhere/orch.toml: it cannot be read (No such file"), "{missing}");
    let directory = Case::new("").flag("config", "/tmp").error();
    assert!(directory.contains("it cannot be read"), "{directory}");
}

#[test]
fn an_agent_has_the_defaults_of_the_design() {
    let settings = Case::new("[agents.a]\ncommand = [\"true\"]").load().unwrap();
    let agent = &settings.agents["a"];
    assert_eq!((agent.max_attempts, agent.on_lost, agent.stdin), (3, OnLost::Requeue, Stdin::Payload));
    assert_eq!(agent.success_codes, [0]);
    assert_eq!(agent.backoff, crate::model::Backoff { base: 5.0, factor: 2.0, max: 3600.0 });
    assert!(agent.timeout.is_none() && agent.containment.is_none() && agent.cwd.is_none() && agent.user.is_none());
}

#[test]
fn an_agent_says_everything_and_its_paths_are_relative_to_the_file() {
    let case = Case::new(
        "state_dir = \"state\"\n[agents.a]\ncommand = [\"./bin/x\", \"bin/y\"]\ncwd = \".\"\nenv = { A = \"1\" }\n\
         pass_env = [\"HOME\"]\nredact = [\"HOME\"]\nuser = \"nobody\"\nstdin = \"null\"\ntimeout = \"1h\"\nmax_attempts = 5\n\
         backoff = { base = \"1s\", factor = 1.5, max = \"1m\" }\non_lost = \"hold\"\ncontainment = \"pidns\"\n\
         memory_max = \"1GiB\"\npids_max = 10\nsuccess_codes = [0, 3]\n\
         [agents.b]\ncommand = [\"sh\"]\ncwd = \"work/{{ payload.repo }}\"\n",
    );
    let settings = case.load().unwrap();
    let directory = case.directory.path();
    assert_eq!(settings.state_dir, directory.join("state"));
    let a = &settings.agents["a"];
    assert_eq!(a.command, [directory.join("bin/x").to_str().unwrap(), "bin/y"]);
    assert_eq!(a.cwd.as_deref(), Some(directory));
    assert_eq!((&a.pass_env, &a.redact), (&vec!["HOME".to_owned()], &vec!["HOME".to_owned()]));
    assert_eq!((a.timeout, a.max_attempts, a.on_lost), (Some(Duration::from_hours(1)), 5, OnLost::Hold));
    assert_eq!((a.containment, a.memory_max, a.pids_max), (Some(Containment::Pidns), Some(1 << 30), Some(10)));
    assert_eq!((a.stdin, a.success_codes.as_slice()), (Stdin::Null, &[0, 3][..]));
    let b = &settings.agents["b"];
    assert_eq!(b.command, ["sh"], "a bare program is looked for in PATH");
    assert_eq!(b.cwd, Some(PathBuf::from(format!("{}/work/{{{{ payload.repo }}}}", directory.display()))));
}

#[test]
fn a_bad_file_keeps_the_agents_that_were_read_before() {
    let case = Case::new("[agents.a]\ncommand = [\"true\"]");
    let mut settings = case.load().unwrap();
    let file = case.directory.path().join("orch.toml");
    std::fs::write(&file, "[agents.a]\ncommand = []").unwrap();
    let error = format!("{:#}", settings.replace_agents().unwrap_err());
    assert!(error.contains("the agents stay as they were") && error.contains("orch.toml:2"), "{error}");
    assert_eq!(settings.agents["a"].command, ["true"]);

    std::fs::write(&file, "[agents.b]\ncommand = [\"false\"]").unwrap();
    settings.replace_agents().unwrap();
    assert_eq!(settings.agents.keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn the_example_environment_holds_every_setting() {
    let mut expected = String::from(
        "# Every setting of orch as a variable, with its default. A setting has one name everywhere: reap_grace in\n\
         # orch.toml, --reap-grace as a flag, ORCH_REAP_GRACE here. Flags win over variables, and variables over orch.toml.\n\
         # An empty variable is the same as none. Durations: \"5s\", \"500ms\", \"2m\". Sizes: \"512KiB\", \"16MiB\".\n",
    );
    for setting in SETTINGS {
        for line in setting.doc {
            write!(expected, "\n#{line}").unwrap();
        }
        let value = match setting.default {
            Fallback::Text(text) => text,
            Fallback::Found(..) | Fallback::Unset(_) => "",
        };
        let (unit, default) = (setting.unit, setting.default_text());
        write!(expected, "\n# Unit: {unit}. Default: {default}.\n# {}={value}\n", setting.variable).unwrap();
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(".env.example");
    let actual = std::fs::read_to_string(&file).unwrap_or_default();
    if actual != expected {
        let proposal = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/.env.example");
        std::fs::write(&proposal, &expected).unwrap();
        panic!(".env.example differs from the settings; what it should say stands in {}", proposal.display());
    }
}

#[test]
fn flags_are_made_from_the_table() {
    let command = <Overrides as clap::Args>::augment_args(clap::Command::new("x"));
    let matches = command.try_get_matches_from(["x", "--reap-grace", "7s", "--reaper-enabled", "false"]).unwrap();
    let overrides = <Overrides as clap::FromArgMatches>::from_arg_matches(&matches).unwrap();
    let expected = Overrides::default().with("reap_grace", "7s").with("reaper_enabled", "false");
    assert_eq!(overrides, expected);
}
