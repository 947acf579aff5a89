//! The shim's note in its lock file: what holds the tree, for whoever finds the lock free.
//!
//! Owns the text of `lock`. It is written before the first process of the job exists, so no note means that no process
//! ever did. It is believed only by one who holds the lock.

use std::{
    fs::{File, read_link},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::model::Containment;

/// What holds the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The kernel's name for the boot; in another one nothing of the tree can live.
    pub(super) boot_id: String,
    pub(super) containment: Containment,
    /// The group, for `cgroup`.
    #[serde(default)]
    pub(super) cgroup: Option<PathBuf>,
    /// Pid and start time of the namespace's first process, for `pidns`.
    #[serde(default)]
    pub(super) init: Option<(i32, i64)>,
    /// Where the note was written: device and inode of the lock file, and the pid namespace.
    #[serde(default)]
    pub(super) place: Option<Place>,
}

/// Where a note was written. A copy of the directory, or another pid namespace, is another place, in which the note says
/// nothing about any process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    device: u64,
    inode: u64,
    pid_namespace: String,
}

/// The pid namespace of this process.
pub(super) fn pid_namespace() -> io::Result<String> {
    Ok(read_link("/proc/self/ns/pid")?.to_string_lossy().into_owned())
}

impl Place {
    /// Of this lock file, seen from here.
    pub(super) fn of(lock: &File) -> io::Result<Self> {
        Self::within(lock, pid_namespace()?)
    }

    /// Of this lock file, seen from this pid namespace.
    pub(super) fn within(lock: &File, pid_namespace: String) -> io::Result<Self> {
        let meta = lock.metadata()?;
        Ok(Self { device: meta.dev(), inode: meta.ino(), pid_namespace })
    }
}

impl Note {
    /// Writes it over what stands there, which may be longer: a containment that failed names more than a sweep.
    pub(super) fn write(&self, lock: &File) -> io::Result<()> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        lock.write_all_at(&text, 0)?;
        let length = text.len() as u64;
        if lock.metadata()?.len() == length { Ok(()) } else { lock.set_len(length) }
    }

    /// Reads it. `None`: the shim had not begun. An error of kind `InvalidData`: it had, and nobody knows how.
    pub(super) fn read(lock: &File) -> io::Result<Option<Self>> {
        let mut text = vec![0; 8192];
        let length = lock.read_at(&mut text, 0)?;
        if length == 0 {
            return Ok(None);
        }
        let note = serde_json::from_slice(&text[..length]);
        note.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}
