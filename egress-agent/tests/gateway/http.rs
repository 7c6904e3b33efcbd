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
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
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

const REPO: &str = r#"{"hosts": ["repo.test", "sub.wild.test"]}"#;

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

/// Each as the first request, and behind a good one on the same connection.
#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused() {
    let mut site = Site::new(&[REPO]).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: repo.test\r\n\r\n";
    let post = |fields: &str, body: &str| {
        format!("POST / HTTP/1.1\r\nHost: repo.test\r\n{fields}\r\n{body}")
    };
    let table = [
        ("http_length_and_encoding", post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{smuggled}"))),
        ("http_length_and_encoding", post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "5c\r\n")),
        ("http_transfer_encoding", post("Transfer-Encoding: xchunked\r\n", smuggled)),
        ("http_transfer_encoding", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", smuggled)),
        ("http_transfer_encoding", post("Transfer-Encoding: chunked, identity\r\n", smuggled)),
        ("http_encoding_of_bodiless", format!("OPTIONS / HTTP/1.1\r\nHost: repo.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}")),
        ("http_several_lengths", post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc")),
        ("http_several_lengths", post("Content-Length: 0\r\nContent-Length: 44\r\n", smuggled)),
        ("http_length", post("Content-Length: +3\r\n", "abc")),
        ("http_length", post("Content-Length: -3\r\n", "abc")),
        ("http_length", post("Content-Length: 3,3\r\n", "abc")),
        ("http_length", post("Content-Length: 0x3\r\n", "abc")),
        ("http_space_before_colon", post("Content-Length : 44\r\n", smuggled)),
        ("http_space_before_colon", post("Transfer-Encoding : chunked\r\n", smuggled)),
        ("http_obs_fold", post("X: a\r\n Content-Length: 44\r\n", smuggled)),
        ("http_obs_fold", post("Transfer-Encoding:\r\n chunked\r\n", smuggled)),
        ("http_nul", post("X: a\0b\r\n", "")),
        ("http_bare_lf", format!("POST / HTTP/1.1\r\nHost: repo.test\nContent-Length: 44\r\n\r\n{smuggled}")),
        ("http_bare_lf", format!("GET / HTTP/1.1\r\nHost: repo.test\r\nX: a\n\n{smuggled}")),
        ("http_bare_cr", post("X: a\rContent-Length: 44\r\n", smuggled)),
        ("http_field_value", post("Transfer-Encoding: \x0bchunked\r\n", smuggled)),
        ("http_field_name", post("no colon\r\n", smuggled)),
        ("http_no_host", "GET / HTTP/1.1\r\nAccept: */*\r\n\r\n".into()),
        ("http_several_hosts", "GET / HTTP/1.1\r\nHost: repo.test\r\nHost: repo.test\r\n\r\n".into()),
        ("http_host_disagrees", "GET http://sub.wild.test/ HTTP/1.1\r\nHost: repo.test\r\n\r\n".into()),
        ("http_port", "GET / HTTP/1.1\r\nHost: repo.test:1\r\n\r\n".into()),
        ("http_h2c_prior_knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
        ("http_h2c_upgrade", "GET / HTTP/1.1\r\nHost: repo.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n".into()),
        ("http_connect", "CONNECT repo.test:443 HTTP/1.1\r\nHost: repo.test:443\r\nContent-Length: 44\r\n\r\n".into()),
        ("path_encoded_slash", "GET /a%2fb HTTP/1.1\r\nHost: repo.test\r\n\r\n".into()),
        ("http_chunk_size", post("Transfer-Encoding: chunked\r\n", "3;a=b\r\nabc\r\n0\r\n\r\n")),
        ("http_chunk_size", post("Transfer-Encoding: chunked\r\n", &format!("0x0\r\n\r\n{smuggled}"))),
        ("http_chunk_end", post("Transfer-Encoding: chunked\r\n", &format!("3\r\nabcd\r\n0\r\n\r\n{smuggled}"))),
        ("http_bare_lf", post("Transfer-Encoding: chunked\r\n", &format!("0\r\nX: a\n\r\n{smuggled}"))),
        ("http_trailer", post("Transfer-Encoding: chunked\r\n", &format!("0\r\nContent-Length: 44\r\n\r\n{smuggled}"))),
    ];
    let good = "GET /good HTTP/1.1\r\nHost: repo.test\r\n\r\n";
    for (reason, raw) in &table {
        for front in ["", good] {
            let answer = site.send(ENFORCED, &format!("{front}{raw}")).await;
            let own = answer.rsplit("HTTP/1.1 ").next().unwrap_or_default();
            assert!(
                own.starts_with("400 ") && own.contains(reason),
                "{raw:?}: {answer}"
            );
            let goods = answer.matches("hello").count();
            assert_eq!(goods, usize::from(!front.is_empty()), "{raw:?}: {answer}");
            loop {
                let request = site.request().await;
                if request.of.attempt.verdict == Verdict::Deny {
                    assert_eq!(
                        request.of.attempt.reason.as_deref(),
                        Some(*reason),
                        "{raw:?}"
                    );
                    assert_eq!(request.status, Some(400));
                    break;
                }
            }
        }
    }
    let seen = site.requests();
    let smuggled = seen.iter().filter(|it| it.contains("smuggled"));
    assert_eq!(smuggled.count(), 0, "{seen:#?}");
}

/// The server would be fooled: what is refused above is not refused for nothing.
#[tokio::test]
async fn the_server_would_have_taken_what_was_smuggled() {
    let (server, seen) = server::serve().await;
    let mut stream = TcpStream::connect(server).await.unwrap();
    let raw = "POST / HTTP/1.1\r\nHost: repo.test\r\nContent-Length : 44\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: repo.test\r\n\r\n";
    stream.write_all(raw.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    rest(stream).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn bodies_stream_both_ways_with_their_trailers() {
    let site = Site::new(&[REPO]).await;
    let mut stream = site.dial(ENFORCED).await;
    let head = "POST /chunked HTTP/1.1\r\nHost: repo.test\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\nTE: trailers\r\nConnection: close, te\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let go_on = one(&mut stream).await;
    assert_eq!(go_on, "HTTP/1.1 100 Continue\r\n\r\n");
    for part in ["5\r\nhel", "lo\r\n", "0\r\n", "X-End: 1\r\n\r\n"] {
        stream.write_all(part.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let answer = String::from_utf8(rest(stream).await.unwrap()).unwrap();
    assert!(
        answer.contains("3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n"),
        "{answer}"
    );
    let seen = site.requests().concat().to_ascii_lowercase();
    assert!(
        seen.contains("te: trailers") && !seen.contains("expect"),
        "{seen}"
    );
    assert!(seen.contains("x-end: 1\r\n"), "{seen}");
    assert!(
        seen.contains("hello\r\n") || seen.contains("lo\r\n"),
        "{seen}"
    );
}

#[tokio::test]
async fn a_body_that_a_server_may_not_expect_ends_the_connection_to_it() {
    let site = Site::new(&[REPO]).await;
    for (head, is_last) in [("GET /", true), ("DELETE /", true), ("POST /", false)] {
        let raw = format!(
            "{head} HTTP/1.1\r\nHost: repo.test\r\nContent-Length: 3\r\nConnection: close, content-length\r\n\r\nabc"
        );
        assert!(site.send(ENFORCED, &raw).await.ends_with("hello"));
        let seen = site.requests().pop().unwrap();
        assert!(
            seen.contains("content-length: 3\r\n") && seen.ends_with("abc"),
            "{seen}"
        );
        assert_eq!(seen.contains("connection: close"), is_last, "{seen}");
    }
}

/// Whatever ends the connection behind it, and wherever on the way its end waits for a reader.
#[tokio::test]
async fn the_end_of_an_answer_that_is_read_late_is_not_lost() {
    let site = Site::new(&[REPO]).await;
    for length in (1..=8).map(|step| step << 20) {
        for behind in ["", "GET / HTTP/1.1\r\nHost : x\r\n\r\n"] {
            let close = if behind.is_empty() {
                "Connection: close\r\n"
            } else {
                ""
            };
            let raw =
                format!("GET /large/{length} HTTP/1.1\r\nHost: repo.test\r\n{close}\r\n{behind}");
            let mut stream = site.dial(ENFORCED).await;
            stream.write_all(raw.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            let all = rest(stream).await.unwrap();
            let head = all.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
            let refusal = String::from_utf8_lossy(all.get(head + length..).unwrap_or(b"cut"));
            assert_eq!(refusal.is_empty(), behind.is_empty(), "{length} {refusal}");
            assert!(
                behind.is_empty() || refusal.starts_with("HTTP/1.1 400 "),
                "{length} {refusal}"
            );
        }
    }
}

/// A server that answers before it has heard all: what comes then is still judged.
#[tokio::test]
async fn nothing_is_said_into_an_answer_that_has_begun() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut site = Site::new(&[]).await;
    site.world.upstream = listener.local_addr().unwrap();
    site.rules(3, &[REPO]).await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.read_u8().await.unwrap();
                let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nbegun";
                stream.write_all(begun).await.unwrap();
                drop(stream.read_to_end(&mut Vec::new()).await);
            });
        }
    });
    let post = "POST / HTTP/1.1\r\nHost: repo.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n";
    for policy in [false, true] {
        let mut stream = site.dial(ENFORCED).await;
        stream.write_all(post.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"begun") {
            stream.read_buf(&mut answer).await.unwrap();
        }
        match policy {
            false => stream.write_all(b"3;x\r\nabc\r\n").await.unwrap(),
            true => site.rules(4, &[]).await,
        }
        assert_eq!(rest(stream).await, Err(std::io::ErrorKind::ConnectionReset));
    }
}

#[tokio::test]
async fn who_has_said_all_may_go_on_reading() {
    let mut site = Site::new(&[REPO]).await;
    let mut stream = site.dial(ENFORCED).await;
    let get = b"GET / HTTP/1.1\r\nHost: repo.test\r\n\r\n";
    stream.write_all(get).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = String::from_utf8(rest(stream).await.unwrap()).unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    // Within a body, or a head, it is the end.
    let post = "POST / HTTP/1.1\r\nHost: repo.test\r\nContent-Length: 9\r\n\r\nabc";
    for raw in [post, "GET / HTTP/1.1\r\nHost"] {
        let mut stream = site.dial(ENFORCED).await;
        stream.write_all(raw.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = rest(stream).await.unwrap_or_default();
        assert!(!String::from_utf8_lossy(&answer).contains("hello"));
    }
    assert_eq!(site.world.count("http_truncated").await, 1);
}

#[tokio::test]
async fn an_answer_is_passed_on_whole() {
    let site = Site::new(&[REPO]).await;
    let get =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: repo.test\r\nConnection: close\r\n\r\n");
    let answer = site.send(ENFORCED, &get("/to-the-end")).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.contains("to the end"),
        "{answer}"
    );
    let answer = site.send(ENFORCED, &get("/hop")).await;
    assert!(
        answer.contains("x-kept: 1") && !answer.contains("x-own"),
        "{answer}"
    );
    assert!(!answer.contains("keep-alive"), "{answer}");
    let answer = site.send(ENFORCED, &get("/gone")).await;
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains("upstream_reset"),
        "{answer}"
    );
    let head = "HEAD / HTTP/1.0\r\nHost: repo.test\r\n\r\n";
    let answer = site.send(ENFORCED, head).await;
    assert!(
        answer.contains(" 200 OK") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_websocket_where_policy_allows_one() {
    let ask = "GET /ws HTTP/1.1\r\nHost: repo.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let mut site = Site::new(&[REPO]).await;
    let denied = site.send(ENFORCED, ask).await;
    assert!(denied.contains("websocket_not_allowed"), "{denied}");
    site.rules(3, &[r#"{"hosts": ["repo.test"], "websocket": true}"#])
        .await;
    let mut stream = site.dial(ENFORCED).await;
    // What comes early goes to the server, and nowhere else.
    stream
        .write_all(format!("{ask}early").as_bytes())
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"early") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains("sec-websocket-accept: x"), "{answer}");
    exchange(&mut stream, b"\x81\x03abc").await;
    drop(stream);
    loop {
        let request = site.request().await;
        if request.status == Some(101) {
            assert!(request.websocket);
            assert_eq!((request.bytes_sent, request.bytes_received), (10, 10));
            break;
        }
    }
    // A server that does not agree: the connection goes on, judged.
    let refused = ask.replace("/ws", "/");
    let answers = site
        .send(
            ENFORCED,
            &format!("{refused}GET /x HTTP/1.1\r\nHost: evil.test\r\n\r\n"),
        )
        .await;
    assert!(
        answers.contains("hello") && answers.contains("403 Forbidden"),
        "{answers}"
    );
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

#[tokio::test]
async fn slow_heads_meet_a_deadline() {
    let mut site = Site::new(&[REPO]).await;
    for raw in [
        "GET / HTTP/1.1\r\nHost: re",
        "GET / HTTP/1.1\r\nHost: repo.test\r\n\r\nGET / HT",
    ] {
        let answer = site.send(ENFORCED, raw).await;
        let own = answer.rsplit("HTTP/1.1 ").next().unwrap_or_default();
        assert!(
            own.starts_with("408 ") && own.contains("http_timeout"),
            "{answer}"
        );
    }
    let mut stream = site.dial(ENFORCED).await;
    for byte in b"GET / HTTP/1.1\r\nHost: repo.test\r\nConnection: close\r\n\r\n" {
        stream.write_all(&[*byte]).await.unwrap();
    }
    assert!(String::from_utf8_lossy(&rest(stream).await.unwrap()).contains("hello"));
    let long = format!(
        "GET / HTTP/1.1\r\nHost: repo.test\r\nX: {}",
        "a".repeat(40_000)
    );
    let answer = site.send(ENFORCED, &long).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(site.world.count("http_timeout").await, 2);
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
