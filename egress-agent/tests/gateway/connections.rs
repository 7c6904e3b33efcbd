//! Connections, from their first byte to their record.

use std::{io, sync::Arc, time::Duration};

use egress_agent::{
    gateway::{protocol::*, serve::serve},
    policy::flag::allow_cidr,
    telemetry::record::{Event, Verdict},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UnixStream},
};

use crate::world::*;

#[tokio::test]
async fn an_allowed_name_is_resolved_dialled_and_relayed() {
    let mut world = world(&["repo.test:PORT"]).await;
    let mut stream = world.dial(ENFORCED).await;
    let bytes = hello("REPO.test.");
    for byte in &bytes {
        stream.write_all(&[*byte]).await.unwrap();
    }
    let mut echoed = vec![0; bytes.len()];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed, bytes);
    exchange(&mut stream, b"and more").await;
    let open = opened(world.record().await);
    assert_eq!(open.attempt.verdict, Verdict::Allow);
    assert_eq!(open.server_name.as_deref(), Some("repo.test"));
    assert_eq!(
        open.rule,
        Some(format!("--allow repo.test:{}", world.upstream.port()))
    );
    assert_eq!(open.upstream, Some(world.upstream));
    assert!(open.mismatch, "203.0.113.9 is not where the name lives");
    assert_eq!(
        (
            open.attempt.process.pid,
            open.attempt.process.command.as_str()
        ),
        (42, "curl")
    );
    stream.shutdown().await.unwrap();
    assert_eq!(rest(stream).await, Ok(vec![]));
    let Event::ConnectionClose(close) = world.record().await.event else {
        panic!("close")
    };
    let length = bytes.len() as u64 + 8;
    assert_eq!((close.bytes_sent, close.bytes_received), (length, length));
    assert_eq!(close.close_reason, "eof");
    assert!(world.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_denied_name_gets_an_alert_and_no_look_up() {
    let mut world = world(&["repo.test:PORT", "*.wild.test:PORT"]).await;
    for name in ["evil.test", "wild.test", "a.repo.test"] {
        let mut stream = world.dial(ENFORCED).await;
        stream.write_all(&hello(name)).await.unwrap();
        assert_eq!(rest(stream).await, Ok(vec![21, 3, 3, 0, 2, 2, 49]));
        let open = opened(world.record().await);
        assert_eq!(open.attempt.verdict, Verdict::Deny);
        assert_eq!(open.attempt.reason.as_deref(), Some("host_not_allowed"));
    }
    assert!(world.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn curl_says_something_sensible_of_a_denied_name() {
    let mut world = world(&["repo.test:PORT"]).await;
    world.come_from(ENFORCED, [203, 0, 113, 9].into(), 443, 6);
    let curl = tokio::process::Command::new("curl")
        .args(["-sS", "--max-time", "10", "--connect-to"])
        .arg(format!("::{}", world.gateway))
        .arg("https://evil.test/")
        .output();
    let output = curl.await.expect("curl is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("alert access denied"), "{error}");
    let open = opened(world.record().await);
    assert_eq!(open.server_name.as_deref(), Some("evil.test"));
}

#[tokio::test]
async fn opaque_goes_where_cidrs_say_or_nowhere() {
    let mut world = world(&["127.0.0.0/8:PORT"]).await;
    // A loopback destination is not for cidrs to allow.
    world.come_from(ENFORCED, [127, 0, 0, 1].into(), world.upstream.port(), 6);
    let mut stream = TcpStream::connect(world.gateway).await.unwrap();
    stream.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset));
    assert_eq!(
        opened(world.record().await).attempt.reason.as_deref(),
        Some("loopback")
    );
    let mut stream = world.dial(ENFORCED).await;
    stream.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset));
    let reason = opened(world.record().await).attempt.reason;
    assert_eq!(reason.as_deref(), Some("address_not_allowed"));
}

#[tokio::test]
async fn loopback_is_relayed_where_it_is_allowed_also_for_a_silent_client() {
    let mut world = world(&[]).await;
    let rule = allow_cidr("127.0.0.0/8").unwrap();
    world.apply(endpoints(3, vec![rule.clone()], true)).await;
    world.come_from(ENFORCED, [127, 0, 0, 1].into(), world.upstream.port(), 6);
    let mut stream = TcpStream::connect(world.gateway).await.unwrap();
    let open = opened(world.record().await);
    assert_eq!(open.rule.as_deref(), Some(rule.name.as_str()));
    assert_eq!(open.upstream, Some(world.upstream));
    exchange(&mut stream, b"after a silence").await;
}

#[tokio::test]
async fn audit_goes_to_the_original_destination_and_is_recorded() {
    let mut world = world(&[]).await;
    world.come_from(AUDITED, [127, 0, 0, 1].into(), world.upstream.port(), 6);
    let mut stream = TcpStream::connect(world.gateway).await.unwrap();
    exchange(&mut stream, &hello("evil.test")).await;
    let open = opened(world.record().await);
    assert_eq!(open.attempt.verdict, Verdict::Audit);
    assert_eq!(open.attempt.reason.as_deref(), Some("host_not_allowed"));
}

