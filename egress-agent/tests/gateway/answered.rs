//! Protocols that are not TLS, by the name that the endpoint was told their address for.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use egress_agent::{
    gateway::protocol::{FromGateway, Limits, RefusedNetworks},
    telemetry::record::{Connection, Event, Verdict},
};
use hickory_proto::rr::RecordType;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};

use crate::world::*;

const UPSTREAM: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A world in which names of the hosts file lead to upstreams on loopback, which endpoints may
/// reach where rules say so.
async fn with_rules(port: u16, rules: &[&str]) -> World {
    let mut world = World::new(&[]).await;
    apply(&mut world, 2, port, rules).await;
    world
}

async fn apply(world: &mut World, generation: u64, port: u16, rules: &[&str]) {
    let rules = rules
        .iter()
        .map(|rule| parse(&rule.replace("PORT", &port.to_string())));
    let endpoints = endpoints(generation, rules.collect(), true);
    world.apply(endpoints).await;
}

async fn told(world: &World, endpoint: u32, name: &str) {
    let answer = world.lookup(endpoint, name, RecordType::A).await;
    assert_eq!(answer.answers.len(), 1, "{answer:?}");
}

async fn dial(world: &World, endpoint: u32, to: SocketAddr) -> TcpStream {
    world.come_from(endpoint, to.ip(), to.port(), 6);
    TcpStream::connect(world.gateway).await.unwrap()
}

/// A server that speaks first, after a while, and then echoes.
async fn greeter(after: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                sleep(after).await;
                stream.write_all(b"220 ready\r\n").await.unwrap();
                let (mut read, mut write) = stream.split();
                drop(tokio::io::copy(&mut read, &mut write).await);
            });
        }
    });
    address
}

async fn greeting(stream: &mut TcpStream) {
    let mut greeting = [0; 11];
    let read = timeout(Duration::from_secs(5), stream.read_exact(&mut greeting)).await;
    read.expect("a greeting").unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
}

async fn is_denied(world: &mut World, mut stream: TcpStream, says: &[u8], reason: &str) {
    // It may be reset before it has said anything.
    drop(stream.write_all(says).await);
    assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset));
    let open = opened(world.record().await);
    assert_eq!(open.attempt.verdict, Verdict::Deny);
    assert_eq!(open.attempt.reason.as_deref(), Some(reason));
}

async fn closed(world: &mut World) -> String {
    match world.record().await.event {
        Event::ConnectionClose(close) => close.close_reason,
        other => panic!("{other}"),
    }
}

fn is_by_name(open: &Connection, name: &str, upstream: SocketAddr) {
    assert_eq!(open.attempt.verdict, Verdict::Allow);
    assert_eq!(open.answered_name.as_deref(), Some(name));
    assert_eq!(open.server_name, None);
    let rule = open.rule.as_deref().unwrap();
    assert!(rule.starts_with(&format!("--allow {name}")), "{rule}");
    assert_eq!(open.upstream, Some(upstream));
    assert!(!open.mismatch);
}

#[tokio::test]
async fn whoever_speaks_first_passes_where_the_address_was_answered() {
    let greeter = greeter(Duration::ZERO).await;
    let mut world = with_rules(greeter.port(), &["repo.test:PORT"]).await;
    told(&world, ENFORCED, "repo.test.").await;
    let start = Instant::now();
    let mut stream = dial(&world, ENFORCED, greeter).await;
    greeting(&mut stream).await;
    assert!(start.elapsed() < Duration::from_secs(2));
    is_by_name(&opened(world.record().await), "repo.test", greeter);
    exchange(&mut stream, b"EHLO a.test\r\n").await;
    // Once greeted, what the client says is its own affair, as after STARTTLS.
    exchange(&mut stream, &hello("evil.test")).await;
    drop(stream);
    closed(&mut world).await;

    let upstream = world.upstream;
    apply(&mut world, 3, upstream.port(), &["repo.test:PORT"]).await;
    let mut stream = dial(&world, ENFORCED, upstream).await;
    exchange(&mut stream, b"\0\0\0\x08\x04\xd2\x16\x2f").await;
    is_by_name(&opened(world.record().await), "repo.test", upstream);
}

#[tokio::test]
async fn an_address_that_nobody_was_told_is_denied_with_its_reason() {
    let mut world = World::new(&[]).await;
    let upstream = world.upstream;
    apply(&mut world, 2, upstream.port(), &["repo.test:PORT"]).await;
    // What another endpoint was told is not ours.
    told(&world, AUDITED, "repo.test.").await;
    for says in [&b"SSH-2.0-x\r\n"[..], b""] {
        let stream = dial(&world, ENFORCED, upstream).await;
        is_denied(&mut world, stream, says, "address_not_answered").await;
    }
    // Asked for, but on another port; and told for a name that no rule has on any.
    told(&world, ENFORCED, "repo.test.").await;
    apply(&mut world, 3, 5432, &["repo.test:PORT"]).await;
    let stream = dial(&world, ENFORCED, upstream).await;
    is_denied(&mut world, stream, b"opaque", "port_not_allowed").await;
    apply(&mut world, 4, upstream.port(), &["other.test:PORT"]).await;
    let stream = dial(&world, ENFORCED, upstream).await;
    is_denied(&mut world, stream, b"opaque", "host_not_allowed").await;
}

