//! The job's first steps: from a fresh child of the shim (or of the namespace's init) to the program.
//!
//! Owns the order of those steps. What can be prepared is prepared in the shim; the child only makes system calls, and
//! says over the `birth` socket what failed. That socket ends without a word when the program runs. What needs to know nothing
//! of the program comes first, where the child is forked ahead before there is one.

use std::{
    convert::Infallible,
    ffi::CString,
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
        signal::Signal,
        socket::{MsgFlags, recv, send},
        stat::{Mode, umask},
    },
    unistd::{AccessFlags, Gid, Pid, Uid, access, chdir, getppid, pipe2, setgroups, setpgid, setresgid, setresuid},
};

use super::{
    clock,
    lease::read_deadline,
    protocol::{Identity, RunDir, SpawnError, Spec},
    sys,
};
use crate::model::{JobId, ReplicaId, RunId, fence};

pub(super) mod message;

/// What the child says first where its pid must be told, and what it is answered.
pub(super) const HELLO: &[u8] = b"p";
pub(super) const GO: &[u8] = b"g";

/// The search path where the environment has none.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A program that is ready to be started.
#[derive(Debug)]
pub(super) struct Program {
    name: String,
    paths: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    cwd: PathBuf,
    identity: Option<Identity>,
    user: String,
    payload: PathBuf,
    kill_grace: Duration,
    rlimits: Vec<(Resource, u64)>,
    doors: Vec<PathBuf>,
}

/// The descriptors that the program, and what is said about its start, go by.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) stdin: OwnedFd,
    /// Standard output and standard error together, which keeps their order.
    pub(super) output: OwnedFd,
    /// The child's end.
    pub(super) birth: OwnedFd,
    /// The lease under which the program starts.
    pub(super) lease: OwnedFd,
}

impl Streams {
    /// Says why there is no program, and gives the status of this child.
    pub(super) fn fail(&self, error: &SpawnError) -> i32 {
        let text = serde_json::to_vec(error).unwrap_or_default();
        let _shim_is_gone = send(self.birth.as_raw_fd(), &text, MsgFlags::MSG_NOSIGNAL);
        127
    }
}

/// Says what failed, and whether it may succeed later.
pub(super) fn failure(what: impl std::fmt::Display, error: impl Into<io::Error>) -> SpawnError {
    let error = error.into();
    let temporary = error.raw_os_error().is_some_and(|number| {
        matches!(
            Errno::from_raw(number),
            Errno::EAGAIN
                | Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOMEM
                | Errno::ENOSPC
                | Errno::EDQUOT
                | Errno::ETXTBSY
                | Errno::EINTR
                | Errno::EIO
                | Errno::ESTALE
                | Errno::ETIMEDOUT
        )
    });
    SpawnError { temporary, message: format!("{what}: {error}") }
}

/// What would be the same next time.
pub(super) const fn refusal(message: String) -> SpawnError {
    SpawnError { temporary: false, message }
}

/// The pipe for the program's output: the shim's end, which never waits, and the program's.
pub(super) fn output_pipe() -> io::Result<(File, OwnedFd)> {
    let (output, theirs) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((File::from(output), theirs))
}

/// Refuses, for now, a start with less than twice `kill_grace` of the lease left: its end could come before the tree's.
pub(super) fn look_at_lease(deadline: Duration, grace: Duration) -> Result<(), SpawnError> {
    if fence::may_start(clock::now(), deadline, grace) {
        return Ok(());
    }
    let message = "less than twice kill_grace of its replica's lease is left".to_owned();
    Err(SpawnError { temporary: true, message })
}

