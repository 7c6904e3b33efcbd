//! Requests that two programs could read in two ways, and those that never end.

use egress_agent::telemetry::record::Verdict;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    http::{REPO, Site},
    server,
    world::*,
};

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
