//! DNS over TLS: the certificate must be for the name, and from a root that is trusted.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use egress_agent::gateway::resolve::{Answer, ResolveError, cache::Cache};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;

use crate::server::*;

const GOOD: &str = "203.0.113.7";

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(vec![]).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(parameters, key).unwrap())
    }

    /// A server whose certificate is for this name, and what it was asked in clear.
    async fn server(&self, name: &str) -> (SocketAddr, Arc<Mutex<usize>>) {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let in_clear = Arc::new(Mutex::new(0));
        if let Ok(udp) = UdpSocket::bind(address).await {
            let in_clear = in_clear.clone();
            tokio::spawn(async move {
                while udp.recv(&mut [0; 512]).await.is_ok() {
                    *in_clear.lock().unwrap() += 1;
                }
            });
        }
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let says = |asked: &Asked| of_v4(asked, 60, &[GOOD]);
                        serve(stream, &says, &Mutex::default()).await;
                    }
                });
            }
        });
        (address, in_clear)
    }

    /// A file with its certificate.
    fn file(&self) -> PathBuf {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("resolver-roots-{}-{number}.pem", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, self.0.pem()).unwrap();
        path
    }
}

async fn ask(
    address: SocketAddr,
    name: &str,
    roots: &Authority,
) -> Result<Vec<Answer>, ResolveError> {
    let server = format!("tls://{address}#{name}").parse().unwrap();
    let mut configure = configure(&[server]);
    let file = roots.file();
    configure.resolver_roots = Some(file.clone());
    let cache = Arc::new(Cache::new(configure.cache.clone()));
    let resolver = made(&configure, cache);
    std::fs::remove_file(file).unwrap();
    v4(&resolver.unwrap(), "a.test").await
}

#[tokio::test]
async fn an_answer_over_tls_from_whom_the_certificate_is_for() {
    let authority = Authority::new();
    let (address, in_clear) = authority.server("dns.vendor.test").await;
    let answers = ask(address, "dns.vendor.test", &authority).await.unwrap();
    assert_eq!(answers[0].address.to_string(), GOOD);
    assert_eq!(*in_clear.lock().unwrap(), 0);
}

#[tokio::test]
async fn another_name_or_another_root_is_not_asked_anything() {
    let authority = Authority::new();
    let (address, in_clear) = authority.server("dns.vendor.test").await;
    let other_name = ask(address, "dns.other.test", &authority).await;
    let other_root = ask(address, "dns.vendor.test", &Authority::new()).await;
    for outcome in [other_name, other_root] {
        let error = outcome.unwrap_err();
        assert!(
            matches!(error, ResolveError::Server(_) | ResolveError::Timeout),
            "{error:?}"
        );
    }
    assert_eq!(*in_clear.lock().unwrap(), 0, "it fell back to clear text");
}

#[tokio::test]
async fn the_systems_roots_do_not_trust_a_stranger() {
    let authority = Authority::new();
    let (address, _) = authority.server("dns.vendor.test").await;
    let server = format!("tls://{address}#dns.vendor.test").parse().unwrap();
    let configure = configure(&[server]);
    let cache = Arc::new(Cache::new(configure.cache.clone()));
    // Where the system has no roots, it says so.
    match made(&configure, cache) {
        Ok(resolver) => assert!(v4(&resolver, "a.test").await.is_err()),
        Err(error) => assert!(error.to_string().contains("root certificates"), "{error}"),
    }
}
