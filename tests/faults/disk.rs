//! A small disk: a tmpfs of a size of the row's choice, that can be filled and has room again. Gone with its value.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A small disk.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    dir: PathBuf,
    /// The directory below it, where that is the disk's own; gone after it.
    own: Option<TempDir>,
}

impl SmallDisk {
    /// One of this size (`8m`) and mode (`0711`), over this directory.
    pub(crate) fn over(dir: &Path, size: &str, mode: &str) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let options = format!("size={size},mode={mode}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(dir).output().unwrap();
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        Self { dir: dir.to_owned(), own: None }
    }

    /// One of this size, at a place of its own, for one user.
    pub(crate) fn new(size: &str) -> Self {
        let own = tempfile::Builder::new().prefix("orch-disk-").tempdir().expect("a temporary directory");
        let mut disk = Self::over(own.path(), size, "0700");
        disk.own = Some(own);
        disk
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// How many bytes are free.
    pub(crate) fn free(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(&self.dir).unwrap();
        stat.blocks_available() * stat.fragment_size()
    }

    /// Takes all that is free.
    pub(crate) fn fill(&self) {
        let mut filler = std::fs::File::create(self.filler()).unwrap();
        for size in [1 << 20, 4096] {
            while filler.write_all(&vec![b'x'; size]).is_ok() {}
        }
        assert_eq!(self.free(), 0, "the disk is full");
    }

    /// Gives back what [`SmallDisk::fill`] took.
    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.dir.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process of a failed row may still look at it.
        let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
    }
}
