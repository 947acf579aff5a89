//! What the defaults find on this machine: the host's name, its cores, where state belongs.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// A variable of the environment by its name; tests give their own.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The process's own environment.
pub(super) fn process_environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The host's name, for people and for the state directory's.
pub(super) fn host_name() -> String {
    let name = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.trim().is_empty() { "localhost".to_owned() } else { name }
}

/// The cores that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The default of `state_dir`.
pub(super) fn state_dir(environment: Environment<'_>) -> Result<String, String> {
    let host: String = host_name()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' })
        .collect();
    let base = if nix::unistd::Uid::effective().is_root() {
        PathBuf::from("/var/lib")
    } else {
        let absolute = |name: &str| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
        absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
            .ok_or("there is no default for the state directory, since neither XDG_STATE_HOME nor HOME is set")?
    };
    base.join("orch")
        .join(host)
        .into_os_string()
        .into_string()
        .map_err(|_| "the default for the state directory is not UTF-8".to_owned())
}

/// `path` as an absolute path: below `base` where it is relative.
pub(super) fn absolute_below(base: &Path, path: &Path) -> PathBuf {
    let joined = base.join(path);
    std::path::absolute(&joined).unwrap_or(joined)
}
