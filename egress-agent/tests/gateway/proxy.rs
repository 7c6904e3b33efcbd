//! The gateway as the proxy of those who are set up for one: the same identity, the same policy.

use std::io;

use egress_agent::telemetry::record::{Event, Verdict};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    http::{Site, one},
    world::*,
};

/// A connection to the gateway itself, and what it answers to the request for a tunnel.
async fn connect(world: &World, to: &str) -> (TcpStream, String) {
    world.come_from(ENFORCED, world.proxy.ip(), world.proxy.port(), 6);
    let mut stream = TcpStream::connect(world.proxy).await.unwrap();
    let head = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = one(&mut stream).await;
    (stream, answer)
}

const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

#[tokio::test]
async fn a_tunnel_leads_to_an_allowed_name() {
    let mut world = world(&["repo.test:PORT"]).await;
    let port = world.upstream.port();
    let (mut stream, answer) = connect(&world, &format!("REPO.test:{port}")).await;
    assert_eq!(answer, ESTABLISHED);
    exchange(&mut stream, &hello("repo.test")).await;
    exchange(&mut stream, b"and more").await;
    let open = opened(world.record().await);
    assert_eq!(open.attempt.verdict, Verdict::Allow);
    assert_eq!(open.server_name.as_deref(), Some("repo.test"));
    assert_eq!(open.upstream, Some(world.upstream));
    assert_eq!(open.attempt.destination, world.gateway.ip());
    assert!(!open.mismatch);
    // A policy that does not allow it any more ends it.
    world.apply(endpoints(3, Vec::new(), false)).await;
    assert!(rest(stream).await.is_err());
}

#[tokio::test]
async fn a_hello_that_was_sent_early_is_not_lost() {
    let world = world(&["repo.test:PORT"]).await;
    let to = format!("repo.test:{}", world.upstream.port());
    world.come_from(ENFORCED, world.proxy.ip(), world.proxy.port(), 6);
    let mut stream = TcpStream::connect(world.proxy).await.unwrap();
    let hello = hello("repo.test");
    let head = format!("CONNECT {to} HTTP/1.0\r\n\r\n");
    stream
        .write_all(&[head.as_bytes(), &hello].concat())
        .await
        .unwrap();
    let mut answer = vec![0; ESTABLISHED.len() + hello.len()];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [ESTABLISHED.as_bytes(), &hello].concat());
}

