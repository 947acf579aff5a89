//! How a connection is made: host after host, each with the TLS that was asked for, until one will do.
//!
//! Owns the order of the hosts. Never keeps a password anywhere but in the driver's own
//! configuration, whose `Debug` hides it.

use std::{
    future::poll_fn,
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use rand::seq::SliceRandom as _;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_postgres::{
    AsyncMessage, Client, Config, NoTls, Socket,
    config::{Host, SslMode, SslNegotiation},
    tls::MakeTlsConnect,
};

use super::{
    Error, Result, Witness,
    tls::{Connector, HandshakeFailed, Mode, Tls},
    verify,
};

/// Where a database is: one server, or several of which one takes the writes.
#[derive(Debug, Clone)]
pub struct Server {
    hosts: Vec<Config>,
    tls: Tls,
    random: bool,
    patience: Option<Duration>,
    /// Where the next attempt begins: at the host that worked last, or behind one that is being tried. A caller whose time
    /// is up while a host is silent thus meets the next one.
    next: Arc<AtomicUsize>,
}

impl Server {
    /// Of these configurations each names one host.
    #[must_use]
    pub fn new(hosts: Vec<Config>, tls: Tls) -> Self {
        Self { hosts, tls, random: false, patience: None, next: Arc::default() }
    }

    /// As this one, with the hosts tried in random order.
    #[must_use]
    pub const fn in_random_order(mut self, random: bool) -> Self {
        self.random = random;
        self
    }

    /// As this one, with so long for each address, from the first packet to a usable session.
    #[must_use]
    pub const fn with_patience(mut self, patience: Option<Duration>) -> Self {
        self.patience = patience;
        self
    }

    /// As this one, with another database.
    #[must_use]
    pub fn with_database(mut self, name: &str) -> Self {
        for host in &mut self.hosts {
            host.dbname(name);
        }
        self
    }

    /// One configuration a host, in order. There is at least one.
    #[must_use]
    pub fn hosts(&self) -> &[Config] {
        &self.hosts
    }

    /// What is asked of TLS.
    #[must_use]
    pub const fn tls(&self) -> &Tls {
        &self.tls
    }

    /// A connection outside of any pool, and the task that moves its bytes, which ends with it.
    pub async fn connect(&self) -> Result<(Client, JoinHandle<()>)> {
        let (made, _) = self.make(None).await?;
        Ok((made.client, made.task))
    }

    /// As [`Server::connect`], with one message for each notification that the connection hears.
    pub async fn connect_hearing(&self) -> Result<(Client, mpsc::UnboundedReceiver<()>)> {
        let (made, _) = self.make(None).await?;
        Ok((made.client, made.heard))
    }

    /// Boxed: what waits for it has a future that is large enough.
    pub(super) fn make<'a>(&'a self, witness: Option<&'a Witness>) -> BoxFuture<'a, Result<(Made, Option<u32>)>> {
        self.make_on_any(witness).boxed()
    }

    /// With the timeline of its server, where there is a witness who asked.
    async fn make_on_any(&self, witness: Option<&Witness>) -> Result<(Made, Option<u32>)> {
        let count = self.hosts.len();
        let first = self.next.load(Ordering::Relaxed);
        let mut order: Vec<usize> = (0..count).map(|n| (first + n) % count.max(1)).collect();
        if self.random {
            order.shuffle(&mut rand::rng());
        }
        let mut failures = Vec::new();
        for index in order {
            self.next.store((index + 1) % count, Ordering::Relaxed);
            match self.make_on(&self.hosts[index], witness).await {
                Ok(made) => {
                    self.next.store(index, Ordering::Relaxed);
                    return Ok(made);
                }
                Err(error) => failures.push((index, error)),
            }
        }
        Err(self.none_of(failures))
    }

    /// One error of all: the servers' own word where they all answered, else what each of them said.
    fn none_of(&self, mut failures: Vec<(usize, Error)>) -> Error {
        let all_answered = failures.iter().all(|(_, error)| !matches!(error, Error::Unavailable(_)));
        if failures.len() == 1 || (all_answered && !failures.is_empty()) {
            return failures.swap_remove(0).1;
        }
        failures.sort_by_key(|(index, _)| *index);
        let each: Vec<String> =
            failures.iter().map(|(index, error)| format!("{}: {}", place(&self.hosts[*index]), bare(error))).collect();
        Error::Unavailable(format!("no host will do; {}", each.join("; ")))
    }

    /// Address after address of one host.
    async fn make_on(&self, host: &Config, witness: Option<&Witness>) -> Result<(Made, Option<u32>)> {
        let mut last = None;
        for address in addresses(host).await? {
            let mut one = host.clone();
            if let Some(address) = address {
                one.hostaddr(address);
            }
            let attempt = async {
                let made = self.make_at(&one).await?;
                let timeline = match witness {
                    Some(witness) => witness.admit(&made.client).await?,
                    None => None,
                };
                Ok((made, timeline))
            };
            match self.within_patience(attempt).await {
                Ok(made) => return Ok(made),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::Unavailable("the host has no address: correct its name".to_owned())))
    }

    async fn within_patience<T>(&self, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(patience) = self.patience else { return attempt.await };
        tokio::time::timeout(patience, attempt).await.unwrap_or_else(|_| {
            Err(Error::Unavailable(format!("no answer within {:.0} s (connect_timeout)", patience.as_secs_f64())))
        })
    }

    /// With and without TLS, as `sslmode` says. Of two failures the one with TLS is told.
    async fn make_at(&self, host: &Config) -> Result<Made> {
        let socket = matches!(host.get_hosts().first(), Some(Host::Unix(_)));
        match self.tls.mode {
            Mode::Disable => plain(host).await,
            // Nobody is between two ends of a socket in the file system, and Postgres has no TLS there.
            _ if socket => plain(host).await,
            Mode::Allow => match plain(host).await {
                Err(error) if is_refused(&error) => self.encrypted(host, SslMode::Require).await,
                answer => answer,
            },
            Mode::Prefer => match self.encrypted(host, SslMode::Prefer).await {
                Err(error) if is_refused(&error) => plain(host).await.map_err(|_| error),
                answer => answer,
            },
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => self.encrypted(host, SslMode::Require).await,
        }
    }

    async fn encrypted(&self, host: &Config, mode: SslMode) -> Result<Made> {
        let tls = self.tls.clone();
        // The files may lie on a slow disk, and a machine's authorities are many.
        let connector = tokio::task::spawn_blocking(move || tls.connector())
            .await
            .map_err(|error| Error::Unavailable(format!("the TLS files were not read: {error}")))??;
        let mut host = host.clone();
        host.ssl_mode(mode);
        if self.tls.direct {
            host.ssl_negotiation(SslNegotiation::Direct);
        }
        match establish(&host, connector.clone()).await {
            Ok(encrypted) => Ok(Made { tls: Some(connector), ..encrypted }),
            Err(error) => Err(classify(&error, Some(&connector))),
        }
    }
}

impl From<Config> for Server {
    /// In plain text.
    fn from(config: Config) -> Self {
        Self::new(vec![config], Tls::NONE)
    }
}

impl From<&Config> for Server {
    /// In plain text.
    fn from(config: &Config) -> Self {
        config.clone().into()
    }
}

impl From<&Self> for Server {
    fn from(server: &Self) -> Self {
        server.clone()
    }
}

/// A connection that was made.
pub(super) struct Made {
    pub(super) client: Client,
    pub(super) task: JoinHandle<()>,
    /// How it was encrypted, if it was.
    pub(super) tls: Option<Connector>,
    /// One for each notification. Dropped by whoever does not listen.
    pub(super) heard: mpsc::UnboundedReceiver<()>,
}

async fn plain(host: &Config) -> Result<Made> {
    let mut host = host.clone();
    host.ssl_mode(SslMode::Disable);
    establish(&host, NoTls).await.map_err(|error| classify(&error, None))
}

async fn establish<T>(host: &Config, tls: T) -> Result<Made, tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, mut connection) = host.connect(tls).await?;
    let (say, heard) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                Ok(AsyncMessage::Notification(_)) => drop(say.send(())),
                Ok(AsyncMessage::Notice(notice)) => tracing::debug!(%notice, "the database remarks"),
                Ok(_) => {}
                Err(error) => return tracing::debug!(%error, "a connection to the database ended"),
            }
        }
    });
    Ok(Made { client, task, tls: None, heard })
}

