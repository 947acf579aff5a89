//! The data of the embedded server: made once, whole or not at all, and of one major version.

use std::{fs::OpenOptions, io::Write as _, path::Path, process::Stdio};

use anyhow::{Context as _, bail};
use rand::distr::{Alphanumeric, SampleString as _};

use super::{
    home::{Home, open_private, read_line, sync_directory},
    install::{self, Installed},
};

/// The superuser's password, made once.
pub(super) fn password(home: &Home) -> anyhow::Result<String> {
    let path = home.password();
    if let Some(password) = read_line(&path)?.filter(|password| !password.is_empty()) {
        return Ok(password);
    }
    if home.data().exists() {
        bail!(
            "the embedded Postgres has data but its password {} is gone: restore the file, \
             or move {} away to start anew",
            path.display(),
            home.data().display()
        );
    }
    let password = Alphanumeric.sample_string(&mut rand::rng(), 32);
    home.write_private(&path, &password)?;
    Ok(password)
}

/// The server for the data that are there, or the newest for new ones; downloaded where none is installed.
pub(super) async fn choose_installation(home: &Home) -> anyhow::Result<Installed> {
    let version = read_line(&home.data().join("PG_VERSION"))?;
    let major = version.as_deref().map(|text| {
        text.parse::<u32>().with_context(|| {
            format!("{} is no data directory of Postgres: move it away to start anew", home.data().display())
        })
    });
    let major = major.transpose()?;
    if let Some(old) = major.filter(|major| *major < install::OLDEST) {
        bail!(
            "the data of the embedded Postgres in {} are of version {old}, and orch needs {} or later: \
             bring them over with pg_upgrade, or move them away to start anew",
            home.data().display(),
            install::OLDEST
        );
    }
    let installed = match install::find(major) {
        Some(installed) => installed,
        None => install::download(major, &home.account).await.with_context(|| match major {
            Some(major) => format!("the embedded Postgres has data of version {major} in {}", home.data().display()),
            None => "the embedded Postgres cannot be had".to_owned(),
        })?,
    };
    check_it_runs(home, &installed).await?;
    Ok(installed)
}

/// The server's user must be able to run the programs from the directory; root's eyes see more than that user's.
async fn check_it_runs(home: &Home, installed: &Installed) -> anyhow::Result<()> {
    let mut command = home.account.command(&installed.bin.join("postgres"), home.root());
    let run = command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    match run {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            bail!("{} does not run here ({status}): install it anew", installed.bin.join("postgres").display())
        }
        Err(error) => Err(error).with_context(|| {
            format!(
                "cannot run {} in {}: both must be open to the user of Postgres",
                installed.bin.join("postgres").display(),
                home.root().display()
            )
        }),
    }
}

/// Makes the data, unless they are there. What a killed attempt left is removed; the lock, which `initdb` inherits,
/// says that none of it still runs.
pub(super) async fn initialize(
    home: &Home,
    installed: &Installed,
    password: &str,
    lock: &std::fs::File,
) -> anyhow::Result<()> {
    let (data, unfinished) = (home.data(), home.unfinished_data());
    if data.exists() {
        return Ok(());
    }
    let context = || format!("cannot make the data of the embedded Postgres in {}", home.root().display());
    let secret = home.root().join("initdb-password");
    remove(&unfinished).with_context(context)?;
    remove(&secret).with_context(context)?;
    std::fs::create_dir(&unfinished)
        .and_then(|()| std::fs::set_permissions(&unfinished, std::os::unix::fs::PermissionsExt::from_mode(0o700)))
        .and_then(|()| home.account.give(&unfinished))
        .with_context(context)?;
    open_private(&secret, OpenOptions::new().create_new(true).write(true))?
        .write_all(password.as_bytes())
        .and_then(|()| home.account.give(&secret))
        .with_context(context)?;

    let output = home
        .account
        .command(&installed.bin.join("initdb"), home.root())
        .args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums"])
        .arg("--pwfile")
        .arg(&secret)
        .arg("--pgdata")
        .arg(&unfinished)
        .stdin(lock.try_clone().with_context(context)?)
        .output()
        .await
        .with_context(context)?;
    remove(&secret).with_context(context)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: initdb ended with {}: {}", context(), output.status, said.trim().replace('\n', "; "));
    }
    std::fs::rename(&unfinished, &data).and_then(|()| sync_directory(home.root())).with_context(context)
}

fn remove(path: &Path) -> std::io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    removed.or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}
