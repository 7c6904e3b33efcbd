use std::path::Path;

use serde_json::json;

use super::*;
use crate::policy::{compile::CompiledPolicy, evaluate::Decision, sources::Sources};

fn record(kind: &str, verdict: &str, more: serde_json::Value) -> String {
    let mut record = json!({
        "schema": "egress-agent.dev/v1",
        "kind": kind,
        "endpoint": { "id": 1, "name": "shop/orders" },
        "destination": "203.0.113.7",
        "port": 443,
        "verdict": verdict,
    });
    let more = more.as_object().unwrap().clone();
    record.as_object_mut().unwrap().extend(more);
    record.to_string()
}

fn tls(host: &str, verdict: &str) -> String {
    let more = json!({ "application": "tls", "server_name": host });
    record("connection.open", verdict, more)
}

fn compiled(text: &str) -> CompiledPolicy {
    let (sources, errors) = Sources::of_text(Path::new("p.yaml"), text);
    assert!(errors.is_empty(), "{errors:?}\n{text}");
    let identity = parse_identity("shop/orders").unwrap();
    CompiledPolicy::new(&sources.policies.select(&identity).rules)
}

fn suggested(records: &[String], options: &Options) -> String {
    suggest(&records.join("\n"), options).unwrap().text
}

fn allows(policy: &CompiledPolicy, host: &str, port: u16) -> bool {
    let host = HostName::from_text(host).unwrap();
    matches!(policy.decide_name(&host, port), Decision::Allow { .. })
}

#[test]
fn what_is_suggested_loads_and_allows_what_was_seen() {
    let opaque = json!({ "application": "opaque", "port": 5432, "answered_name": "db.test" });
    let address = json!({ "application": "silent", "port": 22, "destination": "::ffff:192.0.2.1" });
    let tunnel = json!({ "application": "tls", "port": 15002, "server_name": "t.test", "tunnel": "t.test:8443" });
    let ask = |method: &str, path: &str| json!({ "server_name": "status.test", "port": 80, "method": method, "path": path });
    let records = [
        tls("a.test", "allow"),
        tls("a.test", "audit"),
        tls("exfil.test", "deny"),
        record("connection.open", "audit", opaque),
        record("connection.open", "audit", address),
        record("connection.open", "allow", tunnel),
        record(
            "connection.open",
            "audit",
            json!({ "application": "http1", "server_name": "x.test" }),
        ),
        record("http.request", "audit", ask("GET", "/v1/a")),
        record("http.request", "audit", ask("PUT", "/v1/b")),
        record("dns", "deny", json!({ "name": "looked-up.test" })),
        String::new(),
    ];
    let text = suggested(&records, &Options::default());
    let policy = compiled(&text);
    for (host, port, expected) in [
        ("a.test", 443, true),
        ("db.test", 5432, true),
        ("t.test", 8443, true),
        ("t.test", 15002, false),
        ("exfil.test", 443, false),
        ("x.test", 443, false),
        ("status.test", 80, false),
    ] {
        assert_eq!(allows(&policy, host, port), expected, "{host}\n{text}");
    }
    let ssh = policy.decide_address("192.0.2.1".parse().unwrap(), 22);
    assert!(matches!(ssh, Decision::Allow { .. }), "{text}");
    for line in [
        "        - \"a.test\" # 2 connections",
        "    #     - \"exfil.test\" # 1 connection",
        "        methods: [\"GET\", \"PUT\"]",
        "        paths: [\"/v1/a\", \"/v1/b\"]",
    ] {
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
    let all = Options {
        denied: true,
        ..Options::default()
    };
    assert!(allows(
        &compiled(&suggested(&records, &all)),
        "exfil.test",
        443
    ));
}

#[test]
fn wildcards_are_written_where_they_are_asked_for() {
    let hosts = [
        "a.cdn.test",
        "b.cdn.test",
        "c.cdn.test",
        "a.test",
        "x.com",
        "y.com",
        "z.com",
    ];
    let records = hosts.map(|host| tls(host, "allow"));
    assert!(!suggested(&records, &Options::default()).contains('*'));
    let options = Options {
        wildcards: true,
        ..Options::default()
    };
    let text = suggested(&records, &options);
    let policy = compiled(&text);
    assert!(
        hosts.iter().all(|host| allows(&policy, host, 443)),
        "{text}"
    );
    assert!(
        allows(&policy, "d.cdn.test", 443) && !allows(&policy, "w.com", 443),
        "{text}"
    );
    assert!(text.contains("\"*.cdn.test\" # 3 connections"), "{text}");
}

#[test]
fn paths_that_cannot_be_written_are_left_out() {
    let ask = |path: &str| {
        let more = json!({ "server_name": "a.test", "port": 80, "method": "GET", "path": path });
        record("http.request", "allow", more)
    };
    let many: Vec<_> = (0..PATHS_MAX + 1)
        .map(|it| ask(&format!("/{it}")))
        .collect();
    let odd = [ask("/a"), ask("/a*")];
    let long = [ask(&format!("/{}", "a".repeat(PATH_CUT)))];
    for records in [&many[..], &odd, &long] {
        let text = suggested(records, &Options::default());
        compiled(&text);
        assert!(
            text.contains("# every path") && !text.contains("paths: ["),
            "{text}"
        );
    }
}

#[test]
fn names_that_mean_something_in_yaml_stay_names() {
    let named = json!({ "endpoint": { "name": "o: {x}/#\"'\n" }, "application": "tls", "server_name": "a.test" });
    let text = suggested(
        &[record("connection.open", "allow", named)],
        &Options::default(),
    );
    let (sources, errors) = Sources::of_text(Path::new("p.yaml"), &text);
    assert!(errors.is_empty(), "{errors:?}\n{text}");
    let identity = parse_identity("o: {x}/#\"'\n").unwrap();
    assert_eq!(sources.policies.select(&identity).rules.len(), 1, "{text}");
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let (place, what) = suggest("\n{]", &Options::default()).unwrap_err();
    assert_eq!((place.line, place.column), (2, 2), "{what}");
    let named = json!({ "endpoint": { "name": "orders" } });
    let record = record("connection.open", "allow", named);
    let (_, what) = suggest(&record, &Options::default()).unwrap_err();
    assert!(what.contains("--config"), "{what}");
    let options = Options {
        endpoints: [("orders".to_owned(), Identity::default())].into(),
        ..Options::default()
    };
    assert!(suggest(&record, &options).is_ok());
}
