//! Plain HTTP: every request is judged, and what cannot be read in one way alone is refused.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use egress_agent::{
    gateway::protocol::Endpoints,
    policy::{
        http::HttpRule,
        port::PortRange,
        rule::{Allow, Rule},
    },
    telemetry::record::{Event, HttpRequest, Verdict},
};
use hickory_proto::rr::RecordType;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    server::{self, Seen},
    world::*,
};

/// A gateway whose upstream is a server of HTTP, and what that has seen.
pub(crate) struct Site {
    pub(crate) world: World,
    pub(crate) seen: Seen,
}

/// Rules as JSON, the way they come to the gateway; on the server's port.
pub(crate) fn rule(http: &str, port: u16) -> Rule {
    let http: HttpRule = serde_json::from_str(http).unwrap();
    Rule {
        name: "http rule".to_owned(),
        allow: Allow::Http {
            http,
            ports: vec![PortRange::new(port, port).unwrap()],
        },
    }
}

impl Site {
    pub(crate) async fn new(rules: &[&str]) -> Self {
        let mut world = World::new(&[]).await;
        let (upstream, seen) = server::serve().await;
        world.upstream = upstream;
        let mut site = Self { world, seen };
        site.rules(2, rules).await;
        site
    }

    pub(crate) async fn rules(&mut self, generation: u64, rules: &[&str]) {
        self.world.apply(self.endpoints(generation, rules)).await;
    }

    pub(crate) fn endpoints(&self, generation: u64, rules: &[&str]) -> Endpoints {
        let port = self.world.upstream.port();
        let rules = rules.iter().map(|it| match it.starts_with('{') {
            true => rule(it, port),
            false => parse(&it.replace("PORT", &port.to_string())),
        });
        endpoints(generation, rules.collect(), true)
    }

    /// A connection whose original destination is where the server is.
    pub(crate) async fn dial(&self, endpoint: u32) -> TcpStream {
        let to = self.world.upstream;
        self.world.come_from(endpoint, to.ip(), to.port(), 6);
        TcpStream::connect(self.world.gateway).await.unwrap()
    }

    /// All that a connection answers to these bytes, until its end.
    pub(crate) async fn send(&self, endpoint: u32, raw: &str) -> String {
        let mut stream = self.dial(endpoint).await;
        stream.write_all(raw.as_bytes()).await.unwrap();
        let rest = rest(stream).await.expect("no reset");
        String::from_utf8_lossy(&rest).into_owned()
    }

    pub(crate) async fn request(&mut self) -> HttpRequest {
        loop {
            if let Event::HttpRequest(request) = self.world.record().await.event {
                return request;
            }
        }
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|(_, request)| request.clone()).collect()
    }
}

pub(crate) const REPO: &str = r#"{"hosts": ["repo.test", "sub.wild.test"]}"#;

/// Reads one answer with a length, and leaves the connection as it is.
pub(crate) async fn one(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = async {
        loop {
            stream.read_buf(&mut text).await.unwrap();
            let so_far = String::from_utf8_lossy(&text).into_owned();
            if let Some((head, body)) = so_far.split_once("\r\n\r\n") {
                let length = head.to_ascii_lowercase();
                let length = length.split("content-length: ").nth(1);
                let length: usize = length
                    .and_then(|it| it.split("\r\n").next()?.parse().ok())
                    .unwrap_or(0);
                if body.len() >= length {
                    return so_far;
                }
            }
        }
    };
    timeout(Duration::from_secs(5), read)
        .await
        .expect("an answer")
}

#[tokio::test]
async fn an_allowed_request_is_written_anew_and_sent_on() {
    let mut site = Site::new(&[REPO]).await;
    let raw = "POST /a/../v1//x?secret=1 HTTP/1.1\r\nHost: REPO.test.\r\nConnection: close, X-Own\r\nX-Own: 1\r\nX-Kept: 1\r\nKeep-Alive: 9\r\nContent-Length: 3\r\n\r\nabc";
    let answer = site.send(ENFORCED, raw).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
    let seen = site.requests().concat();
    let port = site.world.upstream.port();
    assert!(
        seen.starts_with("POST /v1/x?secret=1 HTTP/1.1\r\n"),
        "{seen}"
    );
    assert!(
        seen.contains(&format!("host: repo.test:{port}\r\n")),
        "{seen}"
    );
    assert!(
        seen.contains("x-kept: 1\r\n") && seen.ends_with("\r\n\r\nabc"),
        "{seen}"
    );
    assert!(
        !seen.contains("x-own") && !seen.contains("keep-alive"),
        "{seen}"
    );

    let open = opened(site.world.record().await);
    assert_eq!(open.server_name.as_deref(), Some("repo.test"));
    assert_eq!(open.attempt.verdict, Verdict::Allow);
    assert_eq!(open.upstream, Some(site.world.upstream));
    let request = site.request().await;
    assert_eq!(request.of.connection, open.connection);
    assert_eq!(request.method.as_deref(), Some("POST"));
    assert_eq!(request.path.as_deref(), Some("/v1/x"));
    assert_eq!(request.status, Some(200));
    assert_eq!((request.bytes_sent, request.bytes_received), (3, 5));
    assert_eq!(request.close_reason, "eof");
    assert_eq!(request.of.rule.as_deref(), Some("http rule"));
    let json = serde_json::to_string(&request).unwrap();
    assert!(
        !json.contains("secret") && !json.contains("x-kept"),
        "{json}"
    );
    let Event::ConnectionClose(close) = site.world.record().await.event else {
        panic!("close")
    };
    assert_eq!((close.bytes_sent, close.bytes_received), (3, 5));
}

