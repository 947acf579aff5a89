//! The settings, each declared once: name, type, default, unit and text.
//!
//! The key of `orch.toml`, the flag, the variable, `--help` and `.env.example` are all made from this one table.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use super::{Drain, LogFormat, kinds, paths, problem::Problem, values::Values};
use crate::agents::Agent;

/// The value of a setting that nobody set.
#[derive(Clone, Copy)]
pub enum Fallback {
    /// This text.
    Text(&'static str),
    /// What a function finds on this machine; the words say what that is.
    Found(&'static str, fn(paths::Environment<'_>) -> Result<String, String>),
    /// Nothing; the words say what then holds.
    Unset(&'static str),
}

/// One row of the table.
pub struct Setting {
    /// The key in `orch.toml`.
    pub name: &'static str,
    /// The flag without its two dashes: the name with dashes.
    pub flag: &'static str,
    /// The variable: `ORCH_` and the name in capitals.
    pub variable: &'static str,
    /// What the value is, for people.
    pub unit: &'static str,
    /// What holds when nobody sets it.
    pub default: Fallback,
    /// What it does, in lines.
    pub doc: &'static [&'static str],
    /// Whether the value must never be printed.
    pub secret: bool,
}

impl Setting {
    /// The default, for people.
    #[must_use]
    pub fn default_text(&self) -> &'static str {
        match self.default {
            Fallback::Text(text) | Fallback::Found(text, _) | Fallback::Unset(text) => text,
        }
    }

    /// The row with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }
}

const PREFIX: &str = "ORCH_";

/// The name with dashes.
const fn flag<const N: usize>(name: &str) -> [u8; N] {
    let mut out = [0; N];
    let mut at = 0;
    while at < N {
        let byte = name.as_bytes()[at];
        out[at] = if byte == b'_' { b'-' } else { byte };
        at += 1;
    }
    out
}

/// The name in capitals after the prefix.
const fn variable<const N: usize>(name: &str) -> [u8; N] {
    let mut out = [0; N];
    let mut at = 0;
    while at < N {
        out[at] = if at < PREFIX.len() {
            PREFIX.as_bytes()[at]
        } else {
            name.as_bytes()[at - PREFIX.len()].to_ascii_uppercase()
        };
        at += 1;
    }
    out
}

const fn text(bytes: &'static [u8]) -> &'static str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => panic!("names of settings are ASCII"),
    }
}

/// Declares the struct, the table and the way from texts to values.
macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:expr, $kind:expr;)+) => {
        /// Every setting, resolved and checked. The field is the setting's name.
        #[derive(Clone)]
        pub struct Settings {
            $($(#[doc = $doc])+ pub $name: $type,)+
            /// The agents by name.
            pub agents: BTreeMap<String, Agent>,
        }

        /// Every setting, in the order of the documentation.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            name: stringify!($name),
            flag: {
                const FLAG: [u8; stringify!($name).len()] = flag(stringify!($name));
                text(&FLAG)
            },
            variable: {
                const VARIABLE: [u8; stringify!($name).len() + PREFIX.len()] = variable(stringify!($name));
                text(&VARIABLE)
            },
            unit: $kind.unit,
            default: $default,
            doc: &[$($doc),+],
            secret: $kind.secret,
        },)+];

        impl Settings {
            /// The settings from their texts. Every refusal becomes a problem; then there are no settings.
            pub(super) fn from_values(
                values: &Values,
                agents: BTreeMap<String, Agent>,
                problems: &mut Vec<Problem>,
            ) -> Option<Self> {
                $(let $name = values.get(stringify!($name), $kind.parse, problems);)+
                Some(Self { $($name: $name?,)+ agents })
            }
        }

        impl fmt::Debug for Settings {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut out = f.debug_struct("Settings");
                $(if $kind.secret { out.field(stringify!($name), &"(secret)") } else { out.field(stringify!($name), &self.$name) };)+
                out.field("agents", &self.agents).finish()
            }
        }
    };
}

