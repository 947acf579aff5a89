//! TLS to the database, with libpq's meanings: what a connection asks for, and how rustls is told.
//!
//! Owns the reading of the certificate files, anew for every connection, so that a renewed certificate needs no restart.
//! Never installs a process-wide provider, and never weakens a check that was asked for.

use std::{
    fmt, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustls::{
    ClientConfig, RootCertStore,
    client::WebPkiServerVerifier,
    crypto::ring,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem, pem::PemObject},
    version::{TLS12, TLS13},
};
use tokio_postgres::{
    Socket,
    tls::{MakeTlsConnect, TlsConnect},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Error, Result, verify::Verifier};

/// `sslmode`: whether there is TLS, and what of the server's certificate is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Plain text only.
    Disable,
    /// Plain text, and TLS where the server refuses that.
    Allow,
    /// TLS where the server has it and it works, else plain text.
    Prefer,
    /// TLS, whoever the server is; but a root certificate that is there is used as with [`Mode::VerifyCa`].
    Require,
    /// TLS to a server whose certificate a known authority signed.
    VerifyCa,
    /// The same, and the certificate bears the host name that was asked for.
    VerifyFull,
}

/// `sslrootcert`: whose signatures count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// Nobody's: the certificate is not looked at.
    Unknown,
    /// Of those whom the machine trusts.
    System,
    /// Of the certificates in this file.
    File(PathBuf),
}

/// Which versions of TLS are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// Whether 1.2 is.
    pub tls12: bool,
    /// Whether 1.3 is.
    pub tls13: bool,
}

/// What a connection asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// `sslmode`.
    pub mode: Mode,
    /// `sslrootcert`.
    pub roots: Roots,
    /// `sslcrl`: revoked certificates.
    pub revoked: Option<PathBuf>,
    /// `sslcert` and `sslkey`: what the server is shown.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// `sslsni`: whether the host's name is sent in the clear, for proxies.
    pub sni: bool,
    /// `sslnegotiation=direct`: TLS from the first byte (Postgres 17).
    pub direct: bool,
    /// `ssl_min_protocol_version` and `ssl_max_protocol_version`.
    pub versions: Versions,
}

impl Tls {
    /// Plain text only.
    pub const NONE: Self = Self {
        mode: Mode::Disable,
        roots: Roots::Unknown,
        revoked: None,
        identity: None,
        sni: true,
        direct: false,
        versions: Versions { tls12: true, tls13: true },
    };

    /// Reads the files. The error names the file and says what to do.
    pub(super) fn connector(&self) -> Result<Connector> {
        self.client_config().map(Connector::new).map_err(Error::Untrusted)
    }

    fn client_config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let Versions { tls12, tls13 } = self.versions;
        let versions: Vec<_> = [(tls12, &TLS12), (tls13, &TLS13)].into_iter().filter(|v| v.0).map(|v| v.1).collect();
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .map_err(|error| format!("TLS cannot be set up: {error}"))?;
        let verifier = match self.roots()? {
            None => Verifier::trusting(&provider),
            Some(roots) => {
                let checking = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
                    .with_crls(self.revocations()?)
                    .build()
                    .map_err(|error| format!("the certificates of the authorities cannot be used: {error}"))?;
                Verifier::checking(checking, &provider, self.mode == Mode::VerifyFull)
            }
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                builder.with_client_auth_cert(chain, private_key(key)?).map_err(|error| {
                    format!(
                        "the client certificate {} and the key {} cannot be used together ({error}): name a pair with \
                         sslcert and sslkey",
                        certificate.display(),
                        key.display()
                    )
                })?
            }
        };
        config.enable_sni = self.sni;
        if self.direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(config)
    }

    fn roots(&self) -> Result<Option<RootCertStore>, String> {
        let mut store = RootCertStore::empty();
        match &self.roots {
            Roots::Unknown => return Ok(None),
            Roots::System => {
                let found = rustls_native_certs::load_native_certs();
                store.add_parsable_certificates(found.certs);
                if store.is_empty() {
                    let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
                    return Err(format!(
                        "this machine trusts no authority{why}: install its ca-certificates, or name a file with sslrootcert"
                    ));
                }
            }
            Roots::File(file) => {
                for certificate in certificates(file)? {
                    store.add(certificate).map_err(|error| {
                        format!("the root certificate {} cannot be used ({error}): correct sslrootcert", file.display())
                    })?;
                }
            }
        }
        Ok(Some(store))
    }

    fn revocations(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
        let Some(file) = &self.revoked else { return Ok(Vec::new()) };
        let lists = CertificateRevocationListDer::pem_file_iter(file).and_then(Iterator::collect);
        let lists: Vec<_> = lists.map_err(|error| unreadable("sslcrl", file, &error))?;
        Ok(lists)
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.map_err(|error| unreadable("sslrootcert or sslcert", file, &error))?;
    if found.is_empty() {
        return Err(format!("{} holds no certificate: it must be PEM (BEGIN CERTIFICATE)", file.display()));
    }
    Ok(found)
}

