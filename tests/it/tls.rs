//! TLS to the database, by libpq's settings, against a server with certificates made here; and several hosts.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use orch::{
    config::{Overrides, explicit_database, load},
    db::{Db, Error, Server, Witness, replicas::Reconcile, schema},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;

use crate::support::{Capability, Cluster, eventually, requires};

/// An authority, and a place for what it signs.
struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
    root: PathBuf,
}

impl Authority {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", rand::random::<u64>()));
        let key = KeyPair::generate().unwrap();
        let root = directory.path().join("root.crt");
        fs::write(&root, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { directory, issuer: Issuer::new(params, key), root }
    }

    /// A certificate for this host or user, and its key, as PEM.
    fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn root(&self) -> &str {
        self.root.to_str().unwrap()
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> String {
        let file = self.directory.path().join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        file.to_str().unwrap().to_owned()
    }
}

/// A server that shows this certificate. Its user `certified` must show one as well, and its user `plain` comes without TLS
/// only.
async fn server_with((certificate, key): &(String, String), root: &Path) -> Cluster {
    let settings = "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\nssl_ca_file = 'root.crt'";
    let hba = "hostssl all certified 127.0.0.1/32 cert\nhost all certified 127.0.0.1/32 reject\n\
               hostssl all plain 127.0.0.1/32 reject";
    let root = fs::read_to_string(root).unwrap();
    let files = [("server.crt", certificate.as_str()), ("server.key", key.as_str()), ("root.crt", root.as_str())];
    let cluster = Cluster::start_with(settings, hba, &files).await;
    let (client, connection) = cluster.config().connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("create role certified login; create role plain login").await.unwrap();
    cluster
}

/// What orch makes of a URL, as the whole program would.
fn named(url: &str) -> Server {
    let overrides = Overrides::default().with("config", "/dev/null").with("state_dir", "/x").with("database_url", url);
    explicit_database(&load(&overrides).unwrap()).unwrap().unwrap().server
}

/// Whether the session is encrypted.
async fn encrypted(url: &str) -> Result<bool, Error> {
    let (client, _task) = named(url).connect().await?;
    let ssl = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    Ok(client.query_one(ssl, &[]).await.unwrap().get(0))
}

async fn untrusted(url: &str) -> String {
    match encrypted(url).await {
        Err(Error::Untrusted(why)) => why,
        other => panic!("{url}: {other:?}"),
    }
}

#[tokio::test]
async fn each_mode_looks_at_what_it_says() {
    if !requires(&[Capability::InstalledPostgres]) {
        return;
    }
    let (ours, theirs) = (Authority::new(), Authority::new());
    let cluster = server_with(&ours.sign("localhost", |_| {}), &ours.root).await;
    let port = cluster.port();
    let url = |host: &str, user: &str, options: &str| format!("postgres://{user}@{host}:{port}/postgres?{options}");

    for options in ["", "sslmode=prefer", "sslmode=require", "channel_binding=prefer"] {
        assert!(encrypted(&url("localhost", "postgres", options)).await.unwrap(), "{options}");
    }
    for options in ["sslmode=disable", "sslmode=allow"] {
        assert!(!encrypted(&url("localhost", "postgres", options)).await.unwrap(), "{options}");
    }
    let full = |root: &str| format!("sslmode=verify-full&sslrootcert={root}");
    assert!(encrypted(&url("localhost", "postgres", &full(ours.root()))).await.unwrap());
    for versions in ["ssl_max_protocol_version=TLSv1.2", "ssl_min_protocol_version=TLSv1.3", "sslsni=0"] {
        let options = format!("{}&{versions}", full(ours.root()));
        assert!(encrypted(&url("localhost", "postgres", &options)).await.unwrap(), "{versions}");
    }

    // An address that the certificate does not bear.
    let other = untrusted(&url("127.0.0.1", "postgres", &full(ours.root()))).await;
    assert!(other.contains("127.0.0.1") && other.contains("localhost"), "{other}");
    let ca = format!("sslmode=verify-ca&sslrootcert={}", ours.root());
    assert!(encrypted(&url("127.0.0.1", "postgres", &ca)).await.unwrap());

    // Another authority's signature. With a root certificate at hand `require` looks at it too, and `prefer` does without TLS.
    for mode in ["verify-full", "verify-ca", "require"] {
        let options = format!("sslmode={mode}&sslrootcert={}", theirs.root());
        let unknown = untrusted(&url("localhost", "postgres", &options)).await;
        assert!(unknown.contains("sslrootcert"), "{mode}: {unknown}");
    }
    let options = format!("sslmode=prefer&sslrootcert={}", theirs.root());
    assert!(!encrypted(&url("localhost", "postgres", &options)).await.unwrap());
    let missing = untrusted(&url("localhost", "postgres", &full("/nowhere/root.crt"))).await;
    assert!(missing.contains("/nowhere/root.crt"), "{missing}");

    // A server that lets a user in only without TLS, or only with it.
    assert!(!encrypted(&url("localhost", "plain", "sslmode=prefer")).await.unwrap());
    let refused = encrypted(&url("localhost", "plain", "sslmode=require")).await.unwrap_err();
    assert_eq!(refused.code(), Some("28000"), "{refused}");
}

#[tokio::test]
async fn a_client_certificate_opens_the_door() {
    if !requires(&[Capability::InstalledPostgres]) {
        return;
    }
    let (ours, theirs) = (Authority::new(), Authority::new());
    let cluster = server_with(&ours.sign("localhost", |_| {}), &ours.root).await;
    let base = format!(
        "postgres://certified@localhost:{}/postgres?sslmode=verify-full&sslrootcert={}",
        cluster.port(),
        ours.root()
    );
    let pair = |authority: &Authority, name: &str| {
        let (certificate, key) = authority.sign(name, |_| {});
        let certificate = ours.file("client.crt", &certificate, 0o644);
        (format!("{base}&sslcert={certificate}&sslkey={}", ours.file("client.key", &key, 0o600)), key)
    };

    let (url, key) = pair(&ours, "certified");
    assert!(encrypted(&url).await.unwrap());
    // `allow` comes to TLS because the server refuses plain text.
    assert!(encrypted(&url.replace("verify-full", "allow")).await.unwrap());

    ours.file("client.key", &key, 0o644);
    let open = untrusted(&url).await;
    assert!(open.contains("chmod 600"), "{open}");
    ours.file("client.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\n", 0o600);
    let locked = untrusted(&url).await;
    assert!(locked.contains("openssl pkey"), "{locked}");
    ours.file("client.key", &ours.sign("certified", |_| {}).1, 0o600);
    let mixed = untrusted(&url).await;
    assert!(mixed.contains("together"), "{mixed}");

    let none = encrypted(&base).await.unwrap_err();
    assert_eq!(none.code(), Some("28000"), "{none}");
    let other = encrypted(&pair(&ours, "somebody").0).await.unwrap_err();
    assert_eq!(other.code(), Some("28000"), "{other}");
    let foreign = untrusted(&pair(&theirs, "certified").0).await;
    assert!(foreign.contains("client certificate"), "{foreign}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_in_a_sentence() {
    if !requires(&[Capability::InstalledPostgres]) {
        return;
    }
    let ours = Authority::new();
    let old = ours.sign("localhost", |params| params.not_after = date_time_ymd(2020, 1, 1));
    let cluster = server_with(&old, &ours.root).await;
    let url = format!("postgres://postgres@localhost:{}/postgres?sslrootcert={}&sslmode=", cluster.port(), ours.root());
    for mode in ["verify-full", "verify-ca"] {
        let expired = untrusted(&format!("{url}{mode}")).await;
        assert!(expired.contains("expired"), "{expired}");
    }
}

#[tokio::test]
async fn a_server_without_tls_will_do_unless_tls_is_asked_for() {
    if !requires(&[Capability::InstalledPostgres]) {
        return;
    }
    let cluster = Cluster::start().await;
    let with = |options: &str| format!("{}?{options}", cluster.url());
    assert!(!encrypted(&with("sslmode=prefer")).await.unwrap());
    let none = untrusted(&with("sslmode=require")).await;
    assert!(none.contains("ssl = on"), "{none}");
    let orch = crate::support::Orch::without_database();
    let output = orch.run(["migrate", "--database-url", &with("sslmode=require")]).await;
    assert!(!output.status.success() && output.stderr.contains("ssl = on"), "{}", output.stderr);
}

#[tokio::test]
async fn a_statement_that_nobody_waits_for_is_cancelled_over_tls() {
    if !requires(&[Capability::InstalledPostgres]) {
        return;
    }
    let ours = Authority::new();
    let cluster = server_with(&ours.sign("localhost", |_| {}), &ours.root).await;
    let url = format!(
        "postgres://postgres@localhost:{}/postgres?sslmode=verify-full&sslrootcert={}",
        cluster.port(),
        ours.root()
    );
    schema::migrate(&named(&url)).await.unwrap();
    let (blocker, _task) = named(&url).connect().await.unwrap();
    blocker.batch_execute("begin; lock table orch.meta in access exclusive mode").await.unwrap();
    let db = Db::new(named(&url), 1, true).unwrap().answering_within(Duration::from_millis(500));
    assert!(db.identity().await.unwrap_err().is_ambiguous());
    eventually("the statement to be cancelled", async || {
        let waiting = "select from pg_stat_activity where wait_event_type = 'Lock'";
        blocker.query(waiting, &[]).await.unwrap().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn of_several_hosts_the_one_that_takes_writes_is_used_and_followed() {
    if !requires(&[Capability::InstalledPostgres]) {
        return;
    }
    let primary = Cluster::start().await;
    schema::migrate(&primary.config()).await.unwrap();
    let standby = primary.standby("standby").await;
    let (one, other) = (primary.port(), standby.port());
    let url = format!("postgres://postgres@127.0.0.1:{other},127.0.0.1:{one}/postgres?connect_timeout=2");

    let db = Db::new(named(&url), 1, true).unwrap();
    db.note_identity(db.identity().await.unwrap().server).await.unwrap();

    // A primary that takes no more writes: not the data's fault, and its connection is not used again.
    let (admin, connection) = primary.config().connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let only = Db::new(named(&format!("postgres://postgres@127.0.0.1:{one}/postgres")), 1, true).unwrap();
    let server = only.identity().await.unwrap().server;
    admin.batch_execute("alter system set default_transaction_read_only = on").await.unwrap();
    admin.batch_execute("select pg_reload_conf()").await.unwrap();
    let refused = eventually("a write to be refused", async || only.note_identity(server).await.err()).await;
    assert!(refused.is_ambiguous() && !refused.is_about_data(), "{refused}");
    let none = Db::new(named(&url), 1, true).unwrap().identity().await.unwrap_err().to_string();
    assert!(none.contains(&format!("127.0.0.1:{one}: ")) && none.contains(&format!("127.0.0.1:{other}: ")), "{none}");

    primary.crash();
    standby.promote().await;
    eventually("the pool to reach the new primary", async || db.note_identity(server).await.ok()).await;
}

#[tokio::test]
async fn a_server_that_a_failover_left_behind_is_not_believed() {
    if !requires(&[Capability::InstalledPostgres]) {
        return;
    }
    let primary = Cluster::start().await;
    schema::migrate(&primary.config()).await.unwrap();
    let standby = primary.standby("standby").await;
    let (one, other) = (primary.port(), standby.port());
    let witness = Witness::default();
    let believing = |url: &str| Db::believing(named(url), 1, true, &witness).unwrap();
    let old = believing(&format!("postgres://postgres@127.0.0.1:{one}/postgres"));
    let system = old.identity().await.unwrap().server.system_identifier;
    let stranger = orch::model::ReplicaId::new();
    assert!(!old.renew_replica(stranger, 60.0, Reconcile::Full).await.unwrap().live);

    // Both answer now, and both take writes.
    eventually("the standby to have all", async || {
        let (client, _task) = named(&primary.url()).connect().await.unwrap();
        let caught_up = "select from pg_stat_replication where replay_lsn = pg_current_wal_lsn()";
        (!client.query(caught_up, &[]).await.unwrap().is_empty()).then_some(())
    })
    .await;
    standby.promote().await;
    let both = believing(&format!("postgres://postgres@127.0.0.1:{other},127.0.0.1:{one}/postgres"));
    assert_eq!(both.identity().await.unwrap().server.system_identifier, system);
    let refused = old.renew_replica(stranger, 60.0, Reconcile::LeaseOnly).await.unwrap_err();
    assert!(refused.is_ambiguous() && refused.to_string().contains("timeline 1"), "{refused}");
    let either = believing(&format!("postgres://postgres@127.0.0.1:{one},127.0.0.1:{other}/postgres"));
    assert!(
        !either.renew_replica(stranger, 60.0, Reconcile::Full).await.unwrap().live,
        "it goes on to the new primary"
    );

    // Another cluster altogether, as when a name leads elsewhere.
    let elsewhere = Cluster::start().await;
    schema::migrate(&elsewhere.config()).await.unwrap();
    let refused = believing(&elsewhere.url()).renew_replica(stranger, 60.0, Reconcile::Full).await.unwrap_err();
    assert!(refused.to_string().contains("another cluster"), "{refused}");
}
