//! What a client speaks, and until when it may take to say so.

use std::{io, time::Duration};

use egress_agent::{
    gateway::protocol::Limits,
    policy::flag::allow_cidr,
    telemetry::record::{Application, Event, Verdict},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::world::*;

#[tokio::test]
async fn what_a_client_speaks_is_recorded() {
    let mut world = world(&[]).await;
    let requests: [(&[u8], Application, &str, &str); 3] = [
        (
            b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
            Application::Http1,
            "host_not_allowed",
            "HTTP/1.1 403 ",
        ),
        (
            b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
            Application::Connect,
            "host_not_allowed",
            "HTTP/1.1 403 ",
        ),
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            Application::Http2,
            "http_h2c_prior_knowledge",
            "HTTP/1.1 400 ",
        ),
    ];
    for (bytes, application, reason, answer) in requests {
        let mut stream = world.dial(ENFORCED).await;
        stream.write_all(bytes).await.unwrap();
        let said = rest(stream).await.unwrap();
        assert!(
            said.starts_with(answer.as_bytes()),
            "{}",
            said.escape_ascii()
        );
        let request = loop {
            if let Event::HttpRequest(request) = world.record().await.event {
                break request;
            }
        };
        assert_eq!(request.of.application, Some(application));
        assert_eq!(request.of.attempt.reason.as_deref(), Some(reason));
    }
    let clients: [(&[u8], Application, &str); 2] = [
        (b"SSH-2.0-x\r\n", Application::Opaque, "address_not_allowed"),
        // A request that never ends.
        (b"GET /", Application::Opaque, "request_timeout"),
    ];
    for (bytes, application, reason) in clients {
        let mut stream = world.dial(ENFORCED).await;
        stream.write_all(bytes).await.unwrap();
        assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset));
        let open = opened(world.record().await);
        assert_eq!(open.application, Some(application));
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
    let limits = Limits {
        hello: Duration::from_secs(60),
        ..limits()
    };
    let mut world = World::within(limits, &[]).await;
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
    assert!(open.ech_public_name);
    assert!(world.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_public_name_of_ech_that_a_rule_names_is_allowed_and_told_of() {
    let mut world = world(&["cloudflare-ech.com:PORT"]).await;
    world.name("cloudflare-ech.com", [127, 0, 0, 1]).await;
    let mut stream = world.dial(ENFORCED).await;
    exchange(&mut stream, &hello("cloudflare-ech.com")).await;
    let open = opened(world.record().await);
    assert_eq!(open.attempt.verdict, Verdict::Allow);
    assert!(open.ech_public_name);
}

/// Each gets an alert that fits, a reason of its own, and no look-up.
#[tokio::test]
async fn every_bad_hello_is_denied_with_its_own_reason() {
    let mut world = world(&["repo.test:PORT", "*.repo.test:PORT"]).await;
    let whole = message("repo.test", 0);
    let name = |bytes: &[u8]| {
        // Of the same length as a name that would be good.
        let mut message = message(&"a".repeat(bytes.len()), 0);
        let at = message.len() - bytes.len();
        message[at..].copy_from_slice(bytes);
        records(&message, usize::MAX)
    };
    let (long_label, long_name) = (["a"; 64].concat(), ["a23456789"; 26].join("."));
    let cases: [(Vec<u8>, u8, &str); 21] = [
        (extensions(&[]), UNRECOGNIZED_NAME, "no_server_name"),
        (
            extensions(&[&server_name(&[]), &server_name(&[])]),
            DECODE_ERROR,
            "hello_length",
        ),
        (
            extensions(&[&server_name(&["repo.test", "evil.test"])]),
            DECODE_ERROR,
            "hello_several_names",
        ),
        (
            extensions(&[&server_name(&["repo.test"]), &server_name(&["evil.test"])]),
            DECODE_ERROR,
            "hello_duplicate_extension",
        ),
        (
            extensions(&[&server_name(&["repo.test"]), &[0, 9, 0, 0], &[0, 9, 0, 0]]),
            DECODE_ERROR,
            "hello_duplicate_extension",
        ),
        (
            records(&[&whole[..], &[0]].concat(), usize::MAX),
            DECODE_ERROR,
            "hello_trailing_bytes",
        ),
        (vec![0x80, 0x2e, 1, 3, 1], PROTOCOL_VERSION, "sslv2_hello"),
        (vec![22, 3, 1, 0, 0], DECODE_ERROR, "hello_empty_record"),
        (vec![22, 3, 1, 0x40, 1], DECODE_ERROR, "hello_long_record"),
        (
            vec![22, 3, 1, 0, 1, 1, 23],
            DECODE_ERROR,
            "hello_other_record",
        ),
        (vec![22, 3, 1, 0, 1, 2], DECODE_ERROR, "hello_other_message"),
        (name(b"192.0.2.1"), UNRECOGNIZED_NAME, "name_ip_literal"),
        (name(b"a.test:443"), UNRECOGNIZED_NAME, "name_port"),
        (name(b"a\0.repo.test"), UNRECOGNIZED_NAME, "name_nul"),
        (name(b"a%2e.repo.test"), UNRECOGNIZED_NAME, "name_percent"),
        (name(b"a .repo.test"), UNRECOGNIZED_NAME, "name_space"),
        (name(b"[a].repo.test"), UNRECOGNIZED_NAME, "name_bracket"),
        (name(b"a..repo.test"), UNRECOGNIZED_NAME, "name_empty_label"),
        (
            name("\u{e4}.repo.test".as_bytes()),
            UNRECOGNIZED_NAME,
            "name_not_ascii",
        ),
        (
            name(long_label.as_bytes()),
            UNRECOGNIZED_NAME,
            "name_long_label",
        ),
        (
            name(long_name.as_bytes()),
            UNRECOGNIZED_NAME,
            "name_too_long",
        ),
    ];
    for (bytes, alert, reason) in cases {
        let mut stream = world.dial(ENFORCED).await;
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(
            rest(stream).await,
            Ok(vec![21, 3, 3, 0, 2, 2, alert]),
            "{reason}"
        );
        let open = opened(world.record().await);
        assert_eq!(open.attempt.reason.as_deref(), Some(reason));
        assert_eq!(open.application, Some(Application::Tls));
        assert_eq!(open.server_name, None);
    }
    assert!(world.asked.lock().unwrap().is_empty());
}

// RFC 8446 section 6.
const DECODE_ERROR: u8 = 50;
const PROTOCOL_VERSION: u8 = 70;
const UNRECOGNIZED_NAME: u8 = 112;

/// A hello with these extensions.
fn extensions(extensions: &[&[u8]]) -> Vec<u8> {
    let extensions = extensions.concat();
    let length = |n: usize| (n as u16).to_be_bytes();
    let mut body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    body.extend(length(extensions.len()));
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend(length(body.len()));
    message.extend(body);
    records(&message, usize::MAX)
}

/// An extension that asks for these names.
fn server_name(names: &[&str]) -> Vec<u8> {
    let entry = |name: &&str| [&[0, 0, name.len() as u8], name.as_bytes()].concat();
    let list: Vec<u8> = names.iter().flat_map(entry).collect();
    let length = list.len() as u8;
    [&[0, 0, 0, length + 2, 0, length], &list[..]].concat()
}

/// What a browser really sends, GREASE and GREASE ECH with it, in segments of a usual size.
#[tokio::test]
async fn a_browsers_hello_is_decided_by_its_outer_name_and_relayed_as_it_is() {
    let mut world = world(&["api.repo.test:PORT"]).await;
    world.name("api.repo.test", [127, 0, 0, 1]).await;
    let bytes = include_bytes!("../../src/gateway/detect/captured/chromium.bin");
    let mut stream = world.dial(ENFORCED).await;
    stream.set_nodelay(true).unwrap();
    for part in bytes.chunks(1_448) {
        stream.write_all(part).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut echoed = vec![0; bytes.len()];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed, bytes);
    let open = opened(world.record().await);
    assert_eq!(open.server_name.as_deref(), Some("api.repo.test"));
    assert_eq!(open.alpn, ["h2", "http/1.1"]);
    assert_eq!(open.tls_versions, ["1.3", "1.2"]);
    assert!(open.ech);
    assert_eq!(
        open.ja4.as_deref(),
        Some("t13d1517h2_8daaf6152771_cb7bf5808d99")
    );
}

/// Whoever goes on sending a little now and then has no longer than whoever sends nothing.
#[tokio::test]
async fn a_slow_client_meets_an_absolute_deadline() {
    let mut world = world(&[]).await;
    let hello = records(&message("repo.test", 10_000), usize::MAX);
    let request = [&b"GET /"[..], &[b'a'; 10_000]].concat();
    for (bytes, reason) in [(hello, "hello_timeout"), (request, "request_timeout")] {
        let mut stream = world.dial(ENFORCED).await;
        let drip = tokio::spawn(async move {
            for byte in bytes {
                // It fails once the gateway has had enough.
                if stream.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
        });
        let open = opened(world.record().await);
        assert_eq!(open.attempt.reason.as_deref(), Some(reason));
        drip.abort();
    }
}