/// The key, if nobody else can read it; root's own may be readable by a group, as libpq has it.
fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let metadata = std::fs::metadata(file).map_err(|error| unreadable("sslkey", file, &pem::Error::Io(error)))?;
    if !metadata.is_file() {
        return Err(format!("the private key {} is no file: correct sslkey", file.display()));
    }
    let foreign = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & foreign != 0 {
        return Err(format!(
            "others may read the private key {}: chmod 600 it (640 if root owns it and a group shall read it)",
            file.display()
        ));
    }
    let text = std::fs::read(file).map_err(|error| unreadable("sslkey", file, &pem::Error::Io(error)))?;
    let encrypted = |marker: &[u8]| text.windows(marker.len()).any(|window| window == marker);
    if encrypted(b"BEGIN ENCRYPTED PRIVATE KEY") || encrypted(b"Proc-Type: 4,ENCRYPTED") {
        return Err(format!(
            "the private key {} is encrypted, which orch cannot read: decrypt it with `openssl pkey`, mode 600",
            file.display()
        ));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| unreadable("sslkey", file, &error))
}

fn unreadable(setting: &str, file: &Path, error: &pem::Error) -> String {
    let why = match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "it holds nothing of the kind".to_owned(),
        error => format!("it is not PEM: {error:?}"),
    };
    format!("cannot read {} ({why}): correct {setting}, or the file", file.display())
}

/// Makes TLS of a socket, and knows whether it came to that.
#[derive(Clone)]
pub(super) struct Connector {
    rustls: MakeRustlsConnect,
    begun: Arc<AtomicBool>,
}

impl Connector {
    fn new(config: ClientConfig) -> Self {
        Self { rustls: MakeRustlsConnect::new(config), begun: Arc::default() }
    }

    /// Whether a server agreed to a handshake.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

type Inner = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;
type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Stream;
    type TlsConnect = Handshake;
    type Error = std::convert::Infallible;

    fn make_tls_connect(&mut self, host: &str) -> Result<Handshake, Self::Error> {
        let inner = MakeTlsConnect::<Socket>::make_tls_connect(&mut self.rustls, host)?;
        Ok(Handshake { inner, begun: self.begun.clone() })
    }
}

/// One handshake to come.
pub(super) struct Handshake {
    inner: Inner,
    begun: Arc<AtomicBool>,
}

impl TlsConnect<Socket> for Handshake {
    type Stream = Stream;
    type Error = HandshakeFailed;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, HandshakeFailed>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        self.begun.store(true, Ordering::Relaxed);
        Box::pin(async { self.inner.connect(socket).await.map_err(HandshakeFailed) })
    }
}

/// A handshake that failed; told from every other trouble by its type.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct HandshakeFailed(pub(super) io::Error);