impl Program {
    /// Prepares what `spec.json` asks for.
    pub(super) fn prepare(spec: &Spec, dir: &RunDir) -> Result<Self, SpawnError> {
        let name =
            spec.argv.first().filter(|name| !name.is_empty()).ok_or_else(|| refusal("the command is empty".into()))?;
        let identity = match (&spec.user, &spec.identity) {
            (None, _) => None,
            (Some(user), None) => return Err(refusal(format!("there is no user {user:?} on this machine"))),
            // Nothing to change, and nothing that an ordinary user could.
            (Some(_), Some(identity)) if identity.uid == Uid::effective().as_raw() => None,
            (Some(user), Some(_)) if !Uid::effective().is_root() => {
                return Err(refusal(format!("only root can start a program as user {user:?}")));
            }
            (Some(_), Some(identity)) => Some(identity.clone()),
        };
        let text = |text: &str| {
            CString::new(text)
                .map_err(|_| refusal(format!("an argument or a variable of {name:?} contains a NUL byte")))
        };
        let own = format!("ORCH_RUN_ID={}", spec.run_id);
        let others = spec.env.iter().filter(|(key, _)| key != "ORCH_RUN_ID");
        let environment = others.map(|(key, value)| format!("{key}={value}")).chain([own]);
        Ok(Self {
            paths: candidates(name, &spec.env).iter().map(|path| text(path)).collect::<Result<_, _>>()?,
            arguments: spec.argv.iter().map(|argument| text(argument)).collect::<Result<_, _>>()?,
            environment: environment.map(|entry| text(&entry)).collect::<Result<_, _>>()?,
            name: name.clone(),
            cwd: spec.cwd.clone().unwrap_or_else(|| dir.job_path()),
            identity,
            user: spec.user.clone().unwrap_or_default(),
            payload: dir.payload_path(),
            kill_grace: Duration::from_millis(spec.kill_grace_ms),
            rlimits: Vec::new(),
            doors: Vec::new(),
        })
    }

    /// Goes once through what comes between the word to begin and the program, so that it is in the processor's reach when a
    /// job waits for it. Comes back with the message that a process which was forked ahead can rehearse with.
    pub(super) fn rehearse(state_dir: &Path) -> Option<Vec<u8>> {
        let run_id = RunId::new();
        let env = vec![("PATH".to_owned(), DEFAULT_PATH.to_owned())];
        let spec = Spec { env, ..Spec::bare(run_id, JobId(0), ReplicaId::new(), vec!["rehearsal".to_owned()]) };
        let text = serde_json::to_vec(&spec).ok()?;
        let spec = serde_json::from_slice(&text).ok()?;
        Self::prepare(&spec, &RunDir::new(state_dir, run_id)).ok()?.to_message()
    }

    /// Whether the job is another user than the shim, and not root.
    pub(super) fn has_user_of_its_own(&self) -> bool {
        self.identity.as_ref().is_some_and(|identity| identity.uid != 0)
    }

    /// Takes all limits back.
    pub(super) fn forget_limits(&mut self) {
        self.rlimits.clear();
        self.doors.clear();
    }

    /// Adds a limit that the kernel holds for the process (or the user), not for the tree.
    pub(super) fn limit(&mut self, resource: Resource, value: u64) {
        self.rlimits.push((resource, value));
    }

    /// Has it be in the groups to which these lead.
    pub(super) fn enter(&mut self, doors: Vec<PathBuf>) {
        self.doors = doors;
    }

    /// Becomes the program, in a fresh child. `parent` is who it must still be the child of; with `greet` it says its pid
    /// first (the credentials of the message carry it across namespaces) and waits for the answer.
    pub(super) fn become_it(&self, streams: &Streams, parent: Option<Pid>, greet: bool) -> i32 {
        match settle_down(&streams.output).and_then(|()| self.last_steps(streams, parent, greet)) {
            Ok(never) => match never {},
            Err(error) => streams.fail(&error),
        }
    }

    /// The same in a child that has settled down.
    pub(super) fn become_it_now(&self, streams: &Streams, parent: Pid) -> i32 {
        match self.last_steps(streams, Some(parent), false) {
            Ok(never) => match never {},
            Err(error) => streams.fail(&error),
        }
    }

