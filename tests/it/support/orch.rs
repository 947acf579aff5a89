//! The real binary: with an environment of nothing but what the test says, a state directory of its own and a free
//! port. What it started is gone when the test is.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    ffi::OsStr,
    fmt::from_fn,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{sys::signal, unistd::Pid};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{Answer, PATIENCE, TestDb, eventually_within, free_port, http_get, sweep};

/// How long a replica that serves may take for `/readyz`: more than it gives itself.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A place to run the binary at: state directory, `orch.toml` and environment.
#[derive(Debug)]
pub(crate) struct Orch {
    home: TempDir,
    env: BTreeMap<String, String>,
    listen: SocketAddr,
    program: PathBuf,
}

/// What a command that ended has said.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its standard error.
    pub(crate) stderr: String,
}

impl Output {
    /// Itself, if the command succeeded; panics with all that it said otherwise.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert!(self.status.success(), "{}\n{}\n{}", self.status, self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

impl Orch {
    /// On this database.
    pub(crate) fn on(db: &TestDb) -> Self {
        let orch = Self::without_database();
        orch.with("DATABASE_URL", db.url())
    }

    /// Another place on the same database, with the same settings and the same `orch.toml`: own home, state directory and
    /// port.
    pub(crate) fn beside(&self) -> Self {
        let mut other = Self::without_database();
        let own = ["HOME", "ORCH_STATE_DIR", "ORCH_LISTEN"];
        let shared = self.env.iter().filter(|(name, _)| !own.contains(&name.as_str()));
        other.env.extend(shared.map(|(name, value)| (name.clone(), value.clone())));
        other.program.clone_from(&self.program);
        other
    }

    /// Without a database: nothing says where one is.
    pub(crate) fn without_database() -> Self {
        // As root the embedded server is another user, who must be able to pass through.
        let passable = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        let mut builder = tempfile::Builder::new();
        let home = builder.prefix("orch-home-").permissions(passable).tempdir().expect("a temporary directory");
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let path = |name: &str| home.path().join(name).to_string_lossy().into_owned();
        let env = BTreeMap::from([
            ("PATH".to_owned(), std::env::var("PATH").unwrap_or_default()),
            ("HOME".to_owned(), path("")),
            ("ORCH_STATE_DIR".to_owned(), path("state")),
            ("ORCH_CONFIG".to_owned(), path("orch.toml")),
            ("ORCH_LISTEN".to_owned(), listen.to_string()),
        ]);
        let program = std::env::var_os("ORCH_TEST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_orch").into()).into();
        let orch = Self { home, env, listen, program };
        orch.config("");
        orch
    }

    /// With an environment variable more, or another value of it.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    /// Sets an environment variable of what is run from now on.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.env.insert(name.to_owned(), value.into());
    }

    /// Takes an environment variable away from what is run from now on.
    pub(crate) fn unset(&mut self, name: &str) {
        self.env.remove(name);
    }

    /// The binary that is run here.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Runs another build of the binary from now on.
    pub(crate) fn set_program(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// Writes `orch.toml`.
    pub(crate) fn config(&self, text: &str) {
        fs::write(self.home.path().join("orch.toml"), text).expect("a config file");
    }

    /// A path beneath the test's own directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The state directory.
    pub(crate) fn state_dir(&self) -> &Path {
        Path::new(&self.env["ORCH_STATE_DIR"])
    }

    /// Where a replica started here listens.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// The binary with these arguments, not started.
    pub(crate) fn command<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        self.placed(command)
    }

    fn placed(&self, mut command: Command) -> Command {
        command.env_clear().envs(&self.env).current_dir(self.home.path());
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs a command to its end, at most a minute.
    pub(crate) async fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, arguments: I) -> Output {
        self.run_with_input(arguments, b"").await
    }

    /// As [`Orch::run`], with standard input.
    pub(crate) async fn run_with_input<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        &self,
        arguments: I,
        input: &[u8],
    ) -> Output {
        use tokio::io::AsyncWriteExt as _;
        let mut command = self.command(arguments);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("the binary");
        // A command that does not read its input closes it; that is its right.
        let mut stdin = child.stdin.take().expect("it is piped");
        let input = input.to_vec();
        tokio::spawn(async move { stdin.write_all(&input).await });
        let output = tokio::time::timeout(Duration::from_mins(1), child.wait_with_output());
        let output = output.await.expect("a command ends within a minute").expect("its output");
        Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts `orch up` without waiting for anything.
    pub(crate) fn start(&self) -> Replica {
        self.launch(self.command(["up"]))
    }

    /// Starts `orch up` of a copy of the binary through another program, which must become it: `setpriv`, `prlimit`.
    pub(crate) fn start_by(&self, words: &[&str], program: &Path) -> Replica {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(program).arg("up");
        self.launch(self.placed(command))
    }

    fn launch(&self, mut command: Command) -> Replica {
        let log = self.path("replica.log");
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log file");
        let child =
            command.stdout(file.try_clone().expect("a second descriptor")).stderr(file).spawn().expect("the binary");
        Replica { child, listen: self.listen, log }
    }

    /// Starts `orch up` and waits until it is ready.
    pub(crate) async fn up(&self) -> Replica {
        let mut replica = self.start();
        replica.until_ready().await;
        replica
    }
}

