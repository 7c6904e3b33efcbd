use proptest::prelude::*;

use super::*;
use crate::policy::{host::HostNameError, path::PathError};

fn says(raw: &[u8]) -> Result<Head, Bad> {
    match end(raw, 0)? {
        Some(end) => parse(&raw[..end], 80),
        None => Err(Bad::Truncated),
    }
}

#[test]
fn what_a_request_says() {
    let head = says(b"POST /a/../v1//x?q=a[]|b HTTP/1.1\r\nHost: STATUS.test.:80\r\nContent-Length: 5\r\nX-Tenant: \t a \r\nConnection: keep-alive, X-Own\r\nX-Own: b\r\nTE: trailers\r\n\r\n").unwrap();
    assert_eq!(head.request.to_string(), "POST status.test/v1/x");
    assert_eq!(head.query, "?q=a[]|b");
    assert_eq!(head.framing, Framing::Length(5));
    let names: Vec<_> = head.request.fields.iter().map(|it| it.0.as_str()).collect();
    assert_eq!(names, ["host", "content-length", "x-tenant"]);
    assert_eq!(head.request.fields[2].1, b"a");

    for (raw, path) in [
        (
            &b"GET http://status.test HTTP/1.1\r\nHost: status.test\r\n\r\n"[..],
            "/",
        ),
        (
            b"GET HTTP://Status.test:80/v1?x HTTP/1.1\r\nHost: status.test\r\n\r\n",
            "/v1",
        ),
        (b"OPTIONS * HTTP/1.0\r\nHost: status.test\r\n\r\n", "*"),
        (
            b"PURGE / HTTP/1.1\r\nhost:status.test\r\nExpect: 100-Continue\r\n\r\n",
            "/",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: status.test\r\nUpgrade: TLS/1.0\r\n\r\n",
            "/",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: status.test\r\nContent-Length: 0\r\n\r\n",
            "/",
        ),
    ] {
        let head = says(raw).unwrap();
        assert_eq!(head.request.path.as_str(), path);
        assert_eq!(head.framing, Framing::Empty);
        assert!(!head.request.websocket);
    }
    let upgrade = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n";
    assert!(says(upgrade).unwrap().request.websocket);
    let chunked = b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: Chunked\r\n\r\n";
    assert_eq!(says(chunked).unwrap().framing, Framing::Chunked);
}

