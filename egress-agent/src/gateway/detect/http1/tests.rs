use super::*;

fn scan(bytes: &[u8]) -> Detected {
    Scanner::default().advance(bytes)
}

fn request(method: &str) -> Detected {
    Detected::Http1(Method(method.to_owned()))
}

#[test]
fn request_lines() {
    let lines: [(&[u8], Detected); 12] = [
        (b"GET / HTTP/1.1\r\n", request("GET")),
        (b"GET / HTTP/1.0\r\n", request("GET")),
        (
            b"PROPFIND http://a.test:80/?q HTTP/1.1\r\n",
            request("PROPFIND"),
        ),
        (b"OPTIONS * HTTP/1.1\r\n", request("OPTIONS")),
        (b"M-SEARCH * HTTP/1.1\r\n", request("M-SEARCH")),
        ("GET /ü HTTP/1.1\r\n".as_bytes(), request("GET")),
        (b"CONNECT a.test:443 HTTP/1.1\r\n", Detected::Connect),
        (b"PRI * HTTP/2.0\r\n", Detected::Http2),
        (b"GET / HTTP/2.0\r\n", Detected::Opaque),
        (b"GET / HTTP/3.0\r\n", Detected::Opaque),
        (b"GET / http/1.1\r\n", Detected::Opaque),
        (b"GET /HTTP/1.1\r\n", Detected::Opaque),
    ];
    for (line, expected) in lines {
        let shown = String::from_utf8_lossy(line);
        assert_eq!(scan(line), expected, "{shown}");
        let request = [line, b"Host: a.test\r\n\r\n"].concat();
        assert_eq!(scan(&request), expected, "{shown}");
        for end in 0..line.len() {
            assert_eq!(scan(&line[..end]), Detected::NeedMore, "{shown}: {end}");
        }
    }
}

/// What a lenient server might take for a request is one here, so that it is judged as one.
#[test]
fn bad_request_lines_are_requests() {
    let lines: [&[u8]; 9] = [
        b"GET / HTTP/1.1\n",
        b"GET  / HTTP/1.1\r\n",
        b"GET /\tHTTP/1.1\r\n",
        b"GET / HTTP/1.1 \r\n",
        b"GET / HTTP/1.1\r\r\n",
        b"GET /\r HTTP/1.1\r\n",
        b"GET HTTP/1.1\r\n",
        b"GET /a b HTTP/1.1\r\n",
        b"GET / HTTP/1.9\r\n",
    ];
    for line in lines {
        assert_eq!(scan(line), request("GET"), "{}", line.escape_ascii());
    }
}

#[test]
fn what_is_no_line_of_text_is_opaque_at_once() {
    let others: [&[u8]; 11] = [
        b" GET",
        b"get",
        b"SSH-2.0-x",
        b"Connect",
        b"\r\n",
        b"GET\t",
        b"GET\r",
        b"GET\0",
        b"GET /\0",
        b"GET /\x1b",
        b"GET /\x7f",
    ];
    for bytes in others {
        assert_eq!(scan(bytes), Detected::Opaque, "{}", bytes.escape_ascii());
    }
}

#[test]
fn more_is_needed_only_so_far() {
    let method = [b'A'; METHOD_MAX + 1];
    assert_eq!(scan(&method[..METHOD_MAX]), Detected::NeedMore);
    assert_eq!(scan(&method), Detected::Opaque);
    let mut line = b"GET /".to_vec();
    line.resize(REQUEST_LINE_MAX, b'a');
    assert_eq!(scan(&line), Detected::NeedMore);
    line.push(b'a');
    assert_eq!(scan(&line), Detected::Opaque);
    line.truncate(REQUEST_LINE_MAX - 11);
    line.extend(b" HTTP/1.1\r\n");
    assert_eq!(line.len(), REQUEST_LINE_MAX);
    assert_eq!(scan(&line), request("GET"));
}

#[test]
fn one_byte_at_a_time_is_linear_work() {
    let mut line = b"GET /".to_vec();
    line.resize(REQUEST_LINE_MAX, b'a');
    work::take();
    let mut scanner = Scanner::default();
    for end in 0..=line.len() {
        assert_eq!(scanner.advance(&line[..end]), Detected::NeedMore);
    }
    assert_eq!(work::take(), line.len());
}
