//! The lease as it reaches a run: one small file a replica, written by it alone, read by every shim that follows it.
//!
//! Owns `leases/<replica_id>`: the kernel's name of the boot, and the deadline on `CLOCK_BOOTTIME` until which the replica's
//! runs are its own. One write of eight bytes renews any number of runs. A file of another boot is void, since its clock
//! began anew. Only ever extended; whoever is in doubt reads it again.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::uio::pread;

use super::cgroup::boot_id;
use crate::model::ReplicaId;

/// Where the deadline stands, in whole nanoseconds, little-endian; before it the boot's name. Aligned, so that a reader
/// sees the old one or the new one and nothing between.
const DEADLINE_AT: usize = 64;
const LENGTH: usize = DEADLINE_AT + size_of::<u64>();

/// Time since the machine's boot, suspended time included: the clock of every deadline here, and never compared with the
/// database's.
#[must_use]
pub fn boottime() -> Duration {
    super::clock::now()
}

/// Where the lease of a replica stands.
#[must_use]
pub fn lease_path(state_dir: &Path, replica_id: ReplicaId) -> PathBuf {
    state_dir.join("leases").join(replica_id.to_string())
}

/// The lease of one boot, in the hands of its replica.
#[derive(Debug)]
pub struct LeaseFile {
    file: File,
    deadline: Duration,
}

impl LeaseFile {
    /// Makes the file with its first deadline. It must not exist: a boot's name is never used again.
    pub fn create(state_dir: &Path, replica_id: ReplicaId, deadline: Duration) -> io::Result<Self> {
        let path = lease_path(state_dir, replica_id);
        if let Some(parent) = path.parent() {
            match DirBuilder::new().mode(0o700).create(parent) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        // Whole under another name first: a shim never reads half of one.
        let new = path.with_extension("new");
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all_at(&text(&boot_id(), deadline), 0)?;
        fs::rename(new, path)?;
        Ok(Self { file, deadline })
    }

    /// Moves the deadline, never backwards.
    pub fn extend(&mut self, deadline: Duration) -> io::Result<()> {
        if deadline > self.deadline {
            self.file.write_all_at(&nanoseconds(deadline).to_le_bytes(), DEADLINE_AT as u64)?;
            self.deadline = deadline;
        }
        Ok(())
    }

    /// Until when runs may live, on [`boottime`].
    #[must_use]
    pub const fn deadline(&self) -> Duration {
        self.deadline
    }
}

/// Removes the lease of a boot that no run follows any more.
pub fn remove_lease(state_dir: &Path, replica_id: ReplicaId) -> io::Result<()> {
    remove_if_there(&lease_path(state_dir, replica_id))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes these lease files, but for those of `kept`: nobody follows them.
pub fn remove_leases(files: &[PathBuf], kept: &[ReplicaId]) -> io::Result<()> {
    for path in files {
        let name = path.file_name().and_then(|name| name.to_str());
        let id: Option<ReplicaId> = name.and_then(|name| name.parse().ok());
        if id.is_none_or(|id| !kept.contains(&id)) {
            remove_if_there(path)?;
        }
    }
    Ok(())
}

/// The lease files of a state directory.
pub fn list_leases(state_dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(state_dir.join("leases"))?.map(|entry| Ok(entry?.path())).collect()
}

/// A lease as a shim sees it, with the last deadline that it read there.
#[derive(Debug)]
pub(super) struct Lease {
    file: File,
    deadline: Duration,
}

impl Lease {
    /// Opens the lease of a replica of the boot `boot_id`. An error of kind `InvalidData`: it is no lease of this boot.
    pub(super) fn open(state_dir: &Path, replica_id: ReplicaId, boot_id: &str) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).open(lease_path(state_dir, replica_id))?;
        let mut boot = [0; DEADLINE_AT];
        file.read_exact_at(&mut boot, 0)?;
        if boot.split(|byte| *byte == 0).next() != Some(boot_id.as_bytes()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the lease is of another boot of the machine"));
        }
        let deadline = read_deadline(file.as_fd())?;
        Ok(Self { file, deadline })
    }

