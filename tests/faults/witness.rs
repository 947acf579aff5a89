//! The witness: the program of the test jobs, and the judge of what it wrote.
//!
//! As a program it takes a lock named by its job, without waiting, and writes when it started and stopped, by
//! `CLOCK_BOOTTIME`. The processes that it starts inherit the lock, so that it is free only when the whole tree is gone.
//! A lock that is taken, or intervals that overlap, are two live processes of one job.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    time::{ClockId, clock_gettime},
};

/// What the witness exits with when it has seen a second process.
const SEEN_TWO: u8 = 119;

/// One run as the witness saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interval {
    /// `ORCH_RUN_ID`.
    pub(crate) run_id: String,
    /// `CLOCK_BOOTTIME` at the start, nanoseconds.
    pub(crate) start: i64,
    /// At the end; `None` where the witness was killed.
    pub(crate) stop: Option<i64>,
}

/// `witness DIR [PROGRAM ARGUMENTS…]`: runs the program, if there is one, between two records, and ends as it did.
pub(crate) fn run(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let dir = PathBuf::from(arguments.next().expect("the witness's directory"));
    let job = std::env::var("ORCH_JOB_ID").expect("ORCH_JOB_ID");
    let run = std::env::var("ORCH_RUN_ID").expect("ORCH_RUN_ID");
    let lock = OpenOptions::new().create(true).append(true).open(dir.join(&job)).expect("the job's file");
    if lock.try_lock().is_err() {
        record(&dir.join("overlaps"), &format!("job {job}: run {run} began while another was alive, at {}", now()));
        return ExitCode::from(SEEN_TWO);
    }
    fcntl(&lock, FcntlArg::F_SETFD(FdFlag::empty())).expect("an inheritable lock");
    append(&lock, &format!("start {run} {}", now()));
    let Some(program) = arguments.next() else {
        append(&lock, &format!("stop {run} {}", now()));
        return ExitCode::SUCCESS;
    };
    let status = Command::new(program).args(arguments).status().expect("the program of the test job");
    append(&lock, &format!("stop {run} {}", now()));
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn now() -> i64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME");
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}

fn append(mut file: &File, line: &str) {
    file.write_all(format!("{line}\n").as_bytes()).expect("a record");
}

fn record(path: &Path, line: &str) {
    append(&OpenOptions::new().create(true).append(true).open(path).expect("a file of records"), line);
}

/// What the witness saw of a job, in order.
pub(crate) fn intervals(dir: &Path, job: i64) -> Vec<Interval> {
    let text = fs::read_to_string(dir.join(job.to_string())).unwrap_or_default();
    let mut seen: Vec<Interval> = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(word), Some(run_id), Some(at)) = (words.next(), words.next(), words.next()) else {
            panic!("job {job}: the witness's record is broken: {line:?}")
        };
        let at = at.parse().expect("nanoseconds");
        if word == "start" {
            seen.push(Interval { run_id: run_id.to_owned(), start: at, stop: None });
        } else {
            let open = seen.iter_mut().rfind(|interval| interval.run_id == run_id);
            open.expect("a start before each stop").stop = Some(at);
        }
    }
    seen
}

/// Whether a process of the job's tree still lives.
pub(crate) fn is_alive(dir: &Path, job: i64) -> bool {
    File::open(dir.join(job.to_string())).is_ok_and(|file| file.try_lock().is_err())
}

/// Two live processes of one job, wherever the records show them.
pub(crate) fn overlaps(dir: &Path) -> Vec<String> {
    let mut found: Vec<String> =
        fs::read_to_string(dir.join("overlaps")).unwrap_or_default().lines().map(str::to_owned).collect();
    for (job, seen) in all(dir) {
        for pair in seen.windows(2) {
            // Without a stop the earlier one was killed: the lock says that it was gone when the later one began.
            if pair[0].stop.is_some_and(|stop| stop > pair[1].start) || pair[0].run_id == pair[1].run_id {
                found.push(format!("job {job}: {:?} and {:?}", pair[0], pair[1]));
            }
        }
    }
    found
}

/// All jobs that the witness saw.
pub(crate) fn all(dir: &Path) -> BTreeMap<i64, Vec<Interval>> {
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    let jobs = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    jobs.map(|job| (job, intervals(dir, job))).collect()
}