#[tokio::test]
async fn what_policy_does_not_allow_gets_a_403_that_says_why() {
    let rule = r#"{"hosts": ["repo.test"], "methods": ["GET"], "paths": ["/v1/*"], "headers": [{"name": "X-Tenant", "value": "a"}]}"#;
    let mut site = Site::new(&[rule]).await;
    for (line, fields, reason) in [
        ("GET /v1/a", "Host: evil.test\r\n", "host_not_allowed"),
        ("PUT /v1/a", "Host: repo.test\r\n", "method_not_allowed"),
        (
            "GET /v2",
            "Host: repo.test\r\nX-Tenant: a\r\n",
            "path_not_allowed",
        ),
        (
            "GET /v1/%2e./v2",
            "Host: repo.test\r\nX-Tenant: a\r\n",
            "path_encoded_dots",
        ),
        (
            "GET /v1/../v2",
            "Host: repo.test\r\nX-Tenant: a\r\n",
            "path_not_allowed",
        ),
        ("GET /v1/a", "Host: repo.test\r\n", "header_not_allowed"),
        (
            "GET /v1/a",
            "Host: repo.test\r\nX-Tenant: b\r\n",
            "header_not_allowed",
        ),
        (
            "GET /v1/a",
            "Host: repo.test\r\nX-Tenant: a\r\nConnection: x-tenant\r\n",
            "header_not_allowed",
        ),
    ] {
        let answer = site
            .send(ENFORCED, &format!("{line} HTTP/1.1\r\n{fields}\r\n"))
            .await;
        let status = if reason == "path_encoded_dots" {
            "400 "
        } else {
            "403 "
        };
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{line} {answer}"
        );
        assert!(
            answer.contains(reason) && answer.contains("enforced"),
            "{line} {answer}"
        );
        let open = opened(site.world.record().await);
        assert_eq!(open.attempt.verdict, Verdict::Deny);
        assert_eq!(open.attempt.reason.as_deref(), Some(reason));
        let request = site.request().await;
        assert_eq!(request.of.attempt.reason.as_deref(), Some(reason));
        assert_eq!(request.of.connection, open.connection);
    }
    let allowed =
        "GET /v1/a HTTP/1.1\r\nHost: repo.test\r\nX-Tenant: a\r\nConnection: close\r\n\r\n";
    assert!(site.send(ENFORCED, allowed).await.contains("hello"));
    assert_eq!(site.requests().len(), 1);
}