impl Drop for Orch {
    fn drop(&mut self) {
        sweep::kill_beneath(self.home.path());
        sweep::remove_cgroups_of(self.state_dir());
    }
}

/// A running `orch up`. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Replica {
    child: Child,
    listen: SocketAddr,
    log: PathBuf,
}

impl Replica {
    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().map_or_else(|| panic!("the replica has ended:\n{}", self.log()), |pid| pid as i32)
    }

    /// What it has logged, with what earlier replicas at this place logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How it ended, if it has.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("its status")
    }

    /// Whether `/readyz` says yes. Panics if the replica has ended.
    pub(crate) async fn is_ready(&mut self) -> bool {
        self.readiness().await.is_ok()
    }

    /// Waits until it is ready. Panics with what it answered last, and its log, if it is not within 30 seconds.
    pub(crate) async fn until_ready(&mut self) {
        let why = RefCell::new(String::new());
        let log = self.log.clone();
        let stands = from_fn(|out| {
            let log = fs::read_to_string(&log).unwrap_or_default();
            write!(out, "the replica to be ready; /readyz: {}; its log:\n{log}", why.borrow())
        });
        eventually_within(PATIENCE, stands, async || {
            let ready = self.readiness().await;
            ready.map_err(|obstacle| why.replace(obstacle)).ok()
        })
        .await;
    }

    /// What `/readyz` says: nothing, or why not. Before it serves the kernel takes the question and nobody answers.
    async fn readiness(&mut self) -> Result<(), String> {
        self.assert_running();
        match tokio::time::timeout(ANSWER_WITHIN, http_get(self.listen, "/readyz")).await {
            Ok(Ok(answer)) if answer.status == 200 => Ok(()),
            Ok(Ok(answer)) => Err(answer.body),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
        }
    }

    /// Panics if the replica has ended.
    pub(crate) fn assert_running(&mut self) {
        if let Some(status) = self.has_ended() {
            panic!("the replica ended with {status}:\n{}", self.log());
        }
    }

    /// GET from it.
    pub(crate) async fn get(&self, target: &str) -> Answer {
        http_get(self.listen, target).await.unwrap_or_else(|error| panic!("GET {target}: {error}\n{}", self.log()))
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: signal::Signal) {
        signal::kill(Pid::from_raw(self.pid()), signal).expect("a live replica");
    }

    /// Waits for its end, at most a minute.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let end = tokio::time::timeout(Duration::from_mins(1), self.child.wait()).await;
        end.unwrap_or_else(|_| panic!("the replica does not end:\n{}", self.log())).expect("its status")
    }

    /// Kills it (`kill -9`); spawner, shims and jobs stay.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("a live replica");
    }
}