#[tokio::test]
async fn what_is_inside_must_be_tls_to_the_same_name() {
    let mut world = world(&["repo.test:PORT", "sub.wild.test:PORT"]).await;
    let to = format!("repo.test:{}", world.upstream.port());
    for (inside, reason) in [
        (hello("sub.wild.test"), "connect_disagrees"),
        (hello("evil.test"), "connect_disagrees"),
        (
            b"GET / HTTP/1.1\r\nHost: repo.test\r\n\r\n".to_vec(),
            "connect_without_tls",
        ),
        (b"SSH-2.0-x\r\n".to_vec(), "connect_without_tls"),
    ] {
        let (mut stream, answer) = connect(&world, &to).await;
        assert_eq!(answer, ESTABLISHED);
        stream.write_all(&inside).await.unwrap();
        match reason {
            "connect_disagrees" => {
                assert_eq!(rest(stream).await, Ok(vec![21, 3, 3, 0, 2, 2, 49]));
            }
            _ => assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset)),
        }
        let open = opened(world.record().await);
        assert_eq!(open.attempt.verdict, Verdict::Deny);
        assert_eq!(open.attempt.reason.as_deref(), Some(reason));
    }
    assert!(world.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_tunnel_that_policy_does_not_allow_gets_a_403() {
    let mut world = world(&["repo.test:PORT"]).await;
    let port = world.upstream.port();
    for (to, reason) in [
        (format!("evil.test:{port}"), "host_not_allowed"),
        ("repo.test:1".to_owned(), "port_not_allowed"),
        (format!("127.0.0.1:{port}"), "address_not_allowed"),
    ] {
        let (_, answer) = connect(&world, &to).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert!(answer.contains(reason), "{answer}");
        let open = opened(world.record().await);
        assert_eq!(open.attempt.reason.as_deref(), Some(reason));
        let Event::HttpRequest(request) = world.record().await.event else {
            panic!("a request")
        };
        assert_eq!(request.status, Some(403));
        let is_read = reason != "address_not_allowed";
        assert_eq!(request.method.as_deref(), is_read.then_some("CONNECT"));
    }
}

#[tokio::test]
async fn a_tunnel_may_be_asked_for_at_any_address() {
    let mut world = world(&["repo.test:PORT"]).await;
    let to = format!("repo.test:{}", world.upstream.port());
    world.come_from(ENFORCED, [203, 0, 113, 128].into(), 3128, 6);
    let mut stream = TcpStream::connect(world.gateway).await.unwrap();
    let head = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(one(&mut stream).await, ESTABLISHED);
    exchange(&mut stream, &hello("repo.test")).await;
    let open = opened(world.record().await);
    assert_eq!(open.upstream, Some(world.upstream));
    assert!(open.mismatch);
}

#[tokio::test]
async fn in_audit_tunnels_and_requests_pass_to_where_they_name() {
    let mut world = world(&["sub.wild.test:PORT"]).await;
    let port = world.upstream.port();
    for (to, inside, reason) in [
        ("repo.test", hello("repo.test"), "host_not_allowed"),
        ("sub.wild.test", hello("repo.test"), "connect_disagrees"),
        (
            "repo.test",
            b"SSH-2.0-x\r\n".to_vec(),
            "connect_without_tls",
        ),
    ] {
        world.come_from(AUDITED, world.proxy.ip(), world.proxy.port(), 6);
        let mut stream = TcpStream::connect(world.proxy).await.unwrap();
        let head = format!("CONNECT {to}:{port} HTTP/1.1\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(one(&mut stream).await, ESTABLISHED);
        exchange(&mut stream, &inside).await;
        drop(stream);
        let open = loop {
            if let Event::ConnectionOpen(open) = world.record().await.event {
                break open;
            }
        };
        assert_eq!(open.attempt.verdict, Verdict::Audit);
        assert_eq!(open.attempt.reason.as_deref(), Some(reason));
        assert_eq!(open.upstream, Some(world.upstream));
    }

    let mut site = Site::new(&[]).await;
    let (proxy, port) = (site.world.proxy, site.world.upstream.port());
    site.world.come_from(AUDITED, proxy.ip(), proxy.port(), 6);
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let head = format!(
        "GET http://repo.test:{port}/a HTTP/1.1\r\nHost: repo.test:{port}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = String::from_utf8(rest(stream).await.unwrap()).unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    let request = site.request().await;
    assert_eq!(request.of.attempt.verdict, Verdict::Audit);
    assert_eq!(request.of.upstream, Some(site.world.upstream));
}

/// What was allowed when the connection came is no longer: the tunnel is judged by what is in force
/// when its hello comes.
#[tokio::test]
async fn a_policy_that_changes_before_the_hello_is_the_one_that_counts() {
    let mut world = world(&["repo.test:PORT"]).await;
    let to = format!("repo.test:{}", world.upstream.port());
    let (mut stream, answer) = connect(&world, &to).await;
    assert_eq!(answer, ESTABLISHED);
    world.apply(endpoints(3, Vec::new(), false)).await;
    stream.write_all(&hello("repo.test")).await.unwrap();
    assert_eq!(rest(stream).await, Ok(vec![21, 3, 3, 0, 2, 2, 49]));
    let open = opened(world.record().await);
    assert_eq!(open.attempt.verdict, Verdict::Deny);
    assert_eq!(open.attempt.reason.as_deref(), Some("host_not_allowed"));
}

#[tokio::test]
async fn plain_requests_by_absolute_uri() {
    let mut site = Site::new(&[r#"{"hosts": ["repo.test"], "paths": ["/v1/*"]}"#]).await;
    let port = site.world.upstream.port();
    for (path, status) in [("/v1/a", "200 OK"), ("/v2", "403 Forbidden")] {
        let proxy = site.world.proxy;
        site.world.come_from(ENFORCED, proxy.ip(), proxy.port(), 6);
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        let head = format!(
            "GET http://repo.test:{port}{path} HTTP/1.1\r\nHost: repo.test:{port}\r\nConnection: close\r\nProxy-Connection: x\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = String::from_utf8(rest(stream).await.unwrap()).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        let request = site.request().await;
        assert!(!request.of.mismatch);
        let reason = request.of.attempt.reason;
        assert_eq!(
            reason.as_deref(),
            (path == "/v2").then_some("path_not_allowed")
        );
    }
    let seen = site.requests();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].starts_with("GET /v1/a HTTP/1.1\r\n"), "{seen:?}");
}

#[tokio::test]
async fn where_connections_are_taken_to_is_no_proxy() {
    let mut world = world(&["repo.test:PORT"]).await;
    let to = format!("repo.test:{}", world.upstream.port());
    for head in [
        format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n"),
        format!("GET http://{to}/ HTTP/1.1\r\nHost: {to}\r\n\r\n"),
    ] {
        world.come_from(ENFORCED, world.gateway.ip(), world.gateway.port(), 6);
        let mut stream = TcpStream::connect(world.gateway).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = one(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert!(answer.contains("gateway_address"), "{answer}");
        let open = opened(world.record().await);
        assert_eq!(open.attempt.reason.as_deref(), Some("gateway_address"));
        world.record().await;
    }
}
