use super::*;

fn attempt(verdict: Verdict) -> Attempt {
    Attempt {
        endpoint: EndpointRef {
            id: 7,
            name: "shop/orders".into(),
        },
        process: ProcessRef {
            pid: 42,
            uid: 1000,
            command: "curl".into(),
            executable: None,
            created_ns: 0,
        },
        destination: "192.0.2.7".parse().unwrap(),
        port: 443,
        protocol: Protocol::Tcp,
        verdict,
        reason: None,
    }
}

fn connection() -> Connection {
    Connection {
        application: Some(Application::Tls),
        server_name: Some("repo.test".into()),
        rule: Some("--allow repo.test".into()),
        upstream: Some("192.0.2.7:443".parse().unwrap()),
        alpn: vec!["h2".into()],
        tls_versions: vec!["1.3".into()],
        ja4: Some("t13d1516h2_8daaf6152771_e5627efa2ab1".into()),
        ..Connection::new(1, attempt(Verdict::Allow))
    }
}

#[test]
fn every_kind_survives_json() {
    let events = [
        Event::ConnectionOpen(connection()),
        Event::ConnectionClose(ConnectionClose {
            open: connection(),
            bytes_sent: 10,
            bytes_received: 20,
            duration_ms: 30,
            splice: Some(Splice::NoPipe),
            close_reason: "eof".into(),
        }),
        Event::ConnectionsRepeated(ConnectionsRepeated {
            attempt: attempt(Verdict::Deny),
            repeats: 7,
        }),
        Event::Dns(DnsRefusal {
            attempt: attempt(Verdict::Deny),
            name: "x.evil.test".into(),
            query_type: "TXT".into(),
            answer: None,
            count: 3,
        }),
        Event::Bypass(Bypass {
            attempt: Attempt {
                protocol: Protocol::Other(132),
                ..attempt(Verdict::Deny)
            },
            layer: "tc_ingress".into(),
            repeats: 0,
            others: false,
            length: 60,
            cgroup: None,
        }),
        Event::Lost(Lost {
            source: "perf".into(),
            count: 9,
        }),
        Event::Posture(Posture {
            endpoint: None,
            state: "ready".into(),
            detail: serde_json::Map::new(),
        }),
    ];
    for event in events {
        let record = Record::now(event);
        let json = serde_json::to_string(&record).unwrap();
        assert!(
            json.starts_with("{\"schema\":\"egress-agent.dev/v1\",\"time\":\"20"),
            "{json}"
        );
        assert_eq!(
            serde_json::from_str::<Record>(&json).unwrap(),
            record,
            "{json}"
        );
        assert!(!record.to_string().contains('\n'));
    }
}

#[test]
fn the_fields_are_where_the_schema_says() {
    let record = Record::now(Event::ConnectionOpen(connection()));
    let json = serde_json::to_value(&record).unwrap();
    assert_eq!(json["kind"], "connection.open");
    assert_eq!(json["verdict"], "allow");
    assert_eq!(json["endpoint"]["name"], "shop/orders");
    assert_eq!(json["protocol"], "tcp");
    assert_eq!(json["application"], "tls");
    assert_eq!(json["server_name"], "repo.test");
    assert_eq!(json["tls_versions"][0], "1.3");
    assert_eq!(json["ja4"], "t13d1516h2_8daaf6152771_e5627efa2ab1");
}

#[test]
fn a_terminal_is_not_at_the_mercy_of_comm() {
    let mut open = connection();
    open.attempt.process.command = "\x1b[2J\n".into();
    assert!(
        !Event::ConnectionOpen(open)
            .to_string()
            .contains(['\x1b', '\n'])
    );
}

#[test]
fn a_line_says_what_a_connection_speaks() {
    let mut open = connection();
    (open.ech, open.ech_public_name) = (true, true);
    let line = Event::ConnectionOpen(open).to_string();
    let expected = "tcp 192.0.2.7:443 tls repo.test ech public_name -> 192.0.2.7:443 by --allow repo.test \
                    ja4 t13d1516h2_8daaf6152771_e5627efa2ab1";
    assert!(line.ends_with(expected), "{line}");
}

/// Each stands in a line as it does in JSON.
#[test]
fn applications_have_one_name() {
    use Application as A;
    for application in [A::Tls, A::Http1, A::Connect, A::Http2, A::Opaque, A::Silent] {
        let json = serde_json::to_value(application).unwrap();
        assert_eq!(json, application.to_string());
    }
}