settings! {
    /// The file with settings and agents. Named explicitly, it must exist.
    config: Option<PathBuf> = Fallback::Text("orch.toml"), kinds::FILE;
    /// The address of HTTP. One that other hosts may reach needs `http_token_file`.
    listen: SocketAddr = Fallback::Text("127.0.0.1:8080"), kinds::ADDRESS;
    /// The bearer tokens of HTTP, one a line, of at least 16 characters; all but `/healthz` and `/readyz` then asks for one.
    /// Others must have no rights on the file. Read at the start and on SIGHUP.
    http_token_file: Option<PathBuf> =
        Fallback::Unset("none; then HTTP is for loopback alone"), kinds::TOKEN_FILE;
    /// Where a replica keeps its lock, its runs and the embedded Postgres with its `database-url`. On a local disk,
    /// one directory for each replica.
    state_dir: PathBuf = Fallback::Found(
        "$XDG_STATE_HOME/orch/HOST, else ~/.local/state/orch/HOST; for root /var/lib/orch/HOST",
        paths::state_dir,
    ), kinds::DIRECTORY;
    /// The database, as libpq writes it: a URL or key=value pairs. `DATABASE_URL` is read as well, and `PG*` variables
    /// fill in what it leaves out.
    database_url: Option<String> =
        Fallback::Unset("PG*, else the embedded Postgres of the state directory"), kinds::DATABASE;
    /// Where the lease is renewed and wake-ups are heard, if not there: past a pooler, say.
    renewal_url: Option<String> = Fallback::Unset("the same as database_url"), kinds::DATABASE;
    /// Connections of the pool, at least 2. Renewals have one of their own besides.
    pool_size: usize = Fallback::Text("8"), kinds::CONNECTIONS;
    /// Whether statements are prepared. `false` for a PgBouncer below 1.21 in transaction mode.
    prepared_statements: bool = Fallback::Text("true"), kinds::SWITCH;
    /// What people call this replica.
    name: String = Fallback::Found("the host's name", |_| Ok(paths::host_name())), kinds::NAME;
    /// What jobs may ask of a replica: in the file a table, elsewhere pairs with commas.
    labels: BTreeMap<String, String> = Fallback::Unset("none"), kinds::LABELS;
    /// Slots: how many runs this replica has at the same time.
    max_concurrency: usize =
        Fallback::Found("the number of cores", |_| Ok(paths::cores().to_string())), kinds::SLOTS;
    /// How often a replica with free slots asks for jobs, before jitter.
    poll_interval: Duration = Fallback::Text("1s"), kinds::DURATION;
    /// Whether an enqueue wakes this replica while it waits for a job. A hint: without it the replica polls and nothing is
    /// missing. It is heard on a connection of its own, beside the renewals; through a pooler in transaction mode nothing is.
    notify: bool = Fallback::Text("true"), kinds::SWITCH;
    /// H: how often the lease is renewed.
    heartbeat: Duration = Fallback::Text("5s"), kinds::DURATION;
    /// L: how long a lease lasts, at least 4H + K + G and at least 2K + 2H. L - K - H is how long the database may be away
    /// before runs are killed: choose it longer than a failover takes. L + G is how long the jobs of a dead host wait.
    lease: Duration = Fallback::Text("60s"), kinds::DURATION;
    /// K: how long before its lease's end a run is told to end, and from TERM to KILL.
    kill_grace: Duration = Fallback::Text("10s"), kinds::DURATION;
    /// G: how long after the end of its lease a replica is declared dead.
    reap_grace: Duration = Fallback::Text("5s"), kinds::DURATION;
    /// How often this replica looks for dead ones and impossible rows, at most L/4.
    reap_interval: Duration = Fallback::Text("5s"), kinds::DURATION;
    /// Whether this replica reaps. At least one of those that share a database must.
    reaper_enabled: bool = Fallback::Text("true"), kinds::SWITCH;
    /// What SIGTERM does; once more means now. `finish`: stop claiming, wait up to `drain_grace`, then interrupt; for
    /// containers, whose processes end with them. `handover`: stop claiming, renew a lease of `handover_lease` and go;
    /// live runs go on, and the next start on this state directory adopts them. That is for hosts whose service manager
    /// leaves the processes alone (systemd: `KillMode=process`).
    drain: Drain = Fallback::Text("finish"), kinds::DRAIN;
    /// How long live runs may go on after SIGTERM where `drain` is `finish`. Whatever stops the process must have
    /// more patience than this and `kill_grace` together.
    drain_grace: Duration = Fallback::Text("30s"), kinds::WAIT;
    /// How long a lease lasts that is handed over, at least `lease`: this minus K is how long the next start may take
    /// before live runs are killed. If nobody comes, their jobs wait for this and G.
    handover_lease: Duration = Fallback::Text("5m"), kinds::DURATION;
    /// Whether a job's gate is enforced: one running job a gate.
    serial_gate_enabled: bool = Fallback::Text("true"), kinds::SWITCH;
    /// Whether impossible queued rows are swept at startup and at every tick. The database's own guards always hold.
    impossible_queued_sanitize_enabled: bool =
        Fallback::Text("true"), kinds::SWITCH;
    /// How much of a run's output is kept, head and tail: so much on the machine while it runs, and in the database.
    log_cap: u64 = Fallback::Text("16MiB"), kinds::SIZE;
    /// How large a payload may be.
    payload_max: u64 = Fallback::Text("1MiB"), kinds::PAYLOAD;
    /// How orch itself logs, on stderr. What it logs is chosen by `ORCH_LOG`, else `RUST_LOG`, for example `debug`.
    log_format: LogFormat = Fallback::Text("text"), kinds::LOG_FORMAT;
    /// Losses after which a job is failed as poisoned.
    max_lost: i32 = Fallback::Text("3"), kinds::COUNT;
    /// Transient ends after which a job is held.
    max_transient: i32 = Fallback::Text("100"), kinds::COUNT;
    /// Interruptions after which a job is held.
    max_interrupted: i32 = Fallback::Text("100"), kinds::COUNT;
    /// How long finished jobs are kept, with their runs and logs; and events, and replicas that are gone.
    keep_finished: Duration = Fallback::Text("14d"), kinds::DURATION;
}
