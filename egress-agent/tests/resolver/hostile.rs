//! Servers that lie, hang, truncate or answer with garbage.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use egress_agent::gateway::{
    refuse::Refusal,
    resolve::{
        ResolveError,
        cache::{Cache, CacheBounds},
        server::NameServer,
    },
};

use crate::server::*;

const GOOD: &str = "203.0.113.7";
const BAD: &str = "203.0.113.66";

/// What comes before the honest answer does not count.
async fn is_not_believed(lie: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) {
    let server = Server::start(move |asked| {
        let mut says = vec![lie(asked)];
        says.extend(of_v4(asked, 60, &[GOOD]));
        says
    })
    .await;
    assert_eq!(texts(&server.resolver(), "a.test").await, [GOOD]);
}

fn lie(asked: &Asked) -> Reply {
    let mut reply = Reply::to(asked);
    reply.answers = vec![address_record(ASKED, 60, BAD)];
    reply
}

#[tokio::test]
async fn another_id_is_not_believed() {
    is_not_believed(|asked| {
        let mut reply = lie(asked);
        reply.id = asked.id.wrapping_add(1);
        reply.bytes()
    })
    .await;
}

#[tokio::test]
async fn another_question_is_not_believed() {
    is_not_believed(|asked| {
        let mut reply = lie(asked);
        reply.questions = vec![question("b.test", A)];
        reply.bytes()
    })
    .await;
    is_not_believed(|asked| {
        let mut reply = lie(asked);
        reply.questions = vec![question("a.test", AAAA)];
        reply.bytes()
    })
    .await;
}

#[tokio::test]
async fn another_question_by_tcp_fails() {
    for questions in [
        vec![question("b.test", A)],
        vec![],
        vec![question("b.test", A), question("a.test", A)],
    ] {
        let server = Server::start(move |asked| {
            let mut reply = lie(asked);
            reply.questions.clone_from(&questions);
            vec![reply.bytes()]
        })
        .await;
        assert!(v4(&server.by_tcp(), "a.test").await.is_err());
    }
}

#[tokio::test]
async fn what_is_said_of_other_names_counts_for_nothing() {
    let server = Server::start(|asked| {
        let mut records = vec![
            address_record(&wire("b.test"), 60, BAD),
            record(&wire("b.test"), CNAME, 60, &wire("a.test")),
        ];
        if asked.name == "both.test" {
            records.push(address_record(ASKED, 60, GOOD));
        }
        answer(asked, records)
    })
    .await;
    let resolver = server.resolver();
    for resolver in [&resolver, &server.by_tcp()] {
        let failed = v4(resolver, "a.test").await;
        assert_eq!(failed, Err(ResolveError::NoAddress));
        assert_eq!(texts(resolver, "both.test").await, [GOOD]);
    }
    // And nothing of it was kept.
    assert_eq!(
        v4(&resolver, "b.test").await.unwrap()[0]
            .address
            .to_string(),
        BAD
    );
    assert!(server.count("b.test", A) > 0);
}

#[tokio::test]
async fn an_alias_into_another_zone_is_checked_like_any_other() {
    let server = Server::start(|asked| match asked.name.as_str() {
        "good.test" => answer(
            asked,
            vec![
                record(ASKED, CNAME, 60, &wire("edge.cdn.example")),
                address_record(&wire("edge.cdn.example"), 60, GOOD),
            ],
        ),
        "inward.test" => answer(
            asked,
            vec![
                record(ASKED, CNAME, 60, &wire("db.internal.example")),
                address_record(&wire("db.internal.example"), 60, "10.0.0.1"),
            ],
        ),
        // Whose address is asked for in its turn.
        "apart.test" => answer(asked, vec![record(ASKED, CNAME, 60, &wire("end.example"))]),
        "end.example" => of_v4(asked, 60, &[GOOD]),
        _ => answer(asked, vec![]),
    })
    .await;
    for resolver in [server.resolver(), server.by_tcp()] {
        assert_eq!(texts(&resolver, "good.test").await, [GOOD]);
        assert_eq!(texts(&resolver, "apart.test").await, [GOOD]);
        assert_eq!(
            v4(&resolver, "inward.test").await,
            Err(ResolveError::Refused(
                "10.0.0.1".parse().unwrap(),
                Refusal::Private
            ))
        );
    }
}

#[tokio::test]
async fn aliases_in_a_circle_end_soon() {
    let server = Server::start(|asked| {
        let target = match asked.name.as_str() {
            "self.test" => "self.test".to_owned(),
            "a.test" => "b.test".to_owned(),
            "b.test" => "a.test".to_owned(),
            // Ever farther.
            other => format!("x{other}"),
        };
        answer(asked, vec![record(ASKED, CNAME, 60, &wire(&target))])
    })
    .await;
    let resolver = server.resolver();
    for name in ["self.test", "a.test", "c.test"] {
        let start = Instant::now();
        assert!(v4(&resolver, name).await.is_err(), "{name}");
        assert!(start.elapsed() < Duration::from_secs(3), "{name}");
    }
    let asked = server.asked.lock().unwrap().len();
    assert!(asked <= 60, "asked {asked} times");
}

#[tokio::test]
async fn refused_addresses_are_left_out_and_said() {
    let server = Server::start(|asked| match asked.name.as_str() {
        "some.test" => of_v4(asked, 60, &["10.0.0.1", GOOD, "169.254.169.254"]),
        "all.test" => of_v4(asked, 60, &["169.254.169.254", "10.0.0.1"]),
        _ => answer(asked, vec![address_record(ASKED, 60, "::ffff:203.0.113.7")]),
    })
    .await;
    let resolver = server.resolver();
    assert_eq!(texts(&resolver, "some.test").await, [GOOD]);
    let error = v4(&resolver, "all.test").await.unwrap_err();
    assert_eq!(error.reason(), "answer_metadata");
    let mapped = resolver.addresses(&host("mapped.test")).await.err();
    assert_eq!(mapped.unwrap().reason(), "answer_mapped");
}

