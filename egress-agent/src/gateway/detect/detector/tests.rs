use super::*;
use crate::gateway::detect::captured::{self, Capture};

fn detect(bytes: &[u8]) -> Detected {
    Detector::default().advance(bytes)
}

fn http1(detected: &Detected) -> Option<&str> {
    match detected {
        Detected::Http1(method) => Some(method.as_str()),
        Detected::NeedMore
        | Detected::Tls(_)
        | Detected::TlsWithoutName(_)
        | Detected::BadName(..)
        | Detected::Malformed(_)
        | Detected::Sslv2
        | Detected::Connect
        | Detected::Http2
        | Detected::Opaque => None,
    }
}

#[test]
fn real_clients_are_told_apart() {
    for Capture { name, bytes, .. } in captured::all() {
        let detected = detect(&bytes);
        match name.as_str() {
            "http_curl_post" => assert_eq!(http1(&detected), Some("POST")),
            "h2c_curl" => assert_eq!(http1(&detected), Some("GET")),
            "connect_curl" => assert_eq!(detected, Detected::Connect),
            "h2_curl" => assert_eq!(detected, Detected::Http2),
            "opaque_ssh" => assert_eq!(detected, Detected::Opaque),
            "openssl_noname" => assert!(matches!(detected, Detected::TlsWithoutName(_))),
            http if http.starts_with("http_") => assert_eq!(http1(&detected), Some("GET")),
            tls => assert!(matches!(detected, Detected::Tls(_)), "{tls}: {detected:?}"),
        }
    }
}

/// Whatever was decided on a prefix is what is decided on all of it, and it does not matter in
/// which two reads it came, nor whether it came one byte at a time.
#[test]
fn every_prefix_and_every_split_of_what_real_clients_send() {
    for Capture { name, bytes, .. } in captured::all() {
        let whole = detect(&bytes);
        let decided = (0..=bytes.len()).find(|&end| detect(&bytes[..end]) != Detected::NeedMore);
        let decided = decided.expect("the whole is decided");
        for end in 0..=bytes.len() {
            let mut detector = Detector::default();
            let first = detector.advance(&bytes[..end]);
            if end < decided {
                assert_eq!(first, Detected::NeedMore, "{name}: {end}");
                assert_eq!(detector.advance(&bytes), whole, "{name}: {end}");
            } else {
                assert_eq!(first, whole, "{name}: {end}");
            }
        }
        let mut detector = Detector::default();
        for end in 0..decided {
            let detected = detector.advance(&bytes[..end]);
            assert_eq!(detected, Detected::NeedMore, "{name}: {end}");
        }
        assert_eq!(detector.advance(&bytes[..decided]), whole, "{name}");
    }
}

/// A hello is decided by its last byte, a request by the end of its line, a banner by what no method
/// has.
#[test]
fn nothing_is_decided_early_or_late() {
    for Capture { name, bytes, hello } in captured::all() {
        let line = || bytes.iter().position(|&byte| byte == b'\n');
        let lower = || bytes.iter().position(u8::is_ascii_lowercase);
        let expected = match hello {
            Some(_) => bytes.len(),
            None if name.starts_with("opaque") => lower().expect("a banner has") + 1,
            None => line().expect("everything else is text") + 1,
        };
        assert_eq!(detect(&bytes[..expected - 1]), Detected::NeedMore, "{name}");
        assert_ne!(detect(&bytes[..expected]), Detected::NeedMore, "{name}");
    }
}

/// What the clients of other protocols begin with.
#[test]
fn other_protocols_are_opaque() {
    let others: [(&str, &[u8]); 24] = [
        ("SSH", b"SSH-2.0-OpenSSH_9.2p1\r\n"),
        ("SMTP", b"EHLO client.test\r\n"),
        ("SMTP, pipelined", b"HELO a\r\nMAIL FROM:<a@b.test>\r\n"),
        ("POP3", b"USER a\r\n"),
        ("IMAP", b"a1 LOGIN a b\r\n"),
        ("FTP", b"USER anonymous\r\n"),
        ("IRC", b"NICK a\r\nUSER a 0 * :a\r\n"),
        ("Redis, inline", b"PING\r\n"),
        ("Redis, inline, with a key", b"GET /key\r\n"),
        ("Redis", b"*1\r\n$4\r\nPING\r\n"),
        ("memcached", b"get key\r\n"),
        ("PostgreSQL, SSLRequest", b"\0\0\0\x08\x04\xd2\x16\x2f"),
        (
            "PostgreSQL",
            b"\0\0\0\x23\0\x03\0\0user\0a\0database\0b\0\0",
        ),
        ("MySQL", b"\x54\0\0\x01\x8d\xa2\x0b\0\0\0\0\x01"),
        ("MongoDB", b"\x41\0\0\0\x01\0\0\0\0\0\0\0\xd4\x07\0\0"),
        ("AMQP", b"AMQP\0\0\x09\x01"),
        ("MQTT", b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04test"),
        ("Kafka", b"\0\0\0\x14\0\x12\0\0\0\0\0\x01\0\x01a\0\0\0\0\0"),
        ("SOCKS5", b"\x05\x01\0"),
        ("BitTorrent", b"\x13BitTorrent protocol"),
        ("RTSP", b"OPTIONS rtsp://a.test/ RTSP/1.0\r\n"),
        ("SIP", b"OPTIONS sip:a.test SIP/2.0\r\n"),
        ("ICAP", b"REQMOD icap://a.test/ ICAP/1.0\r\n"),
        ("HTTP/0.9", b"GET /\r\n"),
    ];
    for (protocol, bytes) in others {
        assert_eq!(detect(bytes), Detected::Opaque, "{protocol}");
        let mut detector = Detector::default();
        let found = (0..bytes.len())
            .map(|end| detector.advance(&bytes[..end]))
            .find(|detected| *detected != Detected::NeedMore);
        assert!(matches!(found, None | Some(Detected::Opaque)), "{protocol}");
    }
}

#[test]
fn what_may_be_tls_is_not_what_may_be_http() {
    for first in 0..=u8::MAX {
        let detected = detect(&[first]);
        match first {
            21 | 22 | 0x80.. => assert_eq!(detected, Detected::NeedMore, "{first:#x}"),
            _ if http1::may_begin_with(first) => {
                assert_eq!(detected, Detected::NeedMore, "{first:#x}");
                assert!(!may_be_tls(&[first]));
            }
            _ => assert_eq!(detected, Detected::Opaque, "{first:#x}"),
        }
    }
    assert!(may_be_tls(&[22]) && may_be_tls(&[0x80]));
    assert!(!may_be_tls(&[]));
}
