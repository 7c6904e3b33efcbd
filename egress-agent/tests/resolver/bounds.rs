//! What is kept, for how long, and how often is asked.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use egress_agent::gateway::resolve::{
    Family, ResolveError,
    cache::{Cache, CacheBounds},
    server::NameServer,
    upstream::ADDRESSES_MAX,
};
use futures_util::future::join_all;

use crate::server::*;

const GOOD: &str = "203.0.113.7";

#[tokio::test]
async fn many_who_ask_at_once_make_one_query_a_family() {
    let server = Server::start(|asked| {
        std::thread::sleep(Duration::from_millis(20));
        of_v4(asked, 60, &[GOOD])
    })
    .await;
    // Two workers with one cache.
    let cache = Arc::new(Cache::new(CacheBounds::default()));
    let configure = configure(&[NameServer::udp(server.address)]);
    let workers = [(); 2].map(|()| made(&configure, cache.clone()).unwrap());
    let name = host("a.test");
    let all = (0..200).map(|n| workers[n % 2].addresses(&name));
    for one in join_all(all).await {
        assert_eq!(one.unwrap().first.len(), 1);
    }
    assert_eq!(
        (server.count("a.test", A), server.count("a.test", AAAA)),
        (1, 1)
    );
}

#[tokio::test]
async fn one_who_gives_up_leaves_the_others_their_answer() {
    let server = Server::start(|asked| of_v4(asked, 60, &[GOOD])).await;
    let resolver = server.resolver();
    let name = host("a.test");
    {
        let mut first = Box::pin(resolver.family(&name, Family::V4));
        let polled = futures_util::poll!(&mut first);
        assert!(polled.is_pending());
    }
    assert_eq!(texts(&resolver, "a.test").await, [GOOD]);
    assert_eq!(server.count("a.test", A), 1);
}

#[tokio::test]
async fn a_time_to_live_of_zero_is_kept_for_the_least_time() {
    for ttl in [0, 1 << 31] {
        let server = Server::start(move |asked| of_v4(asked, ttl, &[GOOD])).await;
        let bounds = CacheBounds {
            ttl_min: Duration::from_secs(1),
            ..CacheBounds::default()
        };
        let resolver = resolver(&[NameServer::udp(server.address)], bounds);
        for _ in 0..10 {
            assert_eq!(v4(&resolver, "a.test").await.unwrap()[0].ttl, 1);
        }
        assert_eq!(server.count("a.test", A), 1);
        pass(1_100).await;
        texts(&resolver, "a.test").await;
        assert_eq!(server.count("a.test", A), 2);
    }
}

#[tokio::test]
async fn a_long_time_to_live_is_cut() {
    let server = Server::start(|asked| of_v4(asked, i32::MAX as u32, &[GOOD])).await;
    assert_eq!(v4(&server.resolver(), "a.test").await.unwrap()[0].ttl, 300);
}

#[tokio::test]
async fn the_time_to_live_that_is_handed_out_is_what_is_left() {
    let server = Server::start(|asked| of_v4(asked, 10, &[GOOD])).await;
    let resolver = server.resolver();
    assert_eq!(v4(&resolver, "a.test").await.unwrap()[0].ttl, 10);
    pass(1_200).await;
    assert_eq!(v4(&resolver, "a.test").await.unwrap()[0].ttl, 9);
    assert_eq!(server.count("a.test", A), 1);
}

#[tokio::test]
async fn what_does_not_exist_is_kept_for_as_long_as_its_zone_says() {
    let server = Server::start(|asked| {
        let mut reply = Reply::to(asked);
        reply.authorities = match asked.name.as_str() {
            "short.test" => vec![soa(3_600, 1)],
            "long.test" => vec![soa(3_600, 3_600)],
            "never.test" => vec![soa(0, 3_600)],
            _ => vec![],
        };
        // NXDOMAIN (RFC 1035 section 4.1.1).
        reply.flags = if asked.name == "long.test" { 0 } else { 3 };
        vec![reply.bytes()]
    })
    .await;
    let bounds = CacheBounds {
        negative_max: Duration::from_secs(2),
        ..CacheBounds::default()
    };
    let resolver = resolver(&[NameServer::udp(server.address)], bounds);
    let ask_all = async || {
        for name in ["short.test", "never.test", "none.test"] {
            assert_eq!(v4(&resolver, name).await, Err(ResolveError::NoName));
        }
        let none = v4(&resolver, "long.test").await;
        assert_eq!(none, Err(ResolveError::NoAddress));
    };
    let asked =
        || ["short.test", "long.test", "never.test", "none.test"].map(|n| server.count(n, A));
    ask_all().await;
    ask_all().await;
    assert_eq!(asked(), [1, 1, 2, 1]);
    pass(1_100).await;
    ask_all().await;
    assert_eq!(asked(), [2, 1, 3, 2]);
    pass(1_100).await;
    ask_all().await;
    assert_eq!(asked()[1], 2, "no longer than the bound");
}

/// Resident bytes (proc(5), statm).
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages = statm.split(' ').nth(1).unwrap();
    pages.parse::<usize>().unwrap() * 4_096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_addresses_of_thousands_of_names_take_bounded_memory() {
    let records: Vec<Vec<u8>> = (0..4_000_u16)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            record(ASKED, A, 300, &[203, 0, high, low])
        })
        .collect();
    let server = Server::start(move |asked| answer(asked, records.clone())).await;
    let bounds = CacheBounds {
        entries: 100,
        ..CacheBounds::default()
    };
    let server_config = format!("tcp://{}", server.address).parse().unwrap();
    let resolver = resolver(&[server_config], bounds);
    let ask = async |from: usize, to: usize| {
        for number in from..to {
            let answers = v4(&resolver, &format!("n{number}.test")).await.unwrap();
            assert_eq!(answers.len(), ADDRESSES_MAX);
        }
    };
    ask(0, 100).await;
    server.asked.lock().unwrap().clear();
    let before = resident();
    ask(100, 700).await;
    // All 600 answers in full would be some 500 MB as records, and 37 MB as bytes.
    let more = resident().saturating_sub(before);
    assert!(more < 16 << 20, "{more} bytes more");
}

#[tokio::test]
async fn a_flood_of_names_is_answered_although_nothing_fits() {
    let server = Server::start(|asked| of_v4(asked, 300, &[GOOD])).await;
    let bounds = CacheBounds {
        entries: 8,
        ..CacheBounds::default()
    };
    let resolver = resolver(&[NameServer::udp(server.address)], bounds);
    let names: Vec<_> = (0..100).map(|n| host(&format!("n{n}.test"))).collect();
    let start = Instant::now();
    let all = names.iter().map(|name| resolver.family(name, Family::V4));
    assert!(join_all(all).await.iter().all(Result::is_ok));
    assert!(start.elapsed() < Duration::from_secs(2));
}