#[tokio::test]
async fn several_names_of_an_address_count_each_for_itself() {
    let mut world = World::new(&[]).await;
    let upstream = world.upstream;
    let rules = ["repo.test:1", "sub.wild.test:PORT", "dead.test:2"];
    apply(&mut world, 2, upstream.port(), &rules).await;
    for name in ["repo.test.", "sub.wild.test.", "dead.test."] {
        told(&world, ENFORCED, name).await;
    }
    let mut stream = dial(&world, ENFORCED, upstream).await;
    exchange(&mut stream, b"opaque").await;
    is_by_name(&opened(world.record().await), "sub.wild.test", upstream);
}

#[tokio::test]
async fn tls_stays_by_its_server_name() {
    let mut world = World::new(&[]).await;
    let upstream = world.upstream;
    apply(&mut world, 2, upstream.port(), &["repo.test:PORT"]).await;
    told(&world, ENFORCED, "repo.test.").await;
    let mut stream = dial(&world, ENFORCED, upstream).await;
    stream.write_all(&hello("evil.test")).await.unwrap();
    assert_eq!(rest(stream).await, Ok(vec![21, 3, 3, 0, 2, 2, 49]));
    let open = opened(world.record().await);
    assert_eq!(open.attempt.reason.as_deref(), Some("host_not_allowed"));
    assert_eq!(open.answered_name, None);
    let mut stream = dial(&world, ENFORCED, upstream).await;
    exchange(&mut stream, &hello("repo.test")).await;
    let open = opened(world.record().await);
    assert_eq!(open.server_name.as_deref(), Some("repo.test"));
}

#[tokio::test]
async fn an_address_that_was_the_names_a_moment_ago_is_no_mismatch() {
    let mut world = World::new(&[]).await;
    let to = world.upstream;
    apply(&mut world, 2, to.port(), &["repo.test:PORT"]).await;
    told(&world, ENFORCED, "repo.test.").await;
    let moved = SocketAddr::from(([127, 0, 0, 2], to.port()));
    let listener = TcpListener::bind(moved).await.unwrap();
    world.name("repo.test", [127, 0, 0, 2]).await;
    for (endpoint, mismatch) in [(ENFORCED, false), (AUDITED, true)] {
        let mut stream = dial(&world, endpoint, to).await;
        stream.write_all(&hello("repo.test")).await.unwrap();
        let accepted = timeout(Duration::from_secs(5), listener.accept()).await;
        accepted.expect("it is dialled").unwrap();
        let open = opened(world.record().await);
        assert_eq!(open.upstream, Some(moved));
        assert_eq!(open.mismatch, mismatch);
        drop(stream);
        closed(&mut world).await;
    }
}

/// A hello that was held back until nobody waits for it any more.
#[tokio::test]
async fn a_late_hello_is_judged_as_long_as_the_server_has_said_nothing() {
    let mut world = World::new(&[]).await;
    let upstream = world.upstream;
    apply(&mut world, 2, upstream.port(), &["repo.test:PORT"]).await;
    told(&world, ENFORCED, "repo.test.").await;
    // After the silence, within the time for a hello.
    let late = Duration::from_millis(300);
    for (name, passes) in [("evil.test", false), ("repo.test", true)] {
        let mut stream = dial(&world, ENFORCED, upstream).await;
        sleep(late).await;
        stream.write_all(&hello(name)).await.unwrap();
        let mut first = [0];
        let read = timeout(Duration::from_secs(5), stream.read_exact(&mut first)).await;
        read.expect("an echo or an alert").unwrap();
        let open = opened(world.record().await);
        assert_eq!(open.server_name.as_deref(), Some(name));
        // The echo of a handshake record, or an alert.
        assert_eq!(first, if passes { [22] } else { [21] });
        drop(stream);
        if passes {
            closed(&mut world).await;
        }
    }
    let mut stream = dial(&world, ENFORCED, upstream).await;
    sleep(late).await;
    exchange(&mut stream, b"opaque").await;
    is_by_name(&opened(world.record().await), "repo.test", upstream);
    drop(stream);
    closed(&mut world).await;
    // After that time: it is let through, and then still no hello.
    let much_later = Duration::from_millis(1_500);
    let mut stream = dial(&world, ENFORCED, upstream).await;
    sleep(much_later).await;
    stream.write_all(&hello("evil.test")).await.unwrap();
    assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset));
    is_by_name(&opened(world.record().await), "repo.test", upstream);
    assert_eq!(closed(&mut world).await, "late_hello");
    let mut stream = dial(&world, ENFORCED, upstream).await;
    sleep(much_later).await;
    exchange(&mut stream, b"opaque").await;
}