/// Every way to be ambiguous, with its raw bytes and the reason that is its own.
#[test]
fn what_is_refused() {
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
    let line = |line: &str| format!("{line}\r\nHost: a.test\r\n\r\n");
    let host = |host: &str| format!("GET / HTTP/1.1\r\n{host}\r\n");
    let table = [
        // Who is asked.
        (host(""), Bad::NoHost),
        (host("Host:\r\n"), Bad::NoHost),
        (host("Host: a.test\r\nHost: a.test\r\n"), Bad::SeveralHosts),
        (host("Host: a.test\r\nhOST: b.test\r\n"), Bad::SeveralHosts),
        (line("GET http://b.test/ HTTP/1.1"), Bad::TargetDisagrees),
        (host("Host: a.test:81\r\n"), Bad::Port),
        (host("Host: a.test:080\r\n"), Bad::Port),
        (host("Host: a.test:\r\n"), Bad::Port),
        (
            line("GET http://a.test:443/ HTTP/1.1"),
            Bad::TargetDisagrees,
        ),
        (line("GET https://a.test/ HTTP/1.1"), Bad::Scheme),
        (line("GET http://b.test@a.test/ HTTP/1.1"), Bad::Scheme),
        (
            host("Host: b@a.test\r\n"),
            Bad::Host(HostNameError::Character),
        ),
        (
            host("Host: 203.0.113.7\r\n"),
            Bad::Host(HostNameError::IpLiteral),
        ),
        (
            host("Host: [2001:db8::1]:80\r\n"),
            Bad::Host(HostNameError::IpLiteral),
        ),
        (
            host("Host: a.test, b.test\r\n"),
            Bad::Host(HostNameError::Character),
        ),
        (
            host("Host: a.test/x\r\n"),
            Bad::Host(HostNameError::Character),
        ),
        // Where the body ends.
        (
            post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
            Bad::LengthAndEncoding,
        ),
        (
            post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"),
            Bad::LengthAndEncoding,
        ),
        (
            post("Transfer-Encoding: xchunked\r\nContent-Length: 3\r\n"),
            Bad::LengthAndEncoding,
        ),
        (
            post("Content-Length: 3\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
            Bad::LengthAndEncoding,
        ),
        (post("Transfer-Encoding: xchunked\r\n"), Bad::Encoding),
        (post("Transfer-Encoding: gzip, chunked\r\n"), Bad::Encoding),
        (
            post("Transfer-Encoding: chunked, identity\r\n"),
            Bad::Encoding,
        ),
        (
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
            Bad::Encoding,
        ),
        (post("Transfer-Encoding:\r\n"), Bad::Encoding),
        (post("Transfer-Encoding: \u{b}chunked\r\n"), Bad::FieldValue),
        (
            "POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            Bad::Encoding,
        ),
        (
            get("Transfer-Encoding: chunked\r\n"),
            Bad::EncodingOfBodiless,
        ),
        (
            "OPTIONS / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            Bad::EncodingOfBodiless,
        ),
        (
            post("Content-Length: 3\r\nContent-Length: 3\r\n"),
            Bad::SeveralLengths,
        ),
        (
            post("Content-Length: 3\r\nContent-Length: 4\r\n"),
            Bad::SeveralLengths,
        ),
        (post("Content-Length: 010\r\n"), Bad::Length),
        (post("Content-Length: 00\r\n"), Bad::Length),
        (post("Content-Length: +3\r\n"), Bad::Length),
        (post("Content-Length: -3\r\n"), Bad::Length),
        (post("Content-Length: 3, 3\r\n"), Bad::Length),
        (post("Content-Length: 0x3\r\n"), Bad::Length),
        (post("Content-Length: 3 3\r\n"), Bad::Length),
        (post("Content-Length:\r\n"), Bad::Length),
        (
            post("Content-Length: 18446744073709551616\r\n"),
            Bad::Length,
        ),
        // Where a line ends, and what a field is.
        ("GET / HTTP/1.1\nHost: a.test\r\n\r\n".into(), Bad::BareLf),
        ("GET / HTTP/1.1\r\nHost: a.test\n\r\n".into(), Bad::BareLf),
        ("GET / HTTP/1.1\r\nHost: a.test\r\n\n".into(), Bad::BareLf),
        ("GET / HTTP/1.1\rHost: a.test\r\n\r\n".into(), Bad::BareCr),
        (
            "GET / HTTP/1.1\r\r\nHost: a.test\r\n\r\n".into(),
            Bad::BareCr,
        ),
        (get("X: a\rContent-Length: 3\r\n"), Bad::BareCr),
        (get("X: a\r\n b\r\n"), Bad::Fold),
        (get("X: a\r\n\tb\r\n"), Bad::Fold),
        ("GET / HTTP/1.1\r\n Host: a.test\r\n\r\n".into(), Bad::Fold),
        (get("X: a\0b\r\n"), Bad::Nul),
        ("GET /\0 HTTP/1.1\r\nHost: a.test\r\n\r\n".into(), Bad::Nul),
        (post("Content-Length : 3\r\n"), Bad::SpaceBeforeColon),
        (
            post("Transfer-Encoding\t: chunked\r\n"),
            Bad::SpaceBeforeColon,
        ),
        (get("X Y: a\r\n"), Bad::FieldName),
        (get("no colon\r\n"), Bad::FieldName),
        (get(": a\r\n"), Bad::FieldName),
        (get("X\u{e9}: a\r\n"), Bad::FieldName),
        (get("X: \u{1}\r\n"), Bad::FieldValue),
        (get("X: \u{7f}\r\n"), Bad::FieldValue),
        // Other protocols.
        ("PRI * HTTP/2.0\r\n\r\n".into(), Bad::PriorKnowledge),
        (
            get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"),
            Bad::H2cUpgrade,
        ),
        (get("Upgrade: H2C\r\n"), Bad::H2cUpgrade),
        (
            get("Upgrade: websocket, h2c\r\nConnection: upgrade\r\n"),
            Bad::H2cUpgrade,
        ),
        (get("HTTP2-Settings: AAMA\r\n"), Bad::H2cUpgrade),
        (get("Upgrade: websocket\r\n"), Bad::Upgrade),
        (
            get("Upgrade: websocket, x\r\nConnection: upgrade\r\n"),
            Bad::Upgrade,
        ),
        (
            get("Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 3\r\n"),
            Bad::Upgrade,
        ),
        (
            post("Upgrade: websocket\r\nConnection: upgrade\r\n"),
            Bad::Upgrade,
        ),
        (line("GET / HTTP/2.0"), Bad::Version),
        (line("GET / HTTP/1.2"), Bad::Version),
        (line("GET / HTTP/0.9"), Bad::Version),
        (line("GET /"), Bad::RequestLine),
        (line("GET  / HTTP/1.1"), Bad::RequestLine),
        (line("GET / HTTP/1.1 "), Bad::RequestLine),
        (line("GET /a b HTTP/1.1"), Bad::RequestLine),
        (line("GET\t/ HTTP/1.1"), Bad::RequestLine),
        (line("GET * HTTP/1.1"), Bad::RequestLine),
        (line("GET a.test HTTP/1.1"), Bad::RequestLine),
        (line("G(T / HTTP/1.1"), Bad::RequestLine),
        (line("GET / http/1.1"), Bad::RequestLine),
        (
            "\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n".into(),
            Bad::RequestLine,
        ),
        (get("Expect: 200-ok\r\n"), Bad::Expect),
        // What is asked for.
        (
            line("GET /a%2fb HTTP/1.1"),
            Bad::Path(PathError::EncodedSlash),
        ),
        (
            line("GET /%2e%2e/b HTTP/1.1"),
            Bad::Path(PathError::EncodedDots),
        ),
        (line("GET /a%00 HTTP/1.1"), Bad::Path(PathError::Control)),
        (line("GET /a\\b HTTP/1.1"), Bad::Path(PathError::Backslash)),
        (line("GET /%zz HTTP/1.1"), Bad::Path(PathError::Percent)),
        (line("GET /#b HTTP/1.1"), Bad::Path(PathError::Character)),
        (line("GET /?a#b HTTP/1.1"), Bad::Query),
        (
            line("GET http://a.test#b HTTP/1.1"),
            Bad::Path(PathError::NoSlash),
        ),
        (get(&"X: a\r\n".repeat(100)), Bad::ManyFields),
        (
            get(&format!("X: {}\r\n", "a".repeat(HEAD_MAX))),
            Bad::LongHead,
        ),
        ("GET / HTTP/1.1\r\nHost: a.test\r\n".into(), Bad::Truncated),
    ];
    let mut reasons: Vec<_> = table.iter().map(|(_, bad)| bad.reason()).collect();
    for (raw, expected) in table {
        assert_eq!(says(raw.as_bytes()), Err(expected), "{raw:?}");
    }
    reasons.sort_unstable();
    reasons.dedup();
    assert!(reasons.len() >= 30, "each its own: {reasons:?}");
}

#[test]
fn the_end_is_found_wherever_it_was_looked_for() {
    let raw = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\nnext";
    for from in 0..32 {
        assert_eq!(end(raw, from), Ok(Some(32)), "{from}");
    }
    assert_eq!(end(&raw[..31], 0), Ok(None));
}

fn head() -> impl Strategy<Value = Vec<u8>> {
    let part = prop::sample::select(vec![
        "GET ",
        "POST ",
        "/",
        "http://a.test/",
        " HTTP/1.1\r\n",
        " HTTP/1.0\r\n",
        "Host: a.test\r\n",
        "host:b.test\r\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "X: a\r\n",
        " ",
        "\t",
        "\r",
        "\n",
        "\0",
        ":",
        "X",
        "\u{e9}",
        "?",
        "%41",
        "Connection: close\r\n",
        "\r\n",
    ]);
    let random = prop::collection::vec(part.clone(), 0..12);
    let valid = prop::collection::vec(part, 0..4);
    prop_oneof![
        random.prop_map(|parts| parts.concat().into_bytes()),
        (valid, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(parts, at, byte)| {
            let text = format!("GET /x HTTP/1.1\r\nHost: a.test\r\n{}\r\n", parts.concat());
            let mut bytes = text.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        }),
    ]
}

proptest! {
    /// What passes here, the library behind it reads in the same way.
    #[test]
    fn agrees_with_an_independent_parser(raw in head()) {
        let Ok(head) = says(&raw) else { return Ok(()) };
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut other = httparse::Request::new(&mut fields);
        let end = end(&raw, 0).unwrap().unwrap();
        let parsed = other.parse(&raw);
        prop_assert_eq!(parsed, Ok(httparse::Status::Complete(end)), "{}", raw.escape_ascii());
        prop_assert_eq!(other.method, Some(head.request.method.as_str()));
        let hosts: Vec<_> = other.headers.iter().filter(|it| it.name.eq_ignore_ascii_case("host")).collect();
        prop_assert_eq!(hosts.len(), 1);
        let host = String::from_utf8_lossy(hosts[0].value).to_ascii_lowercase();
        prop_assert_eq!(host.trim_end_matches(":80").trim_end_matches('.'), head.request.host.as_str());
        let lengths = other.headers.iter().filter(|it| it.name.eq_ignore_ascii_case("content-length"));
        let length: u64 = lengths.map(|it| String::from_utf8_lossy(it.value).parse::<u64>().unwrap()).sum();
        let ours = match head.framing {
            Framing::Length(length) => length,
            Framing::Empty | Framing::Chunked => 0,
        };
        prop_assert_eq!(length, ours);
    }

    #[test]
    fn nothing_panics(raw in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(says(&raw));
    }
}
