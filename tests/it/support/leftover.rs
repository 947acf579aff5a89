//! Marks that tell a live test process from one that is gone: a locked file, which the kernel unlocks when its process
//! ends in whatever way.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::PathBuf,
    sync::LazyLock,
};

/// This test process: ten characters that stand in the names of all that it makes.
pub(crate) static TAG: LazyLock<String> = LazyLock::new(|| uuid::Uuid::new_v4().simple().to_string()[..10].to_owned());

/// Writes a line to standard error also where the test harness captures output.
pub(crate) fn say(line: &str) {
    // There is nobody to tell that nobody can be told.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

fn marks() -> PathBuf {
    std::env::temp_dir().join("orch-tests")
}

/// The mark of this process, held locked for as long as it lives.
pub(crate) fn take_mark() -> std::io::Result<File> {
    fs::create_dir_all(marks())?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(marks().join(TAG.as_str()))?;
    file.lock()?;
    Ok(file)
}

/// Whether the process with this tag is gone. A tag without a mark is gone.
pub(crate) fn is_gone(tag: &str) -> bool {
    match File::open(marks().join(tag)) {
        Ok(mark) => mark.try_lock().is_ok(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Removes the marks of processes that are gone.
pub(crate) fn remove_marks_of_the_gone() {
    for entry in fs::read_dir(marks()).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_gone) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
