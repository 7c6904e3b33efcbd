//! TLS for whatever name a client asks, from an authority made for the world.

use std::{
    collections::HashMap,
    fmt,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring::{default_provider, sign::any_ecdsa_type},
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::http::{self, Visit};
use crate::{namespace::Namespace, scratch::Scratch};

/// Serves TLS on 443, plain HTTP on 80 and DNS over TLS on [`NAMES`], on every address of the namespace, and returns the
/// authority's PEM file.
pub(super) fn serve(namespace: &Namespace, files: &Path, scratch: &Scratch) -> Result<PathBuf> {
    let certificates = Certificates::new()?;
    let authority = scratch.write("authority.pem", certificates.issuer.pem())?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .context("the versions of TLS")?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    let config = Arc::new(config);
    let listener = namespace
        .enter(|| TcpListener::bind(("::", 443)))?
        .context("could not listen on port 443")?;
    let for_names = Arc::clone(&config);
    let names = namespace
        .enter(|| TcpListener::bind(("::", NAMES)))?
        .with_context(|| format!("could not listen on port {NAMES}"))?;
    http::accept(names, move |stream| {
        names_over(stream, &for_names).ok();
    });
    let directory: Arc<Path> = files.into();
    http::accept(listener, move |stream| {
        // A client that does not speak TLS, or goes away, is no concern of the server's.
        visit(stream, &config, &directory).ok();
    });
    http::serve(namespace, files)?;
    Ok(authority)
}

fn visit(mut stream: TcpStream, config: &Arc<ServerConfig>, files: &Path) -> io::Result<()> {
    let mut visit = Visit::new(&stream)?;
    let mut tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    visit.server_name = tls.server_name().map(ToString::to_string);
    let mut stream = StreamOwned::new(tls, stream);
    http::answer(&mut stream, &visit, files)?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// DNS over TLS (RFC 7858), from [`super::HOSTS`] alone. Its clients send no server name: the
/// certificate is for [`NAMELESS`].
fn names_over(stream: TcpStream, config: &Arc<ServerConfig>) -> io::Result<()> {
    let tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(tls, stream);
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut query = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut query)?;
        let answer = super::dns::answer(&query).ok_or(io::ErrorKind::InvalidData)?;
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], &answer].concat())?;
        stream.flush()?;
    }
}

/// The port of DNS over TLS: not 853, where tests want nobody to listen.
pub(super) const NAMES: u16 = 8_853;

/// Whom a certificate is for, where the client names nobody.
pub(super) const NAMELESS: &str = "nameless.test";

/// Makes a certificate for each name when it is first asked for.
struct Certificates {
    issuer: CertifiedIssuer<'static, KeyPair>,
    made: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl Certificates {
    fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new()).context("an authority's parameters")?;
        params
            .distinguished_name
            .push(DnType::CommonName, "egress-tests authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate().context("could not make a key")?;
        let issuer = CertifiedIssuer::self_signed(params, key).context("could not sign")?;
        Ok(Self {
            issuer,
            made: Mutex::default(),
        })
    }

    fn make(&self, name: &str) -> Result<Arc<CertifiedKey>> {
        let key = KeyPair::generate().context("could not make a key")?;
        let mut params = CertificateParams::new(vec![name.to_owned()]).context("a name")?;
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params
            .signed_by(&key, &self.issuer)
            .context("could not sign")?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = any_ecdsa_type(&key).context("the key that was just made")?;
        let chain = vec![certificate.der().clone()];
        Ok(Arc::new(CertifiedKey::new(chain, key)))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Certificates")
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or(NAMELESS);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get(name) {
            return Some(Arc::clone(known));
        }
        let certificate = self.make(name).ok()?;
        made.insert(name.to_owned(), Arc::clone(&certificate));
        Some(certificate)
    }
}
