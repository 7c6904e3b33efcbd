//! What a client speaks, and until when it may take to say so.

use std::io;

use egress_agent::{
    policy::flag::allow_cidr,
    telemetry::record::{Application, Verdict},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::world::*;

#[tokio::test]
async fn what_a_client_speaks_is_recorded() {
    let mut world = world(&["repo.test:PORT"]).await;
    let clients: [(&[u8], Application, &str); 5] = [
        (
            b"GET / HTTP/1.1\r\n",
            Application::Http1,
            "address_not_allowed",
        ),
        (
            b"CONNECT a.test:443 HTTP/1.1\r\n",
            Application::Connect,
            "address_not_allowed",
        ),
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            Application::Http2,
            "http2_prior_knowledge",
        ),
        (b"SSH-2.0-x\r\n", Application::Opaque, "address_not_allowed"),
        // A request that never ends.
        (b"GET /", Application::Opaque, "request_timeout"),
    ];
    for (bytes, application, reason) in clients {
        let mut stream = world.dial(ENFORCED).await;
        stream.write_all(bytes).await.unwrap();
        assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset));
        let open = opened(world.record().await);
        assert_eq!(
            open.application,
            Some(application),
            "{}",
            bytes.escape_ascii()
        );
        assert_eq!(open.attempt.reason.as_deref(), Some(reason));
    }
    let stream = world.dial(ENFORCED).await;
    assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset));
    let open = opened(world.record().await);
    assert_eq!(open.application, Some(Application::Silent));
    let mut stream = world.dial(ENFORCED).await;
    stream.write_all(&hello("evil.test")).await.unwrap();
    rest(stream).await.unwrap();
    let open = opened(world.record().await);
    assert_eq!(open.application, Some(Application::Tls));
    assert_eq!(open.tls_versions, ["1.2"]);
    assert!(open.ja4.is_some_and(|ja4| ja4.starts_with("t12d")));
}

/// What the client sends and then ends is opaque, if it is no hello: nothing more will come that
/// could make it a request.
#[tokio::test]
async fn a_client_that_ends_within_a_word_is_opaque() {
    let mut world = world(&[]).await;
    world
        .apply(endpoints(3, vec![allow_cidr("127.0.0.0/8").unwrap()], true))
        .await;
    world.come_from(ENFORCED, [127, 0, 0, 1].into(), world.upstream.port(), 6);
    let mut stream = TcpStream::connect(world.gateway).await.unwrap();
    stream.write_all(b"word").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(rest(stream).await, Ok(b"word".to_vec()));
    let open = opened(world.record().await);
    assert_eq!(open.application, Some(Application::Opaque));
}

#[tokio::test]
async fn what_may_be_a_request_waits_no_longer_than_silence_where_the_address_is_allowed() {
    let mut world = world(&[]).await;
    world
        .apply(endpoints(3, vec![allow_cidr("127.0.0.0/8").unwrap()], true))
        .await;
    world.come_from(ENFORCED, [127, 0, 0, 1].into(), world.upstream.port(), 6);
    let mut stream = TcpStream::connect(world.gateway).await.unwrap();
    exchange(&mut stream, b"word").await;
    let open = opened(world.record().await);
    assert_eq!(open.attempt.verdict, Verdict::Allow);
    assert_eq!(open.application, Some(Application::Opaque));
}

/// A byte a record.
#[tokio::test]
async fn a_long_hello_in_the_smallest_records_is_relayed_with_what_comes_behind_it() {
    let mut world = world(&["repo.test:PORT"]).await;
    let mut bytes = records(&message("repo.test", 60_000), 1);
    assert!(bytes.len() > 300_000, "{}", bytes.len());
    bytes.extend(b"and early data");
    let mut stream = world.dial(ENFORCED).await;
    let (mut read, mut write) = stream.split();
    let send = async {
        for part in bytes.chunks(1_448) {
            write.write_all(part).await.unwrap();
        }
    };
    let mut echoed = vec![0; bytes.len()];
    let (sent, received) = tokio::join!(send, read.read_exact(&mut echoed));
    let ((), length) = (sent, received.unwrap());
    assert_eq!(length, bytes.len());
    assert!(echoed == bytes);
    let open = opened(world.record().await);
    assert_eq!(open.server_name.as_deref(), Some("repo.test"));
    assert_eq!(open.attempt.verdict, Verdict::Allow);
}

#[tokio::test]
async fn a_hello_beyond_the_bound_is_denied() {
    let mut world = world(&["repo.test:PORT"]).await;
    let mut stream = world.dial(ENFORCED).await;
    // A message of 64 KiB and a byte.
    stream
        .write_all(&[22, 3, 1, 0, 4, 1, 1, 0, 1])
        .await
        .unwrap();
    assert_eq!(rest(stream).await, Ok(vec![21, 3, 3, 0, 2, 2, 50]));
    let open = opened(world.record().await);
    assert_eq!(open.attempt.reason.as_deref(), Some("hello_too_long"));
    assert_eq!(open.application, Some(Application::Tls));
}

#[tokio::test]
async fn a_public_name_of_ech_is_denied_with_its_own_reason() {
    let mut world = world(&["*.browserleaks.com:PORT"]).await;
    let mut stream = world.dial(ENFORCED).await;
    stream
        .write_all(&hello("tls-outer.browserleaks.com"))
        .await
        .unwrap();
    assert_eq!(rest(stream).await, Ok(vec![21, 3, 3, 0, 2, 2, 49]));
    let open = opened(world.record().await);
    assert_eq!(open.attempt.reason.as_deref(), Some("ech_public_name"));
    assert!(world.asked.lock().unwrap().is_empty());
}