#[tokio::test]
async fn a_request_for_an_address_is_for_rules_of_networks() {
    let mut site = Site::new(&[REPO]).await;
    let get = "GET / HTTP/1.1\r\nHost: 203.0.113.9\r\n\r\n";
    site.world
        .come_from(ENFORCED, [203, 0, 113, 9].into(), 80, 6);
    let mut stream = TcpStream::connect(site.world.gateway).await.unwrap();
    stream.write_all(get.as_bytes()).await.unwrap();
    let answer = String::from_utf8(rest(stream).await.unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let open = opened(site.world.record().await);
    assert_eq!(open.attempt.reason.as_deref(), Some("address_not_allowed"));
}

#[tokio::test]
async fn every_request_of_a_connection_is_judged() {
    let mut site = Site::new(&[r#"{"hosts": ["repo.test"], "paths": ["/v1/*"]}"#]).await;
    let mut stream = site.dial(ENFORCED).await;
    let good = b"GET /v1/a HTTP/1.1\r\nHost: repo.test\r\n\r\n";
    for _ in 0..3 {
        stream.write_all(good).await.unwrap();
        assert!(one(&mut stream).await.ends_with("hello"));
    }
    stream
        .write_all(b"GET /v2 HTTP/1.1\r\nHost: repo.test\r\n\r\n")
        .await
        .unwrap();
    let denied = String::from_utf8(rest(stream).await.unwrap()).unwrap();
    assert!(denied.starts_with("HTTP/1.1 403 "), "{denied}");
    let seen = site.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 3);
    assert!(
        seen.iter().all(|(connection, _)| *connection == 1),
        "used again: {seen:?}"
    );
    for verdict in [
        Verdict::Allow,
        Verdict::Allow,
        Verdict::Allow,
        Verdict::Deny,
    ] {
        assert_eq!(site.request().await.of.attempt.verdict, verdict);
    }
    // Pipelined: each in its turn, and nothing behind the one that is denied.
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: repo.test\r\n\r\n");
    let all = [get("/v1/a"), get("/v1/b"), get("/v2"), get("/v1/c")].concat();
    let answers = site.send(ENFORCED, &all).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 403 ").count(), 1, "{answers}");
    assert_eq!(site.requests().len(), 5);
}

#[tokio::test]
async fn a_policy_that_changes_ends_what_it_does_not_allow() {
    let mut site = Site::new(&[REPO]).await;
    let mut stream = site.dial(ENFORCED).await;
    stream
        .write_all(b"GET /events HTTP/1.1\r\nHost: repo.test\r\n\r\n")
        .await
        .unwrap();
    let mut idle = site.dial(ENFORCED).await;
    idle.write_all(b"GET / HTTP/1.1\r\nHost: repo.test\r\n\r\n")
        .await
        .unwrap();
    one(&mut idle).await;
    stream.read_u8().await.unwrap();
    // Still allowed, by another rule.
    site.rules(3, &[r#"{"hosts": ["repo.test"], "methods": ["GET"]}"#])
        .await;
    for _ in 0..100 {
        stream.read_u8().await.unwrap();
    }
    site.rules(4, &[r#"{"hosts": ["repo.test"], "methods": ["POST"]}"#])
        .await;
    assert!(rest(stream).await.is_err(), "cut off");
    idle.write_all(b"GET / HTTP/1.1\r\nHost: repo.test\r\n\r\n")
        .await
        .unwrap();
    let denied = one(&mut idle).await;
    assert!(denied.starts_with("HTTP/1.1 403 "), "{denied}");
}

#[tokio::test]
async fn the_end_of_a_cut_request_is_told() {
    let mut site = Site::new(&[REPO]).await;
    let mut stream = site.dial(ENFORCED).await;
    stream
        .write_all(b"GET /events HTTP/1.1\r\nHost: repo.test\r\n\r\n")
        .await
        .unwrap();
    stream.read_u8().await.unwrap();
    let message = site.endpoints(3, &[]);
    let message = egress_agent::gateway::protocol::ToGateway::Endpoints(message);
    egress_agent::gateway::protocol::write_message(&mut site.world.control, &message)
        .await
        .unwrap();
    assert_eq!(site.request().await.close_reason, "policy_changed");
    let Event::ConnectionClose(close) = site.world.record().await.event else {
        panic!("close")
    };
    assert_eq!(close.close_reason, "policy_changed");
}

#[tokio::test]
async fn connections_to_servers_are_never_shared_between_endpoints() {
    let mut site = Site::new(&[REPO]).await;
    for _ in 0..8 {
        for endpoint in [ENFORCED, AUDITED] {
            let get =
                format!("GET /{endpoint} HTTP/1.1\r\nHost: repo.test\r\nConnection: close\r\n\r\n");
            assert!(site.send(endpoint, &get).await.contains("hello"));
            site.request().await;
        }
    }
    let seen = site.seen.lock().unwrap();
    let of = |endpoint: u32| -> BTreeSet<usize> {
        let path = format!("GET /{endpoint} ");
        let requests = seen.iter().filter(|it| it.1.starts_with(&path));
        requests.map(|it| it.0).collect()
    };
    let (first, second) = (of(ENFORCED), of(AUDITED));
    assert!(first.is_disjoint(&second), "{first:?} {second:?}");
    // Eight requests each: used again, whichever worker served them.
    assert!(
        first.len() <= 4 && second.len() <= 4,
        "{first:?} {second:?}"
    );
}

#[tokio::test]
async fn in_audit_requests_pass_to_where_they_were_sent() {
    let mut site = Site::new(&[]).await;
    let get = "GET /a HTTP/1.1\r\nHost: evil.test\r\n\r\nPUT /b HTTP/1.1\r\nHost: evil.test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let answers = site.send(AUDITED, get).await;
    assert_eq!(answers.matches("hello").count(), 2, "{answers}");
    assert_eq!(
        opened(site.world.record().await).attempt.verdict,
        Verdict::Audit
    );
    for path in ["/a", "/b"] {
        let request = site.request().await;
        assert_eq!(request.path.as_deref(), Some(path));
        assert_eq!(request.of.attempt.verdict, Verdict::Audit);
        assert_eq!(
            request.of.attempt.reason.as_deref(),
            Some("host_not_allowed")
        );
        assert_eq!(request.of.upstream, Some(site.world.upstream));
    }
    // What is no good request passes as it is.
    let smuggling = "POST /c HTTP/1.1\r\nHost: evil.test\r\nContent-Length : 3\r\n\r\n";
    let mut stream = site.dial(AUDITED).await;
    stream.write_all(smuggling.as_bytes()).await.unwrap();
    assert!(one(&mut stream).await.contains("hello"));
    assert!(site.requests().concat().contains("Content-Length : 3"));
    drop(stream);
    loop {
        if let Event::ConnectionOpen(open) = site.world.record().await.event {
            assert_eq!(
                open.attempt.reason.as_deref(),
                Some("http_space_before_colon")
            );
            assert_eq!(open.attempt.verdict, Verdict::Audit);
            break;
        }
    }
}

#[tokio::test]
async fn a_rule_of_networks_lets_it_pass_as_it_is() {
    let mut site = Site::new(&["127.0.0.1:PORT", r#"{"hosts": ["repo.test"]}"#]).await;
    // By the request first, and then by the network.
    let get = "GET / HTTP/1.1\r\nHost: repo.test\r\n\r\nGET /own HTTP/1.1\r\nHost: own.test\r\nX-A : 1\r\n\r\n";
    let mut stream = site.dial(ENFORCED).await;
    stream.write_all(get.as_bytes()).await.unwrap();
    assert!(one(&mut stream).await.contains("hello"));
    assert!(one(&mut stream).await.contains("hello"));
    drop(stream);
    let first = opened(site.world.record().await);
    assert_eq!(first.rule.as_deref(), Some("http rule"));
    let second = loop {
        if let Event::ConnectionOpen(open) = site.world.record().await.event {
            break open;
        }
    };
    assert!(second.rule.unwrap().contains("--allow-cidr"));
    assert_ne!(second.connection, first.connection);
    assert!(
        site.requests()[1].contains("X-A : 1"),
        "{:?}",
        site.requests()
    );
}

/// What is allowed by what the endpoint was told is allowed for opaque protocols alone.
#[tokio::test]
async fn a_hello_behind_requests_is_judged_by_its_name() {
    let mut site = Site::new(&["repo.test:PORT", REPO]).await;
    let told = site.world.lookup(ENFORCED, "repo.test.", RecordType::A);
    assert_eq!(told.await.answers.len(), 1);
    for (name, is_allowed) in [("evil.test", false), ("repo.test", true)] {
        let mut stream = site.dial(ENFORCED).await;
        let get = b"GET / HTTP/1.1\r\nHost: repo.test\r\n\r\n";
        stream.write_all(get).await.unwrap();
        assert!(one(&mut stream).await.contains("hello"));
        stream.write_all(&hello(name)).await.unwrap();
        stream.shutdown().await.unwrap();
        // The server knows no TLS, and says nothing to it.
        let answer = rest(stream).await.unwrap_or_default();
        let open = loop {
            match site.world.record().await.event {
                Event::ConnectionOpen(open) if open.server_name.as_deref() == Some(name) => {
                    break open;
                }
                _ => {}
            }
        };
        assert_eq!(open.attempt.verdict == Verdict::Allow, is_allowed, "{name}");
        assert_eq!(answer.is_empty(), is_allowed, "{name} {answer:x?}");
    }
}

#[tokio::test]
async fn a_reset_within_a_head_is_told() {
    let mut site = Site::new(&[REPO]).await;
    let mut stream = site.dial(ENFORCED).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    let request = site.request().await;
    assert_eq!(request.of.attempt.reason.as_deref(), Some("http_truncated"));
}

#[tokio::test]
async fn a_name_that_leads_inside_is_refused_for_requests_too() {
    let site = Site::new(&[r#"{"hosts": ["private.test", "dead.test"]}"#]).await;
    let get = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let answer = site.send(ENFORCED, &get("private.test")).await;
    assert!(
        answer.starts_with("HTTP/1.1 403 ") && answer.contains("answer_private"),
        "{answer}"
    );
    let looked_up = Arc::clone(&site.world.asked);
    assert!(
        looked_up
            .lock()
            .unwrap()
            .iter()
            .any(|name| name == "private.test.")
    );
}
