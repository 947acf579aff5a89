//! A database a test, copied from a template that is migrated once a process.
//!
//! Owns the names `orch_test_<tag>_<n>`. Parallel test processes on one server do not meet: each has a tag, and holds a
//! session advisory lock on it in the maintenance database, by which the next run knows the leftovers of the dead.

use tokio::sync::{mpsc, oneshot};
use tokio_postgres::{Client, Config, NoTls, config::Host};

use super::{
    leftover::TAG,
    server::{Request, database_name, server},
};

/// A database of the test's own, dropped with it.
#[derive(Debug)]
pub(crate) struct TestDb {
    name: String,
    config: Config,
}

impl TestDb {
    /// A migrated database.
    pub(crate) async fn new() -> Self {
        Self::create(true).await
    }

    /// A database without schema `orch`.
    pub(crate) async fn empty() -> Self {
        Self::create(false).await
    }

    async fn create(migrated: bool) -> Self {
        let (reply, answer) = oneshot::channel();
        let server = server();
        server.send(Request::Create { migrated, reply });
        let name = answer.await.expect("the server's thread lives as long as the tests").expect("a database");
        let mut config = server.config.clone();
        config.dbname(&name);
        Self { name, config }
    }

    /// The database's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How to connect.
    pub(crate) fn config(&self) -> Config {
        self.config.clone()
    }

    /// A libpq URL.
    pub(crate) fn url(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(path)) => percent(&path.to_string_lossy()),
            None => "127.0.0.1".to_owned(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        let user = percent(self.config.get_user().unwrap_or("postgres"));
        let password =
            self.config.get_password().map(|password| format!(":{}", percent(&String::from_utf8_lossy(password))));
        format!("postgres://{user}{}@{host}:{port}/{}", password.unwrap_or_default(), self.name)
    }

    /// A pool as the product uses it.
    pub(crate) fn db(&self) -> orch::db::Db {
        orch::db::Db::new(self.config(), 8, true).expect("a pool")
    }

    /// A connection of the test's own, as the server's superuser.
    pub(crate) async fn client(&self) -> Client {
        connect(&self.config).await.expect("a connection to the test database")
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        server().send(Request::Drop(self.name.clone()));
    }
}

fn percent(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a String takes all");
        }
        out
    })
}

async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The server thread's work: makes and drops databases until the process ends.
pub(crate) async fn serve(admin: &Client, config: &Config, inbox: &mut mpsc::UnboundedReceiver<Request>) {
    let mut template = None;
    let mut made = 0;
    if let Err(error) = remove_leftovers(admin).await {
        super::say(&format!("leftover test databases stay: {error}"));
    }
    while let Some(request) = inbox.recv().await {
        match request {
            Request::Create { migrated: false, reply } => {
                made += 1;
                drop(reply.send(create(admin, &database_name(made), "template1").await));
            }
            Request::Create { migrated: true, reply } => {
                if template.is_none() {
                    template = Some(make_template(admin, config).await);
                }
                let answer = match template.as_ref().expect("it was just made") {
                    Ok(template) => {
                        made += 1;
                        create(admin, &database_name(made), template).await
                    }
                    Err(why) => Err(why.clone()),
                };
                drop(reply.send(answer));
            }
            Request::Drop(name) => drop(drop_database(admin, &name).await),
            Request::Stop => break,
        }
    }
    for n in 0..=made {
        drop(drop_database(admin, &database_name(n)).await);
    }
}

async fn create(admin: &Client, name: &str, template: &str) -> Result<String, String> {
    let statement = format!("create database {name} template {template}");
    admin.batch_execute(&statement).await.map_err(|error| format!("{statement}: {error:?}"))?;
    Ok(name.to_owned())
}

async fn drop_database(admin: &Client, name: &str) -> Result<(), tokio_postgres::Error> {
    admin.batch_execute(&format!("drop database if exists {name} with (force)")).await
}

/// The template is this process's own, so that it always has this binary's schema.
async fn make_template(admin: &Client, config: &Config) -> Result<String, String> {
    let name = create(admin, &database_name(0), "template1").await?;
    let mut config = config.clone();
    config.dbname(&name);
    orch::db::schema::migrate(&config).await.map_err(|error| format!("migrate the template: {error}"))?;
    Ok(name)
}

/// Takes this process's mark on the server, and drops the databases of processes whose mark is free.
async fn remove_leftovers(admin: &Client) -> Result<(), tokio_postgres::Error> {
    admin.execute("select pg_advisory_lock(hashtextextended($1, 0))", &[&TAG.as_str()]).await?;
    let found = admin.query(r"select datname from pg_database where datname like 'orch\_test\_%'", &[]).await?;
    for row in found {
        let name: String = row.get(0);
        let Some(tag) = name.split('_').nth(2).filter(|tag| *tag != TAG.as_str()) else { continue };
        let gone = admin.query_one("select pg_try_advisory_lock(hashtextextended($1, 0))", &[&tag]).await?;
        if gone.get(0) {
            drop_database(admin, &name).await?;
            admin.execute("select pg_advisory_unlock(hashtextextended($1, 0))", &[&tag]).await?;
        }
    }
    Ok(())
}