/// The addresses of a host; of one that has its address already, or none, there is nothing to look up.
async fn addresses(host: &Config) -> Result<Vec<Option<IpAddr>>> {
    let (Some(Host::Tcp(name)), true) = (host.get_hosts().first(), host.get_hostaddrs().is_empty()) else {
        return Ok(vec![None]);
    };
    if host.get_hosts().len() > 1 {
        return Ok(vec![None]);
    }
    let found = tokio::net::lookup_host((name.as_str(), 0)).await;
    let found = found.map_err(|error| Error::Unavailable(format!("{name} has no address ({error})")))?;
    Ok(found.map(|address| Some(address.ip())).collect())
}

/// Whether the server, or the handshake, said no to the way in which it was asked.
fn is_refused(error: &Error) -> bool {
    matches!(error, Error::Untrusted(_)) || error.code().is_some_and(|code| code.starts_with("28"))
}

/// What went wrong in the making of a connection.
fn classify(error: &tokio_postgres::Error, tls: Option<&Connector>) -> Error {
    use std::error::Error as _;
    let Some(source) = error.source() else { return Error::from(error) };
    let of_tls = |error: &io::Error| error.get_ref().and_then(|inner| inner.downcast_ref().map(verify::explain));
    if let Some(HandshakeFailed(cause)) = source.downcast_ref() {
        return Error::Untrusted(of_tls(cause).unwrap_or_else(|| format!("the TLS handshake failed: {cause}")));
    }
    if let Some(cause) = source.downcast_ref::<io::Error>() {
        // In TLS 1.3 the server's opinion of the client's certificate comes after the handshake.
        if let Some(sentence) = of_tls(cause) {
            return Error::Untrusted(sentence);
        }
        // Not from the operating system: the driver compared the session with target_session_attrs.
        if cause.kind() == io::ErrorKind::PermissionDenied && cause.raw_os_error().is_none() {
            return Error::Unavailable(format!("not the server that target_session_attrs asks for ({cause})"));
        }
        return Error::from(error);
    }
    if error.as_db_error().is_none() && tls.is_some_and(|tls| !tls.has_begun()) {
        return Error::Untrusted(
            "the server has no TLS: switch it on there (ssl = on), or write sslmode=prefer if plain text will do"
                .to_owned(),
        );
    }
    Error::from(error)
}

fn bare(error: &Error) -> String {
    match error {
        Error::Unavailable(why) | Error::Untrusted(why) => why.clone(),
        error => error.to_string(),
    }
}

/// `HOST:PORT`, for people.
#[must_use]
pub fn place(host: &Config) -> String {
    let name = match host.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => host.get_hostaddrs().first().map_or_else(|| "localhost".to_owned(), ToString::to_string),
    };
    let port = host.get_ports().first().copied().unwrap_or(5432);
    if name.contains(':') { format!("[{name}]:{port}") } else { format!("{name}:{port}") }
}
