//! A PgBouncer of a row's own, in transaction mode before the case's database: with few server connections, so that the
//! clients share them and nothing can be kept in a session.

use std::{
    os::unix::fs::{PermissionsExt as _, chown},
    process::{Child, Command, Stdio},
};

use nix::unistd::{User, geteuid};
use tempfile::TempDir;
use tokio_postgres::{Config, NoTls, config::Host};

use crate::support::{eventually, free_port};

/// A running PgBouncer; dropped, it ends.
#[derive(Debug)]
pub(crate) struct Bouncer {
    child: Child,
    config: Config,
    _home: TempDir,
}

impl Bouncer {
    /// Before this database.
    pub(crate) async fn before(mut config: Config) -> Self {
        let host = match config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => "127.0.0.1".to_owned(),
        };
        let upstream = config.get_ports().first().copied().unwrap_or(5432);
        let user = config.get_user().unwrap_or("postgres").to_owned();
        let password = config.get_password().map(|password| String::from_utf8_lossy(password).into_owned());
        let password = password.map(|password| format!(" password='{password}'")).unwrap_or_default();
        let database = config.get_dbname().expect("a database of the case's own").to_owned();
        let port = free_port();
        let home = tempfile::Builder::new().prefix("orch-bouncer-").tempdir().expect("a temporary directory");
        let file = home.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n{database} = host={host} port={upstream} user={user}{password}\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
             default_pool_size = 4\nmax_client_conn = 200\nlogfile = {}\n",
            home.path().join("log").display()
        );
        std::fs::write(&file, text).expect("its configuration");
        let mut command = Command::new("pgbouncer");
        if geteuid().is_root() {
            // It refuses to run as root.
            let nobody = User::from_name("nobody").ok().flatten().expect("a user who is not root");
            for path in [home.path(), &file] {
                chown(path, Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).expect("something to give away");
            }
            std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o700)).expect("its permissions");
            command = Command::new("setpriv");
            let (uid, gid) = (nobody.uid.to_string(), nobody.gid.to_string());
            command.args(["--clear-groups", "--reuid", &uid, "--regid", &gid, "pgbouncer"]);
        }
        command.arg(&file).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("pgbouncer");
        config = Config::new();
        config.host("127.0.0.1").port(port).user(&user).dbname(&database);
        let bouncer = Self { child, config, _home: home };
        eventually("pgbouncer to answer", async || bouncer.config.connect(NoTls).await.is_ok().then_some(())).await;
        bouncer
    }

    /// The way through it.
    pub(crate) fn url(&self) -> String {
        let (port, user) = (self.config.get_ports()[0], self.config.get_user().unwrap_or("postgres"));
        format!("postgres://{user}@127.0.0.1:{port}/{}", self.config.get_dbname().unwrap_or(user))
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