    /// Reads it again: until when runs may live, on [`boottime`]. Where it cannot be read any more, and whatever becomes of
    /// the file, the last deadline stands.
    pub(super) fn refresh(&mut self) -> Duration {
        // A later one counts when it was read twice, since nothing promises that eight bytes are copied as one.
        if let Ok(deadline) = read_deadline(self.file.as_fd())
            && deadline > self.deadline
            && read_deadline(self.file.as_fd()).is_ok_and(|again| again == deadline)
        {
            self.deadline = deadline;
        }
        self.deadline
    }

    /// The deadline that was read last.
    pub(super) const fn deadline(&self) -> Duration {
        self.deadline
    }

    /// The file, for one who looks at its deadline once more.
    pub(super) fn file(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }
}

impl AsFd for Lease {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The deadline in an open lease.
pub(super) fn read_deadline(lease: BorrowedFd<'_>) -> io::Result<Duration> {
    let mut bytes = [0; size_of::<u64>()];
    let length = pread(lease, &mut bytes, DEADLINE_AT as i64)?;
    if length < bytes.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Duration::from_nanos(u64::from_le_bytes(bytes)))
}

fn text(boot_id: &str, deadline: Duration) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    for (place, byte) in bytes[..DEADLINE_AT].iter_mut().zip(boot_id.bytes()) {
        *place = byte;
    }
    bytes[DEADLINE_AT..].copy_from_slice(&nanoseconds(deadline).to_le_bytes());
    bytes
}

fn nanoseconds(deadline: Duration) -> u64 {
    u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_is_extended_and_never_shortened() {
        let dir = tempfile::tempdir().unwrap();
        let id = ReplicaId::new();
        let mut written = LeaseFile::create(dir.path(), id, SECOND).unwrap();
        let mut read = Lease::open(dir.path(), id, &boot_id()).unwrap();
        assert_eq!(read.deadline(), SECOND);
        written.extend(SECOND * 3).unwrap();
        written.extend(SECOND * 2).unwrap();
        assert_eq!((written.deadline(), read.refresh()), (SECOND * 3, SECOND * 3));
        remove_lease(dir.path(), id).unwrap();
        remove_lease(dir.path(), id).unwrap();
        assert_eq!(Lease::open(dir.path(), id, &boot_id()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_leases_of_others_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, gone) = (ReplicaId::new(), ReplicaId::new());
        for id in [kept, gone] {
            LeaseFile::create(dir.path(), id, SECOND).unwrap();
        }
        remove_leases(&list_leases(dir.path()).unwrap(), &[kept]).unwrap();
        let stands = |id| lease_path(dir.path(), id).exists();
        assert_eq!((stands(kept), stands(gone)), (true, false));
    }

    #[test]
    fn a_lease_of_another_boot_is_void() {
        let dir = tempfile::tempdir().unwrap();
        let id = ReplicaId::new();
        let _written = LeaseFile::create(dir.path(), id, SECOND).unwrap();
        let error = Lease::open(dir.path(), id, "another").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_lease_that_is_removed_or_emptied_leaves_the_last_deadline_standing() {
        let dir = tempfile::tempdir().unwrap();
        let id = ReplicaId::new();
        let mut written = LeaseFile::create(dir.path(), id, SECOND).unwrap();
        let mut read = Lease::open(dir.path(), id, &boot_id()).unwrap();
        remove_lease(dir.path(), id).unwrap();
        written.extend(SECOND * 2).unwrap();
        assert_eq!(read.refresh(), SECOND * 2);
        written.file.set_len(0).unwrap();
        assert_eq!(read.refresh(), SECOND * 2);
        assert_eq!(read_deadline(read.file.as_fd()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