#[tokio::test]
async fn the_gateway_never_dials_itself() {
    let mut world = world(&["::/0", "own.test:PORT"]).await;
    for endpoint in [ENFORCED, AUDITED] {
        world.come_from(endpoint, world.gateway.ip(), world.gateway.port(), 6);
        let mut stream = TcpStream::connect(world.gateway).await.unwrap();
        stream.write_all(b"opaque").await.unwrap();
        assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset));
        let reason = opened(world.record().await).attempt.reason;
        assert_eq!(reason.as_deref(), Some("gateway_address"));
    }
}

#[tokio::test]
async fn a_name_that_leads_inside_is_refused() {
    let mut world = world(&["private.test:PORT"]).await;
    let mut stream = world.dial(ENFORCED).await;
    stream.write_all(&hello("private.test")).await.unwrap();
    assert_eq!(rest(stream).await, Ok(vec![21, 3, 3, 0, 2, 2, 49]));
    let open = opened(world.record().await);
    assert_eq!(open.attempt.reason.as_deref(), Some("answer_private"));
    assert_eq!(open.attempt.verdict, Verdict::Deny);
}

#[tokio::test]
async fn without_an_origin_or_with_an_unknown_endpoint_nothing_passes() {
    let mut world = world(&["repo.test:PORT"]).await;
    assert_eq!(world.meets_a_reset().await, io::ErrorKind::ConnectionReset);
    assert_eq!(world.count("connections_without_origin").await, 1);
    world.come_from(99, [203, 0, 113, 9].into(), 443, 6);
    assert_eq!(world.meets_a_reset().await, io::ErrorKind::ConnectionReset);
    let reason = opened(world.record().await).attempt.reason;
    assert_eq!(reason.as_deref(), Some("unknown_endpoint"));
}

#[tokio::test]
async fn slow_and_silent_clients_meet_a_deadline() {
    let mut world = world(&["repo.test:PORT"]).await;
    world.come_from(ENFORCED, [203, 0, 113, 9].into(), 443, 6);
    let stream = TcpStream::connect(world.gateway).await.unwrap();
    assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset));
    let reason = opened(world.record().await).attempt.reason;
    assert_eq!(reason.as_deref(), Some("silent_client"));
    let mut stream = world.dial(ENFORCED).await;
    stream.write_all(&hello("repo.test")[..20]).await.unwrap();
    assert_eq!(rest(stream).await, Ok(vec![21, 3, 3, 0, 2, 2, 50]));
    let reason = opened(world.record().await).attempt.reason;
    assert_eq!(reason.as_deref(), Some("hello_timeout"));
}

#[tokio::test]
async fn a_client_that_leaves_without_a_byte_is_no_report() {
    let mut world = world(&["repo.test:PORT"]).await;
    drop(world.dial(ENFORCED).await);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.count("connections_without_data").await, 1);
    assert!(world.messages.try_recv().is_err());
}

#[tokio::test]
async fn a_dead_upstream_is_told_and_recorded() {
    let mut world = world(&["dead.test:1"]).await;
    world.come_from(ENFORCED, [203, 0, 113, 9].into(), 1, 6);
    let mut stream = TcpStream::connect(world.gateway).await.unwrap();
    stream.write_all(&hello("dead.test")).await.unwrap();
    assert_eq!(rest(stream).await, Ok(vec![21, 3, 3, 0, 2, 2, 80]));
    assert_eq!(opened(world.record().await).attempt.verdict, Verdict::Allow);
    let Event::ConnectionClose(close) = world.record().await.event else {
        panic!("close")
    };
    assert_eq!(close.close_reason, "dial_refused");
}

#[tokio::test]
async fn a_live_connection_ends_when_policy_no_longer_allows_it() {
    let mut world = world(&["repo.test:PORT"]).await;
    let mut stream = world.dial(ENFORCED).await;
    exchange(&mut stream, &hello("repo.test")).await;
    opened(world.record().await);
    let port = world.upstream.port();
    let same = vec![parse(&format!("repo.test:{port}"))];
    world.apply(endpoints(3, same, false)).await;
    exchange(&mut stream, b"still there").await;
    world.apply(endpoints(4, vec![], false)).await;
    assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset));
    let Event::ConnectionClose(close) = world.record().await.event else {
        panic!("close")
    };
    assert_eq!(close.close_reason, "policy_changed");
}

#[tokio::test]
async fn a_port_in_use_is_told_to_the_enforcer() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let task = tokio::spawn(async move {
        serve(theirs, Arc::new(Made(Arc::default())), Arc::new(Unsealed)).await
    });
    let (read, mut write) = ours.into_split();
    let configure = Configure::new(vec![taken.local_addr().unwrap()], vec![]);
    write_message(&mut write, &ToGateway::Configure(configure))
        .await
        .unwrap();
    let message = read_message(&mut BufReader::new(read), FROM_GATEWAY_MAX)
        .await
        .unwrap();
    let Some(FromGateway::Failed { message }) = message else {
        panic!("{message:?}")
    };
    assert!(message.contains("the port is in use"), "{message}");
    assert!(task.await.unwrap().is_err());
}
