//! Servers that do not behave, and clients that leave at any moment.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use egress_agent::{
    gateway::protocol::*,
    telemetry::record::{ConnectionClose, Event},
};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::world::*;

/// Connections that the endpoint may have.
const PLACES: usize = 12;

/// In which a server has a second to accept, and nothing may be idle for longer than that.
fn impatient() -> Limits {
    Limits {
        connect: Duration::from_secs(1),
        idle: Duration::from_secs(1),
        connections_per_endpoint: PLACES,
        ..limits()
    }
}

/// With the rule that `repo.test` may be reached at the server.
async fn with(server: SocketAddr) -> World {
    let mut world = World::within(impatient(), &[]).await;
    world.upstream = server;
    let rule = parse(&format!("repo.test:{}", server.port()));
    world.apply(endpoints(2, vec![rule], false)).await;
    world
}

async fn closed(world: &mut World) -> ConnectionClose {
    loop {
        if let Event::ConnectionClose(close) = world.record().await.event {
            return close;
        }
    }
}

/// A server that does this with each connection.
async fn server<F: Future<Output = ()> + Send + 'static>(
    each: fn(TcpStream) -> F,
) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(each(stream));
        }
    });
    (address, task)
}

/// A server that accepts nobody: its queue is full.
async fn full() -> (SocketAddr, Socket, Vec<TcpStream>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    for _ in 0..4 {
        let connect = TcpStream::connect(address);
        let connected = tokio::time::timeout(Duration::from_millis(100), connect).await;
        queued.extend(connected.ok().and_then(Result::ok));
    }
    (address, socket, queued)
}

#[tokio::test]
async fn one_that_never_accepts_costs_the_time_for_a_dial() {
    let (address, _socket, _queued) = full().await;
    let mut world = with(address).await;
    let begun = Instant::now();
    let mut stream = world.dial(ENFORCED).await;
    stream.write_all(&hello("repo.test")).await.unwrap();
    // internal_error: it is allowed, but there is nobody.
    assert_eq!(rest(stream).await, Ok(vec![21, 3, 3, 0, 2, 2, 80]));
    assert!(begun.elapsed() < Duration::from_secs(4));
    assert_eq!(closed(&mut world).await.close_reason, "dial_timeout");
}

#[tokio::test]
async fn one_that_accepts_and_says_nothing_is_left_after_the_idle_time() {
    let (address, _task) = server(|mut stream| async move {
        // It reads, so that it is seen to be there.
        let mut sink = [0; 4096];
        while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {}
        tokio::time::sleep(Duration::from_secs(60)).await;
    })
    .await;
    let mut world = with(address).await;
    let mut stream = world.dial(ENFORCED).await;
    stream.write_all(&hello("repo.test")).await.unwrap();
    assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset));
    assert_eq!(closed(&mut world).await.close_reason, "idle_timeout");
}

#[tokio::test]
async fn one_that_resets_at_once_or_within_an_answer_is_passed_on() {
    let (address, _task) = server(|mut stream| async move {
        let mut first = [0; 1];
        stream.read_exact(&mut first).await.unwrap();
        stream.write_all(b"half an ans").await.unwrap();
        // The client is to have it before the reset.
        tokio::time::sleep(Duration::from_millis(200)).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    let mut world = with(address).await;
    let mut stream = world.dial(ENFORCED).await;
    stream.write_all(&hello("repo.test")).await.unwrap();
    let mut answer = [0; 11];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"half an ans");
    assert_eq!(rest(stream).await, Err(io::ErrorKind::ConnectionReset));
    let close = closed(&mut world).await;
    assert_eq!(close.close_reason, "upstream_reset");
    assert_eq!(close.bytes_received, 11);

    let (address, _task) = server(|stream| async move { stream.set_zero_linger().unwrap() }).await;
    let mut world = with(address).await;
    let mut stream = world.dial(ENFORCED).await;
    stream.write_all(&hello("repo.test")).await.unwrap();
    let told = rest(stream).await;
    // The reset may come before the dial has looked at its result.
    let expected = match closed(&mut world).await.close_reason.as_str() {
        "dial_failed" => Ok(vec![21, 3, 3, 0, 2, 2, 80]),
        reason => {
            assert_eq!(reason, "upstream_reset");
            Err(io::ErrorKind::ConnectionReset)
        }
    };
    assert_eq!(told, expected);
}

#[tokio::test]
async fn one_that_takes_nothing_is_left_after_the_idle_time() {
    let (address, _task) = server(|stream| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await;
    let mut world = with(address).await;
    let mut stream = world.dial(ENFORCED).await;
    stream.write_all(&hello("repo.test")).await.unwrap();
    let much = vec![7; 64 << 20];
    assert!(stream.write_all(&much).await.is_err());
    let close = closed(&mut world).await;
    assert_eq!(close.close_reason, "idle_timeout");
    assert!(close.bytes_sent < much.len() as u64);
}

#[tokio::test]
async fn whenever_a_client_leaves_its_place_is_free_again() {
    let (nobody, _socket, _queued) = full().await;
    let hello = hello("repo.test");
    for server in [echo().await, nobody] {
        let mut world = with(server).await;
        let lengths = [0, 1, 5, 6, hello.len() - 1, hello.len()];
        for (length, reset) in lengths.into_iter().flat_map(|it| [(it, true), (it, false)]) {
            let mut stream = world.dial(ENFORCED).await;
            stream.write_all(&hello[..length]).await.unwrap();
            // Whatever it has come to by then.
            tokio::time::sleep(Duration::from_millis(20)).await;
            if reset {
                stream.set_zero_linger().unwrap();
            }
        }
        let begun = Instant::now();
        while over(&mut world).await < PLACES as u64 {
            assert!(begun.elapsed() < Duration::from_secs(10), "some last");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut again = Vec::new();
        for _ in 0..PLACES {
            again.push(world.dial(ENFORCED).await);
        }
        while world.count("connections_accepted").await < 2 * PLACES as u64 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let shed = world.count("too_many_connections_of_endpoint").await;
        assert_eq!(shed, 0, "a place was not free");
    }
}

/// Connections that have ended, in whatever way.
async fn over(world: &mut World) -> u64 {
    world.count("connections_closed").await
        + world.count("connections_denied").await
        + world.count("connections_without_data").await
}
