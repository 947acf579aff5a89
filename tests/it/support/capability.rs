//! What a machine may lack, and the one way for a test to say that it did not run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use super::leftover::say;

/// Something that a test needs and a machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capability {
    /// To be root.
    Root,
    /// A cgroup v2 hierarchy in which this process may make cgroups and end them with `cgroup.kill`.
    CgroupKill,
    /// Pid namespaces, as root or through user namespaces.
    PidNamespace,
    /// Network namespaces, as root, and a packet filter in them.
    NetNamespace,
    /// A tmpfs of one's own.
    Mount,
    /// A superuser's connection to the test server.
    Superuser,
    /// The programs of a Postgres, to start one that may be crashed.
    InstalledPostgres,
    /// The programs of a Postgres whose notification queue can be made small: 17 or newer.
    SmallNotifyQueue,
    /// `pg_dump` and `pg_restore`.
    PgDump,
    /// `pgbouncer`.
    PgBouncer,
    /// `libfaketime`, to give a program another time of day.
    FakeTime,
    /// A cgroup v1 tree with the pids controller, in which groups can be made.
    PidsController,
    /// Likewise with the memory controller.
    MemoryController,
    /// Likewise with the freezer.
    Freezer,
    /// `cc`, to make a library that is put before the system's own.
    Compiler,
}

impl Capability {
    fn lacking(self) -> Option<String> {
        match self {
            Self::Root => (!nix::unistd::geteuid().is_root()).then(|| "it needs root".to_owned()),
            Self::CgroupKill => CGROUP_KILL.clone(),
            Self::PidNamespace => unshare(&["--pid", "--fork"]),
            Self::NetNamespace => Self::Root.lacking().or_else(|| PACKET_FILTER.clone()),
            Self::Mount => unshare(&["--mount"]),
            // Every server that the suite starts is its own; a given one must have been given with all rights.
            Self::Superuser => None,
            Self::InstalledPostgres => {
                installed_postgres().is_none().then(|| "no Postgres is installed on this machine".to_owned())
            }
            Self::SmallNotifyQueue => (installed_version() < Some(17))
                .then(|| "it needs an installed Postgres 17 or newer (max_notify_queue_pages)".to_owned()),
            Self::PgBouncer => programs(&["pgbouncer"]),
            Self::FakeTime => fake_time_library().is_none().then(|| "it needs libfaketime".to_owned()),
            Self::PidsController => v1_controller("pids"),
            Self::MemoryController => v1_controller("memory"),
            Self::Freezer => v1_controller("freezer"),
            Self::Compiler => programs(&["cc"]),
            Self::PgDump => programs(&["pg_dump", "pg_restore"]),
        }
    }
}

/// Where the programs of the newest installed Postgres are: beside the others in `PATH`, or where Debian puts them.
pub(crate) fn installed_postgres() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut debian: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    debian.sort();
    let mut places = std::env::split_paths(&path).chain(debian.into_iter().rev());
    places.find(|place| ["initdb", "pg_ctl", "pg_basebackup"].into_iter().all(|program| place.join(program).exists()))
}

/// Where the cgroup v1 tree of this controller is mounted.
pub(crate) fn v1_hierarchy(controller: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let has = |options: &str| options.split(',').any(|option| option == controller);
    mounts.find(|words| words.get(2) == Some(&"cgroup") && has(words[3])).map(|words| PathBuf::from(words[1]))
}

fn v1_controller(name: &str) -> Option<String> {
    let Some(tree) = v1_hierarchy(name) else { return Some(format!("no cgroup v1 tree has the controller {name}")) };
    let probe = tree.join(format!("orch-test-probe-{}", std::process::id()));
    let made = fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe));
    made.err().map(|error| format!("no cgroup can be made in {}: {error}", tree.display()))
}

/// The library that gives programs with threads another time of day, where Debian puts it.
pub(crate) fn fake_time_library() -> Option<PathBuf> {
    let places = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|place| place.path());
    places.map(|place| place.join("faketime/libfaketimeMT.so.1")).find(|library| library.exists())
}

/// The first of these programs that is not there.
fn programs(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| {
        let found = Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
        (!found).then(|| format!("it needs {name}"))
    })
}

/// The major version of [`installed_postgres`].
fn installed_version() -> Option<u32> {
    let said = Command::new(installed_postgres()?.join("postgres")).arg("--version").output().ok()?;
    let words = String::from_utf8(said.stdout).ok()?;
    words.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok())
}

fn unshare(kinds: &[&str]) -> Option<String> {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    match command.args(kinds).arg("true").output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("{kinds:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(format!("unshare cannot be run: {error}")),
    }
}

/// All that the suite's own networks are made of, tried once in a namespace that goes with the command.
static PACKET_FILTER: LazyLock<Option<String>> = LazyLock::new(|| {
    let script = "ip link add one type veth peer name other && iptables -A OUTPUT -p tcp --syn && iptables -A INPUT -j DROP && \
                  iptables -A OUTPUT -p tcp -j REJECT --reject-with tcp-reset";
    match Command::new("unshare").args(["--net", "sh", "-c", script]).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("no packet filter: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(format!("unshare cannot be run: {error}")),
    }
});

static CGROUP_KILL: LazyLock<Option<String>> = LazyLock::new(|| {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let Some(root) = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find_map(|fields| (fields.get(2) == Some(&"cgroup2")).then(|| fields[1].to_owned()))
    else {
        return Some("no cgroup v2 hierarchy is mounted".to_owned());
    };
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").trim_start_matches('/').to_owned();
    let probe = Path::new(&root).join(own).join(format!("orch-test-{}", std::process::id()));
    if let Err(error) = fs::create_dir(&probe) {
        return Some(format!("no cgroup can be made at {}: {error}", probe.display()));
    }
    let kill = fs::OpenOptions::new().write(true).open(probe.join("cgroup.kill"));
    let _ = fs::remove_dir(&probe);
    kill.err().map(|error| format!("cgroup.kill: {error}"))
});

/// Why a test with these needs cannot run here, if it cannot.
pub(crate) fn lacking(capabilities: &[Capability]) -> Option<String> {
    capabilities.iter().find_map(|capability| capability.lacking())
}

/// Whether the running test has all that it needs. If not, prints `not run: NAME: why`, or panics where
/// `ORCH_TEST_REQUIRE=all` says that this machine must be able to run everything.
pub(crate) fn requires(capabilities: &[Capability]) -> bool {
    let Some(why) = lacking(capabilities) else { return true };
    let thread = std::thread::current();
    if let Err(failure) = not_run(thread.name().unwrap_or("a test"), &why) {
        panic!("{failure}");
    }
    false
}

/// Says that a test cannot run here, and why. That is an error under `ORCH_TEST_REQUIRE=all`.
pub(crate) fn not_run(name: &str, why: &str) -> Result<(), String> {
    let line = format!("not run: {name}: {why}");
    if std::env::var("ORCH_TEST_REQUIRE").as_deref() == Ok("all") {
        return Err(line);
    }
    say(&line);
    Ok(())
}