#[tokio::test]
async fn a_server_that_hangs_costs_the_limit_once() {
    let server = Server::start(|_| vec![]).await;
    let resolver = server.resolver();
    let start = Instant::now();
    let all = (0..50).map(|_| v4(&resolver, "a.test"));
    let all = futures_util::future::join_all(all).await;
    assert!(
        all.iter().all(|one| one == &Err(ResolveError::Timeout)),
        "{all:?}"
    );
    // What has just failed is not asked again at once (RFC 9520).
    assert_eq!(v4(&resolver, "a.test").await, Err(ResolveError::Timeout));
    assert!(start.elapsed() < Duration::from_secs(4));
    // Sent again by the resolver itself, as UDP needs it, but not by each of the fifty.
    assert!(server.count("a.test", A) <= 8);
}

#[tokio::test]
async fn what_is_truncated_is_asked_by_tcp() {
    let server = Server::start(|asked| {
        let mut says = of_v4(asked, 60, &[GOOD]);
        if !asked.by_tcp {
            // TC (RFC 1035 section 4.1.1).
            says[0][2] |= 2;
        }
        says
    })
    .await;
    assert_eq!(texts(&server.resolver(), "a.test").await, [GOOD]);
    let asked = server.asked.lock().unwrap().clone();
    assert!(asked.iter().any(|one| one.by_tcp), "{asked:?}");
}

#[tokio::test]
async fn truncated_by_tcp_too_is_an_error() {
    let server = Server::start(|asked| {
        let mut says = of_v4(asked, 60, &[BAD]);
        says[0][2] |= 2;
        says
    })
    .await;
    assert!(v4(&server.resolver(), "a.test").await.is_err());
}

#[tokio::test]
async fn garbage_is_an_error_and_the_next_server_is_asked() {
    let garbage = |asked: &Asked| {
        let mut bytes = asked.id.to_be_bytes().to_vec();
        bytes.extend([0xff; 40]);
        vec![bytes]
    };
    let bad = Server::start(garbage).await;
    assert!(v4(&bad.resolver(), "a.test").await.is_err());
    assert!(v4(&bad.by_tcp(), "a.test").await.is_err());
    the_next_is_asked(&bad).await;
}

/// Whichever comes first, and soon.
async fn the_next_is_asked(bad: &Server) {
    let good = Server::start(|asked| of_v4(asked, 60, &[GOOD])).await;
    for both in [[bad.address, good.address], [good.address, bad.address]] {
        let resolver = resolver(&both.map(NameServer::udp), CacheBounds::default());
        let start = Instant::now();
        for number in 0..4 {
            assert_eq!(texts(&resolver, &format!("n{number}.test")).await, [GOOD]);
        }
        // Once, since the good one is asked first from then on.
        assert!(start.elapsed() < Duration::from_millis(1_500));
    }
}

#[tokio::test]
async fn an_error_of_one_server_does_not_speak_for_all() {
    // SERVFAIL, NOTIMP, REFUSED (RFC 1035 section 4.1.1).
    for code in [2, 4, 5] {
        let bad = Server::start(move |asked| {
            let mut reply = Reply::to(asked);
            reply.flags = code;
            vec![reply.bytes()]
        })
        .await;
        assert!(v4(&bad.resolver(), "a.test").await.is_err());
        the_next_is_asked(&bad).await;
    }
}

#[tokio::test]
async fn a_server_that_hangs_or_is_not_there_gives_way_to_the_next() {
    let hangs = Server::start(|_| vec![]).await;
    the_next_is_asked(&hangs).await;
    let mut gone = Server::start(|_| vec![]).await;
    gone.address = ([127, 0, 0, 1], 9).into();
    the_next_is_asked(&gone).await;
}

#[tokio::test]
async fn what_one_server_says_does_not_exist_does_not() {
    let none = Server::start(|asked| {
        let mut reply = Reply::to(asked);
        reply.flags = 3;
        vec![reply.bytes()]
    })
    .await;
    let other = Server::start(|asked| of_v4(asked, 60, &[GOOD])).await;
    let both = [none.address, other.address].map(NameServer::udp);
    let resolver = resolver(&both, CacheBounds::default());
    assert_eq!(v4(&resolver, "a.test").await, Err(ResolveError::NoName));
    assert_eq!(other.count("a.test", A), 0);
}

#[tokio::test]
async fn an_answer_cut_at_any_byte_never_ends_the_resolver() {
    static CUT: AtomicUsize = AtomicUsize::new(0);
    let server = Server::start(|asked| {
        let whole = answer(
            asked,
            vec![
                record(ASKED, CNAME, 60, &wire("b.test")),
                address_record(&wire("b.test"), 60, GOOD),
            ],
        );
        vec![whole[0][..CUT.load(Ordering::Relaxed).min(whole[0].len())].to_vec()]
    })
    .await;
    let mut configure = configure(&[format!("tcp://{}", server.address).parse().unwrap()]);
    configure.limits.resolve = Duration::from_millis(100);
    let cache = Arc::new(Cache::new(configure.cache.clone()));
    let resolver = made(&configure, cache).unwrap();
    for cut in (0..64).chain([10_000]) {
        CUT.store(cut, Ordering::Relaxed);
        let outcome = v4(&resolver, &format!("n{cut}.test")).await;
        assert_eq!(outcome.is_ok(), cut == 10_000, "{cut}: {outcome:?}");
    }
}
