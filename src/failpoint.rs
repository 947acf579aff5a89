//! Points between two durable steps at which the fault suite kills the process that passes them.
//!
//! Owns their names and nothing else. They exist under the feature `failpoints` alone: without it [`hit`] is empty and the
//! crate behind it is not compiled. Must never change what the code around a point does.
//!
//! `FAILPOINTS="settle_committed=return"` kills whoever passes that point; `=return(FILE)` does so only to the one that
//! removes the file, so that one kill can be had where every run's shim passes the point. Other actions (`sleep(500)`,
//! `2*off->return`) are those of the crate `fail`.

/// A point, named by the step that has just been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The database acknowledged a claim; nothing has been made of it.
    ClaimCommitted,
    /// The run's directory stands with its `spec.json`; no spawner has been asked.
    SpecWritten,
    /// The replica has heard from the shim that the program runs; no pid has been stamped.
    ShimStarted,
    /// The database acknowledged the pid.
    PidStamped,
    /// In the shim: the tree is empty; `exit.json` does not stand.
    ChildEnded,
    /// In the shim: `exit.json` stands; nobody has been told.
    ExitRenamed,
    /// The database acknowledged a settle; the shim holds its lock and the directory stands.
    SettleCommitted,
    /// The run's directory is retired.
    DirectoryRemoved,
    /// A live shim of an earlier boot has answered; the database has not been asked for its run.
    AdoptionBegun,
    /// The database acknowledged an adoption; the shim has not been told whose lease to follow.
    AdoptionCommitted,
}

impl Point {
    /// Every point, in the order of a run's life.
    pub const ALL: [Self; 10] = [
        Self::ClaimCommitted,
        Self::SpecWritten,
        Self::ShimStarted,
        Self::PidStamped,
        Self::ChildEnded,
        Self::ExitRenamed,
        Self::SettleCommitted,
        Self::DirectoryRemoved,
        Self::AdoptionBegun,
        Self::AdoptionCommitted,
    ];

    /// As `FAILPOINTS` names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClaimCommitted => "claim_committed",
            Self::SpecWritten => "spec_written",
            Self::ShimStarted => "shim_started",
            Self::PidStamped => "pid_stamped",
            Self::ChildEnded => "child_ended",
            Self::ExitRenamed => "exit_renamed",
            Self::SettleCommitted => "settle_committed",
            Self::DirectoryRemoved => "directory_removed",
            Self::AdoptionBegun => "adoption_begun",
            Self::AdoptionCommitted => "adoption_committed",
        }
    }
}

/// What the spawner is given although its environment is empty: the variable that arms points, and those by which the fault
/// suite puts a clock of its own before the machine's.
#[cfg(feature = "failpoints")]
pub fn handed_down() -> impl Iterator<Item = (&'static str, std::ffi::OsString)> {
    let names = ["FAILPOINTS", "LD_PRELOAD", "ORCH_TEST_SUSPENDED"];
    names.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)))
}

/// Arms the points that the environment names. Called once, before a thread exists.
#[cfg(feature = "failpoints")]
pub fn arm() {
    // Its end would disarm them.
    std::mem::forget(fail::FailScenario::setup());
}

/// Passes a point: where it is armed, this process ends here as by `kill -9`.
#[cfg(feature = "failpoints")]
pub fn hit(point: Point) {
    fail::eval(point.name(), |file| {
        if file.is_none_or(|file| std::fs::remove_file(file).is_ok()) {
            let _cannot_fail = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        }
    });
}

/// Passes a point: nothing, in a build without failpoints.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn hit(_: Point) {}
