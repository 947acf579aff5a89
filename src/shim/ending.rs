//! What a shim leaves behind: the result file's text and `exit.json`.
//!
//! Owns the order in which the end becomes visible and durable. The result comes from a place where the job may write
//! anything, so nothing there is followed, waited for or trusted beyond its bytes.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt, MetadataExt},
    },
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, OFlag, fallocate, openat, renameat},
    sys::stat::Mode,
    unistd::fsync,
};

use super::{
    protocol::{Exit, RESULT_MAX, ResultFile},
    rundir::{EXIT, EXIT_TEMPORARY, JOB, RESULT},
};

/// Space that is reserved for the facts, without a result.
const RESERVE: i64 = 8192;

/// `exit.json` before it stands there: a file with a temporary name and reserved space.
#[derive(Debug)]
pub(super) struct ExitFile(File);

impl ExitFile {
    /// Makes the file and reserves its space, so that a disk that fills up meanwhile does not swallow the end.
    pub(super) fn reserve(directory: &OwnedFd) -> io::Result<Self> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
        let file = File::from(openat(directory, EXIT_TEMPORARY, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        match fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, RESERVE) {
            // A file system that cannot.
            Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(Self(file)),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the end and lets it stand as `exit.json`. Where there is no room for the result, the end says so: a result
    /// that is lost must not look like none.
    pub(super) fn publish(&mut self, directory: &OwnedFd, exit: &Exit) -> io::Result<()> {
        self.write(exit).or_else(|error| {
            if exit.result.is_none() {
                return Err(error);
            }
            let result = Some(ResultFile::Error(format!("the result could not be stored: {error}")));
            self.write(&Exit { result, ..exit.clone() })
        })?;
        Ok(renameat(directory, EXIT_TEMPORARY, directory, EXIT)?)
    }

    fn write(&mut self, exit: &Exit) -> io::Result<()> {
        let text = serde_json::to_vec(exit)?;
        self.0.write_all_at(&text, 0)?;
        self.0.set_len(text.len() as u64)?;
        self.0.flush()
    }

    /// Makes it outlive a crash of the machine.
    pub(super) fn make_durable(&self, directory: &OwnedFd) -> io::Result<()> {
        self.0.sync_all()?;
        Ok(fsync(directory)?)
    }
}

/// The result file, if the job left one.
pub(super) fn read_result(directory: &OwnedFd) -> Option<ResultFile> {
    match read(directory) {
        Ok(text) => text.map(ResultFile::Text),
        Err(reason) => Some(ResultFile::Error(reason)),
    }
}

fn read(directory: &OwnedFd) -> Result<Option<String>, String> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let job = match openat(directory, JOB, flags, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(None),
        job => job.map_err(|error| format!("the result file's directory cannot be opened: {error}"))?,
    };
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = match openat(&job, RESULT, flags, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::ELOOP) => return Err("the result file is a symbolic link".to_owned()),
        file => File::from(file.map_err(|error| format!("the result file cannot be opened: {error}"))?),
    };
    let metadata = file.metadata().map_err(|error| format!("the result file cannot be read: {error}"))?;
    if !metadata.is_file() {
        return Err("the result file is no regular file".to_owned());
    }
    // A job of another user could otherwise have a file read that only the shim may read.
    if metadata.nlink() != 1 {
        return Err("the result file has another name beside its own (a hard link)".to_owned());
    }
    let too_large = |size| format!("the result file has {size} bytes, and {RESULT_MAX} are allowed");
    if metadata.len() > RESULT_MAX {
        return Err(too_large(metadata.len()));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    let read = file.take(RESULT_MAX + 1).read_to_end(&mut bytes);
    let length = read.map_err(|error| format!("the result file cannot be read: {error}"))? as u64;
    if length > RESULT_MAX {
        return Err(too_large(length));
    }
    String::from_utf8(bytes).map(Some).map_err(|error| format!("the result file is not UTF-8: {}", error.utf8_error()))
}
