//! Bounds on connections: who is beyond them, what is said of it, and who is not harmed.

use std::{io, time::Duration};

use egress_agent::{
    gateway::protocol::*,
    telemetry::record::{Event, Verdict},
};
use tokio::net::TcpStream;

use crate::world::*;

/// With the rule that both endpoints may open everything at `repo.test`.
async fn limited(limits: Limits) -> World {
    let mut world = World::within(limits, &[]).await;
    let rule = parse(&format!("repo.test:{}", world.upstream.port()));
    world.apply(endpoints(2, vec![rule], false)).await;
    world
}

/// So many connections of an endpoint that are open.
async fn open(world: &mut World, endpoint: u32, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = world.dial(endpoint).await;
        exchange(&mut stream, &hello("repo.test")).await;
        let record = opened(world.record().await);
        assert_eq!(record.attempt.verdict, Verdict::Allow);
        streams.push(stream);
    }
    streams
}

#[tokio::test]
async fn beyond_an_endpoints_bound_it_is_reset_told_of_once_and_summed_up() {
    let bounds = Limits {
        connections: 100,
        connections_per_endpoint: 3,
        ..limits()
    };
    let mut world = limited(bounds).await;
    let mut streams = open(&mut world, ENFORCED, 3).await;
    for _ in 0..20 {
        world.come_from(ENFORCED, [203, 0, 113, 9].into(), 443, 6);
        assert_eq!(world.meets_a_reset().await, io::ErrorKind::ConnectionReset);
    }
    let told = opened(world.record().await);
    let reason = "too_many_connections_of_endpoint";
    assert_eq!(told.attempt.reason.as_deref(), Some(reason));
    assert_eq!(told.attempt.endpoint.name, "enforced");
    assert_eq!(world.count(reason).await, 20);
    // Others are not harmed, those that are open neither, and a place that is free is had again.
    drop(open(&mut world, AUDITED, 1).await);
    let Event::ConnectionClose(_) = world.record().await.event else {
        panic!("the other's end")
    };
    exchange(&mut streams[0], b"still there").await;
    drop(streams.pop());
    let Event::ConnectionClose(_) = world.record().await.event else {
        panic!("the end")
    };
    drop(open(&mut world, ENFORCED, 1).await);
    let summed_up = loop {
        if let Event::ConnectionsRepeated(more) = world.record().await.event {
            break more;
        }
    };
    assert_eq!(summed_up.repeats, 19);
    assert_eq!(summed_up.attempt.reason.as_deref(), Some(reason));
    assert_eq!(summed_up.attempt.verdict, Verdict::Deny);
}

#[tokio::test]
async fn one_that_takes_all_it_can_get_leaves_room_for_another() {
    let bounds = Limits {
        connections: 8,
        connections_per_endpoint: 8,
        ..limits()
    };
    let mut world = limited(bounds).await;
    let _greedy = open(&mut world, ENFORCED, 6).await;
    world.come_from(ENFORCED, [203, 0, 113, 9].into(), 443, 6);
    assert_eq!(world.meets_a_reset().await, io::ErrorKind::ConnectionReset);
    let told = opened(world.record().await);
    let reason = "too_many_connections_of_endpoint";
    assert_eq!(told.attempt.reason.as_deref(), Some(reason));
    open(&mut world, AUDITED, 1).await;
}

#[tokio::test]
async fn beyond_an_endpoints_rate_it_is_reset_and_others_are_not() {
    let bounds = Limits {
        connections_per_second: 5,
        ..limits()
    };
    let mut world = limited(bounds).await;
    let mut let_in = 0;
    for _ in 0..40 {
        world.come_from(ENFORCED, [203, 0, 113, 9].into(), 443, 6);
        let mut stream = match TcpStream::connect(world.gateway).await {
            Ok(stream) => stream,
            Err(_reset) => continue,
        };
        let mut word = [0; 1];
        drop(tokio::io::AsyncWriteExt::write_all(&mut stream, &hello("repo.test")).await);
        let read = tokio::io::AsyncReadExt::read(&mut stream, &mut word).await;
        let_in += u32::from(matches!(read, Ok(1)));
    }
    // Two seconds' worth at once, and what the loop took in time.
    assert!((10..=30).contains(&let_in), "{let_in}");
    let shed = world.count("connection_rate_of_endpoint").await;
    assert_eq!(shed, 40 - u64::from(let_in));
    let mut other = world.dial(AUDITED).await;
    exchange(&mut other, &hello("repo.test")).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut again = world.dial(ENFORCED).await;
    exchange(&mut again, &hello("repo.test")).await;
}

#[tokio::test]
async fn a_connection_ends_with_its_lifetime_however_busy() {
    let bounds = Limits {
        lifetime: Some(Duration::from_millis(700)),
        ..limits()
    };
    let mut world = limited(bounds).await;
    let mut stream = world.dial(ENFORCED).await;
    exchange(&mut stream, &hello("repo.test")).await;
    loop {
        let write = tokio::io::AsyncWriteExt::write_all(&mut stream, b"busy").await;
        let mut word = [0; 4];
        let read = tokio::io::AsyncReadExt::read_exact(&mut stream, &mut word).await;
        if write.is_err() || read.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    opened(world.record().await);
    let Event::ConnectionClose(close) = world.record().await.event else {
        panic!("its end")
    };
    assert_eq!(close.close_reason, "lifetime_over");
    assert!(
        (700..2_000).contains(&close.duration_ms),
        "{}",
        close.duration_ms
    );
}
