//! Bodies, answers and what becomes of a connection with them.

use std::time::Duration;

use egress_agent::gateway::protocol::{FromGateway, ToGateway, write_message};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    http::{REPO, Site, one},
    world::*,
};

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

/// What a rule asks of a head is not said otherwise behind the body.
#[tokio::test]
async fn trailers_do_not_say_again_what_the_head_says() {
    let site = Site::new(&[REPO]).await;
    let raw = "POST / HTTP/1.1\r\nHost: repo.test\r\nX-Tenant: orders\r\nTransfer-Encoding: chunked\r\nTrailer: X-Tenant, X-End\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\nX-Tenant: other\r\nX-End: 1\r\n\r\n";
    assert!(site.send(ENFORCED, raw).await.contains("hello"));
    let seen = site.requests().concat().to_ascii_lowercase();
    assert!(seen.contains("x-end: 1\r\n"), "{seen}");
    assert!(seen.contains("x-tenant: orders\r\n"), "{seen}");
    assert!(!seen.contains("other"), "{seen}");
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
async fn connections_that_nobody_uses_end() {
    let mut site = Site::new(&[REPO]).await;
    // In order between requests, and within one by a reset.
    let mut kept = site.dial(ENFORCED).await;
    kept.write_all(b"GET / HTTP/1.1\r\nHost: repo.test\r\n\r\n")
        .await
        .unwrap();
    one(&mut kept).await;
    assert_eq!(rest(kept).await, Ok(vec![]));
    let mut waits = site.dial(ENFORCED).await;
    waits
        .write_all(b"GET /never HTTP/1.1\r\nHost: repo.test\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(rest(waits).await, Err(std::io::ErrorKind::ConnectionReset));
    loop {
        let request = site.request().await;
        if request.path.as_deref() == Some("/never") {
            assert_eq!(request.close_reason, "idle_timeout");
            assert_eq!(request.status, None);
            break;
        }
    }
}

/// The time for a request begins when the one before is answered.
#[tokio::test]
async fn a_slow_answer_takes_no_time_from_the_next_request() {
    let site = Site::new(&[REPO]).await;
    let mut stream = site.dial(ENFORCED).await;
    // Part of the second is there already; the first takes longer than a head may.
    let both = b"GET /slow HTTP/1.1\r\nHost: repo.test\r\n\r\nGET / HT";
    stream.write_all(both).await.unwrap();
    one(&mut stream).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream
        .write_all(b"TP/1.1\r\nHost: repo.test\r\n\r\n")
        .await
        .unwrap();
    let answer = one(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn a_drain_ends_kept_connections_and_lets_requests_end() {
    let mut site = Site::new(&[REPO]).await;
    let get = b"GET / HTTP/1.1\r\nHost: repo.test\r\n\r\n";
    let mut kept = site.dial(ENFORCED).await;
    kept.write_all(get).await.unwrap();
    one(&mut kept).await;
    let mut posts = site.dial(ENFORCED).await;
    let post = b"POST / HTTP/1.1\r\nHost: repo.test\r\nContent-Length: 3\r\n\r\na";
    posts.write_all(post).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    write_message(&mut site.world.control, &ToGateway::Drain)
        .await
        .unwrap();
    assert_eq!(rest(kept).await, Ok(vec![]));
    posts.write_all(b"bc").await.unwrap();
    let answer = String::from_utf8(rest(posts).await.unwrap()).unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    while site.world.next().await != FromGateway::Drained {}
}
