use super::*;
use crate::{
    gateway::detect::{captured, detector::Detector},
    telemetry::record::{Attempt, EndpointRef, ProcessRef, Protocol, Verdict},
};

fn told(outcome: &Outcome) -> Connection {
    let attempt = Attempt {
        endpoint: EndpointRef::default(),
        process: ProcessRef::default(),
        destination: [192, 0, 2, 7].into(),
        port: 443,
        protocol: Protocol::Tcp,
        verdict: Verdict::Deny,
        reason: None,
    };
    let mut record = Connection::new(1, attempt);
    outcome.tell(&mut record);
    record
}

fn of(bytes: &[u8]) -> Connection {
    told(&Outcome::Decided(Detector::default().advance(bytes)))
}

#[test]
fn a_hello_is_told_of_with_and_without_a_name() {
    for (capture, expected) in captured::hellos() {
        let record = of(&capture.bytes);
        assert_eq!(record.application, Some(Application::Tls));
        assert_eq!(record.tls_versions, expected.versions());
        assert_eq!(record.server_name, expected.server_name);
        assert_eq!(record.alpn, expected.alpn);
        assert_eq!(record.ech, expected.ech);
        assert_eq!(record.ja4, Some(expected.ja4));
    }
}

#[test]
fn every_outcome_has_its_application() {
    let outcomes = [
        (Outcome::Silent, Some(Application::Silent)),
        (Outcome::Nothing, None),
        (Outcome::Timeout, Some(Application::Tls)),
        (Outcome::Truncated, Some(Application::Tls)),
        (Outcome::NoRoom, Some(Application::Tls)),
        (Outcome::RequestTimeout, Some(Application::Opaque)),
    ];
    for (outcome, expected) in outcomes {
        assert_eq!(told(&outcome).application, expected, "{outcome:?}");
    }
    let decided: [(&[u8], Application); 6] = [
        (b"GET / HTTP/1.1\r\n", Application::Http1),
        (b"CONNECT a.test:1 HTTP/1.1\r\n", Application::Connect),
        (b"PRI * HTTP/2.0\r\n", Application::Http2),
        (b"SSH-2.0-x\r\n", Application::Opaque),
        (b"\x80\x2e\x01\x03\x01", Application::Tls),
        (b"\x16\x03\x01\x00\x00", Application::Tls),
    ];
    for (bytes, expected) in decided {
        let record = of(bytes);
        assert_eq!(
            record.application,
            Some(expected),
            "{}",
            bytes.escape_ascii()
        );
        assert_eq!(record.ja4, None);
    }
}