#[tokio::test]
async fn a_server_that_takes_its_time_is_waited_for() {
    let greeter = greeter(Duration::from_millis(1_200)).await;
    let world = with_rules(greeter.port(), &["repo.test:PORT"]).await;
    told(&world, ENFORCED, "repo.test.").await;
    let mut stream = dial(&world, ENFORCED, greeter).await;
    greeting(&mut stream).await;
    exchange(&mut stream, b"EHLO a.test\r\n").await;
}

#[tokio::test]
async fn whoever_says_nothing_has_no_longer_a_lifetime() {
    let greeter = greeter(Duration::from_secs(60)).await;
    let bounds = Limits {
        lifetime: Some(Duration::from_millis(900)),
        ..limits()
    };
    let mut world = World::within(bounds, &[]).await;
    apply(&mut world, 2, greeter.port(), &["repo.test:PORT"]).await;
    told(&world, ENFORCED, "repo.test.").await;
    let stream = dial(&world, ENFORCED, greeter).await;
    assert!(rest(stream).await.is_err());
    opened(world.record().await);
    assert_eq!(closed(&mut world).await, "lifetime_over");
}

#[tokio::test]
async fn one_who_goes_before_the_greeting_is_recorded() {
    let greeter = greeter(Duration::from_secs(2)).await;
    let mut world = with_rules(greeter.port(), &["repo.test:PORT"]).await;
    told(&world, ENFORCED, "repo.test.").await;
    let stream = dial(&world, ENFORCED, greeter).await;
    sleep(Duration::from_millis(300)).await;
    drop(stream);
    is_by_name(&opened(world.record().await), "repo.test", greeter);
    closed(&mut world).await;
}

#[tokio::test]
async fn on_port_443_a_host_is_allowed_for_tls_alone() {
    let mut world = with_rules(443, &["repo.test:PORT"]).await;
    told(&world, ENFORCED, "repo.test.").await;
    let stream = dial(&world, ENFORCED, (UPSTREAM, 443).into()).await;
    is_denied(&mut world, stream, b"opaque\n", "loopback").await;
    let stream = dial(&world, ENFORCED, (UPSTREAM, 443).into()).await;
    is_denied(&mut world, stream, b"", "silent_client").await;
}

#[tokio::test]
async fn an_open_connection_ends_when_no_rule_allows_its_name_any_more() {
    let mut world = World::new(&[]).await;
    let upstream = world.upstream;
    apply(&mut world, 2, upstream.port(), &["repo.test:PORT"]).await;
    told(&world, ENFORCED, "repo.test.").await;
    let mut stream = dial(&world, ENFORCED, upstream).await;
    exchange(&mut stream, b"opaque").await;
    opened(world.record().await);
    // Another rule, also by address, leads to the same place.
    for rule in ["127.0.0.0/8:PORT", "repo.test:PORT"] {
        let generation = 3 + rule.len() as u64;
        apply(&mut world, generation, upstream.port(), &[rule]).await;
        exchange(&mut stream, b"still there").await;
    }
    apply(&mut world, 90, upstream.port(), &["other.test:PORT"]).await;
    assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset));
    assert_eq!(closed(&mut world).await, "policy_changed");
}

#[tokio::test]
async fn what_was_answered_is_checked_once_more() {
    let mut world = world(&["public.test:5432"]).await;
    told(&world, ENFORCED, "public.test.").await;
    let address: IpAddr = [203, 0, 113, 7].into();
    let mut endpoints = endpoints(3, vec![parse("public.test:5432")], false);
    endpoints.refused = RefusedNetworks {
        node: vec!["203.0.113.7/32".parse().unwrap()],
        cluster: vec![],
    };
    world.apply(endpoints).await;
    let stream = dial(&world, ENFORCED, (address, 5432).into()).await;
    is_denied(&mut world, stream, b"opaque", "answer_node").await;
}

#[tokio::test]
async fn whose_number_is_anothers_now_was_told_nothing() {
    let mut world = World::new(&[]).await;
    let upstream = world.upstream;
    apply(&mut world, 2, upstream.port(), &["repo.test:PORT"]).await;
    told(&world, ENFORCED, "repo.test.").await;
    let rule = format!("repo.test:{}", upstream.port());
    let mut others = endpoints(3, vec![parse(&rule)], true);
    others.endpoints[0].name = "another".to_owned();
    world.apply(others).await;
    let stream = dial(&world, ENFORCED, upstream).await;
    is_denied(&mut world, stream, b"opaque", "address_not_answered").await;
}

#[tokio::test]
async fn in_audit_it_is_recorded_with_the_name_that_it_was_told_for() {
    let mut world = World::new(&[]).await;
    apply(&mut world, 2, 1, &[]).await;
    told(&world, AUDITED, "repo.test.").await;
    let upstream = world.upstream;
    let mut stream = dial(&world, AUDITED, upstream).await;
    exchange(&mut stream, b"opaque").await;
    let open = loop {
        if let FromGateway::Record(record) = world.next().await
            && let Event::ConnectionOpen(open) = record.event
        {
            break open;
        }
    };
    assert_eq!(open.attempt.verdict, Verdict::Audit);
    assert_eq!(open.attempt.reason.as_deref(), Some("host_not_allowed"));
    assert_eq!(open.answered_name.as_deref(), Some("repo.test"));
}
