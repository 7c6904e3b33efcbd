//! TLS that the gateway starts for plain requests.

use std::sync::Arc;

use egress_agent::telemetry::record::Event;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    http::Site,
    server::{self, Seen},
    world::*,
};

/// An authority, and a server of TLS whose certificate is for `name`.
async fn secured(name: &str) -> (String, u16, Seen) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Seen::default();
    let all = seen.clone();
    tokio::spawn(async move {
        for number in 1.. {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, all) = (acceptor.clone(), all.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.ok()?;
                let tls = stream.get_ref().1;
                let server_name = tls.server_name().unwrap_or_default().to_owned();
                let alpn = String::from_utf8_lossy(tls.alpn_protocol().unwrap_or_default());
                let hello = format!("hello {server_name} {alpn}");
                all.lock().unwrap().push((number, hello));
                server::answer(stream, number, all).await
            });
        }
    });
    (issuer.pem(), port, seen)
}

async fn site(roots: String, port: u16) -> Site {
    let mut site = Site {
        world: World::trusting(&[], roots).await,
        seen: Seen::default(),
    };
    let rule = format!(
        r#"{{"hosts": ["repo.test"], "originateTLS": true, "upstreamPort": {port}, "websocket": true}}"#
    );
    site.rules(2, &[&rule]).await;
    site
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: repo.test\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_plain_request_goes_on_by_tls() {
    let (roots, port, seen) = secured("repo.test").await;
    let mut site = site(roots, port).await;
    let answer = site.send(ENFORCED, GET).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"),
        "{answer}"
    );
    let all: Vec<_> = seen.lock().unwrap().iter().map(|it| it.1.clone()).collect();
    assert_eq!(all[0], "hello repo.test http/1.1");
    assert!(
        all[1].contains(&format!("host: repo.test:{port}\r\n")),
        "{all:?}"
    );
    let request = site.request().await;
    assert!(request.originated_tls);
    assert_eq!(request.of.upstream.unwrap().port(), port);
    // Kept for the next request.
    for _ in 0..6 {
        assert!(site.send(ENFORCED, GET).await.ends_with("hello"));
    }
    let hellos = seen
        .lock()
        .unwrap()
        .iter()
        .filter(|it| it.1.starts_with("hello "))
        .count();
    assert!(hellos <= 2, "one for each worker, not {hellos}");
    let ws =
        "GET /ws HTTP/1.1\r\nHost: repo.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut stream = site.dial(ENFORCED).await;
    stream.write_all(ws.as_bytes()).await.unwrap();
    let agreed = crate::http::one(&mut stream).await;
    assert!(agreed.starts_with("HTTP/1.1 101 "), "{agreed}");
    exchange(&mut stream, b"by TLS").await;
}

#[tokio::test]
async fn a_server_that_is_not_who_it_should_be_gets_no_request() {
    let (other_roots, ..) = secured("repo.test").await;
    for (name, roots) in [("repo.test", Some(other_roots)), ("evil.test", None)] {
        let (own, port, seen) = secured(name).await;
        let mut site = site(roots.unwrap_or(own), port).await;
        let answer = site.send(ENFORCED, GET).await;
        assert!(
            answer.starts_with("HTTP/1.1 502 ") && answer.contains("tls_certificate"),
            "{answer}"
        );
        let request = site.request().await;
        assert_eq!(request.close_reason, "tls_certificate");
        let Event::ConnectionClose(_) = site.world.record().await.event else {
            panic!("close")
        };
        assert!(seen.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_gets_no_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let plain = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        all
    });
    let (roots, ..) = secured("repo.test").await;
    let answer = site(roots, port).await.send(ENFORCED, GET).await;
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains("tls_failed"),
        "{answer}"
    );
    let all = plain.await.unwrap();
    assert_eq!(all[0], 22, "a hello");
    assert!(!String::from_utf8_lossy(&all).contains("GET"));
}