    fn last_steps(&self, streams: &Streams, parent: Option<Pid>, greet: bool) -> Result<Infallible, SpawnError> {
        sys::place(streams.stdin.as_fd(), 0).map_err(|error| failure("connect the standard streams", error))?;
        self.set_limits().map_err(|error| failure("set the limits", error))?;
        for door in &self.doors {
            // Whoever writes 0 means himself, in every namespace.
            fs::write(door, "0").map_err(|error| failure(format_args!("enter {}", door.display()), error))?;
        }
        self.change_user().map_err(|error| failure(format_args!("become user {:?}", self.user), error))?;
        // After the change of user, which clears it. Whoever died before it was set is no longer the parent.
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(|error| failure("follow the shim", error))?;
        if parent.is_some_and(|parent| getppid() != parent) {
            sys::exit(127);
        }
        chdir(&self.cwd).map_err(|error| failure(format_args!("change to directory {}", self.cwd.display()), error))?;
        if self.identity.is_some() {
            access(&self.payload, AccessFlags::R_OK).map_err(|error| {
                let what = format!(
                    "let user {:?} reach {} (each directory above it must allow others to pass, mode o+x)",
                    self.user,
                    self.payload.display()
                );
                failure(what, error)
            })?;
        }
        if greet {
            greet_shim(&streams.birth).map_err(|error| failure("reach the shim", error))?;
        }
        sys::close_from_on_exec(3);
        // The last moment at which it can still not begin, whatever held us up until here.
        let lease = read_deadline(streams.lease.as_fd()).map_err(|error| failure("read the replica's lease", error))?;
        look_at_lease(lease, self.kill_grace)?;
        let error = sys::exec(&self.paths, &self.arguments, &self.environment);
        let found = self.paths.iter().any(|path| path.to_str().is_ok_and(|path| Path::new(path).exists()));
        let interpreter = if error == Errno::ENOENT && found { ": its interpreter is missing" } else { "" };
        Err(failure(format_args!("execute {:?}{interpreter}", self.name), error))
    }

    fn set_limits(&self) -> nix::Result<()> {
        self.rlimits.iter().try_for_each(|(resource, value)| setrlimit(*resource, *value, *value))
    }

    fn change_user(&self) -> nix::Result<()> {
        let Some(Identity { uid, gid, groups }) = &self.identity else { return Ok(()) };
        let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
        setgroups(&groups)?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)
    }
}

/// The steps of a fresh child for which it need not know what it is to become.
pub(super) fn settle_down(output: &OwnedFd) -> Result<(), SpawnError> {
    setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(|error| failure("make a process group", error))?;
    umask(Mode::from_bits_truncate(0o022));
    for number in [1, 2] {
        sys::place(output.as_fd(), number).map_err(|error| failure("connect the standard streams", error))?;
    }
    // A core dump would land in the job's directory and take as long as it takes; the job may raise it again.
    getrlimit(Resource::RLIMIT_CORE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_CORE, 0, hard))
        .map_err(|error| failure("set the limits", error))?;
    sys::reset_signals();
    Ok(())
}

fn greet_shim(birth: &OwnedFd) -> nix::Result<()> {
    send(birth.as_raw_fd(), HELLO, MsgFlags::MSG_NOSIGNAL)?;
    let mut answer = [0; 8];
    let length = recv(birth.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    if &answer[..length] == GO { Ok(()) } else { Err(Errno::EPIPE) }
}

/// Where the program may be, as `execvpe` searches: in the job's own `PATH`, unless the name contains a slash.
fn candidates(name: &str, environment: &[(String, String)]) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let path = environment.iter().find(|(key, _)| key == "PATH").map_or(DEFAULT_PATH, |(_, value)| value.as_str());
    // An empty entry is the current directory, there as here.
    path.split(':')
        .map(|place| if place.is_empty() { format!("./{name}") } else { format!("{place}/{name}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_searched_in_the_jobs_own_path() {
        let environment = [("PATH".to_owned(), "/a::/b".to_owned())];
        assert_eq!(candidates("tool", &environment), ["/a/tool", "./tool", "/b/tool"]);
        assert_eq!(candidates("./tool", &environment), ["./tool"]);
        assert_eq!(candidates("tool", &[]).len(), 3);
    }

    #[test]
    fn errors_are_classed_by_whether_they_heal() {
        for (error, temporary) in [
            (Errno::ENOENT, false),
            (Errno::EACCES, false),
            (Errno::ENOEXEC, false),
            (Errno::E2BIG, false),
            (Errno::ENOTDIR, false),
            (Errno::EAGAIN, true),
            (Errno::EMFILE, true),
            (Errno::ENFILE, true),
            (Errno::ENOMEM, true),
            (Errno::ENOSPC, true),
        ] {
            assert_eq!(failure("x", error).temporary, temporary, "{error}");
        }
    }
}
