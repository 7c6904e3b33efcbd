//! Two families, of which one is enough (RFC 8305).

use std::time::{Duration, Instant};

use egress_agent::gateway::resolve::{ResolveError, Resolver};

use crate::server::*;

const V4: &str = "203.0.113.7";
const V6: &str = "2001:db8::7";

async fn first(resolver: &Resolver, name: &str) -> (Vec<String>, bool) {
    let name = host(name);
    let start = Instant::now();
    let addresses = resolver.addresses(&name).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(900), "it waited");
    let texts = addresses.first.iter().map(ToString::to_string).collect();
    (texts, addresses.later.is_some())
}

#[tokio::test]
async fn a_family_that_hangs_holds_the_other_up_for_a_moment_only() {
    let server = Server::start(|asked| match (asked.name.as_str(), asked.kind) {
        ("four.test" | "both.test", A) => answer(asked, vec![address_record(ASKED, 60, V4)]),
        ("six.test" | "both.test", AAAA) => answer(asked, vec![address_record(ASKED, 60, V6)]),
        ("alone.test", A) => of_v4(asked, 60, &[V4]),
        ("alone.test", AAAA) => answer(asked, vec![]),
        _ => vec![],
    })
    .await;
    let resolver = server.resolver();
    assert_eq!(first(&resolver, "four.test").await, (vec![V4.into()], true));
    assert_eq!(first(&resolver, "six.test").await, (vec![V6.into()], true));
    assert_eq!(
        first(&resolver, "alone.test").await,
        (vec![V4.into()], false)
    );
    // Known, both are there at once.
    for _ in 0..2 {
        let name = host("both.test");
        let addresses = resolver.addresses(&name).await.unwrap();
        let later = match addresses.later {
            Some(later) => later.await,
            None => vec![],
        };
        assert_eq!(addresses.first.len() + later.len(), 2);
    }
    let known = first(&resolver, "both.test").await;
    assert_eq!(known, (vec![V6.into(), V4.into()], false));
}

#[tokio::test]
async fn what_comes_late_comes() {
    let server = Server::start(|asked| {
        if asked.kind == AAAA {
            std::thread::sleep(Duration::from_millis(300));
            return answer(asked, vec![address_record(ASKED, 60, V6)]);
        }
        of_v4(asked, 60, &[V4])
    })
    .await;
    let resolver = server.by_tcp();
    let name = host("a.test");
    let addresses = resolver.addresses(&name).await.unwrap();
    let mut all = addresses.first;
    if let Some(later) = addresses.later {
        all.extend(later.await);
    }
    all.sort();
    assert_eq!(
        all.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [V4, V6]
    );
}

#[tokio::test]
async fn the_more_telling_reason_is_told() {
    let server = Server::start(|asked| match (asked.name.as_str(), asked.kind) {
        ("private.test", AAAA) => answer(asked, vec![address_record(ASKED, 60, "fd00::1")]),
        ("hangs.test", A) => vec![],
        _ => answer(asked, vec![]),
    })
    .await;
    let resolver = server.resolver();
    let error = async |name: &str| {
        let name = host(name);
        resolver.addresses(&name).await.err().unwrap().reason()
    };
    assert_eq!(error("private.test").await, "answer_unique_local");
    assert_eq!(error("hangs.test").await, ResolveError::Timeout.reason());
    assert_eq!(error("empty.test").await, "resolve_no_address");
}
