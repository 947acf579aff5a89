//! What is looked at in a server's certificate, and what is said when it does not please.
//!
//! Signatures of the handshake are always checked: whoever shows a certificate must hold its key.

use std::sync::Arc;

use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

/// Looks at a server's certificate.
#[derive(Debug)]
pub(super) struct Verifier {
    /// None: whoever the server is.
    chain: Option<Arc<WebPkiServerVerifier>>,
    host_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// Takes any certificate.
    pub(super) fn trusting(provider: &CryptoProvider) -> Self {
        Self { chain: None, host_name: false, algorithms: provider.signature_verification_algorithms }
    }

    /// Takes what `chain` takes; without `host_name`, also for another host.
    pub(super) fn checking(chain: Arc<WebPkiServerVerifier>, provider: &CryptoProvider, host_name: bool) -> Self {
        Self { chain: Some(chain), host_name, algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, so that all else was found good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.host_name => Ok(ServerCertVerified::assertion()),
            answer => answer,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What a person can do about it.
pub(super) fn explain(error: &Error) -> String {
    match error {
        // The second: an authority of the same name, with another key.
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "no known authority signed the server's certificate: name the file with its authority's certificate in \
             sslrootcert"
                .to_owned()
        }
        Error::InvalidCertificate(CertificateError::NotValidForName) => {
            "the server's certificate is for another host name: use a name that it bears, or sslmode=verify-ca"
                .to_owned()
        }
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented }) => format!(
            "the server's certificate is not for {} but for {}: use a name that it bears (as a subject alternative name), \
             or sslmode=verify-ca",
            expected.to_str(),
            if presented.is_empty() { "no host".to_owned() } else { presented.join(", ") }
        ),
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the server's certificate has expired: have it renewed, or correct this machine's clock".to_owned()
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            "the server's certificate is not valid yet: correct this machine's clock".to_owned()
        }
        Error::InvalidCertificate(CertificateError::Revoked) => {
            "the server's certificate was revoked (sslcrl): have a new one made".to_owned()
        }
        Error::InvalidCertificate(CertificateError::UnknownRevocationStatus) => {
            "the list in sslcrl says nothing of the server's authority: add its list to the file".to_owned()
        }
        Error::InvalidCertificate(why) => format!("the server's certificate is not good ({why}): have a new one made"),
        Error::AlertReceived(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRequired
            | AlertDescription::DecryptError),
        ) => format!(
            "the server does not accept the client certificate ({alert:?}): name one that its authority signed with \
             sslcert and sslkey"
        ),
        Error::AlertReceived(AlertDescription::ProtocolVersion) | Error::PeerIncompatible(_) => {
            format!(
                "the server and orch have no version of TLS in common ({error}): let the server speak TLS 1.2 or 1.3"
            )
        }
        error => format!("the TLS handshake failed: {error}"),
    }
}
