use std::path::Path;

use super::{question::Spoken, *};
use crate::policy::{rule::Transport, selection::parse_identity};

const TEXT: &str = "
apiVersion: egress-agent.dev/v1alpha1
kind: EgressPolicy
metadata: { name: orders, namespace: shop }
spec:
  selector: { serviceAccounts: [orders] }
  egress:
    - hosts: [\"api.payments.test\", \"*.cdn.test\"]
    - hosts: [db.vendor.test]
      ports: [5432]
    - http: { hosts: [status.test], methods: [GET], paths: [\"/v1/*\"], originateTLS: true }
    - cidrs: [198.51.100.0/24]
      ports: [8443]
    - hosts: [proxy.test]
      ports: [8080]
---
apiVersion: egress-agent.dev/v1alpha1
kind: EgressPolicy
metadata: { name: orders, namespace: web }
spec:
  mode: Audit
  egress:
    - hosts: [web.test]
---
apiVersion: egress-agent.dev/v1alpha1
kind: ClusterEgressPolicy
metadata: { name: base }
spec:
  selector: { namespaces: [shop] }
  direct:
    - cidrs: [10.1.0.0/16]
      ports: [8080]
    - cidrs: [10.1.0.9]
";

fn ask(from: &str, to: &str, request: Option<Spoken>, transport: Transport) -> Explanation {
    let (sources, errors) = Sources::of_text(Path::new("p.yaml"), TEXT);
    assert!(errors.is_empty(), "{errors:?}");
    let subject = Subject {
        identity: parse_identity(from).unwrap(),
        mode: None,
        node: NodeView {
            cluster: vec!["10.0.0.0/8".parse().unwrap()],
            ..NodeView::default()
        },
    };
    let question = Question::new(to, transport, request).unwrap();
    explain(&sources, &subject, &question).unwrap()
}

/// `allow rule line`, or `deny reason`.
fn short(found: &Explanation) -> String {
    let verdict = found.verdict.as_str();
    match (&found.rule, found.reason) {
        (Some(rule), _) => format!("{verdict} {} {}", rule.name, rule.site.line),
        (None, Some(reason)) => format!("{verdict} {reason}"),
        (None, None) => verdict.to_owned(),
    }
}

#[test]
fn verdicts_and_what_is_nearest() {
    for (from, to, expected, near) in [
        (
            "shop/orders",
            "api.payments.test",
            "allow EgressPolicy shop/orders egress[0] 8",
            "",
        ),
        (
            "shop/orders",
            "A.b.cdn.test.",
            "allow EgressPolicy shop/orders egress[0] 8",
            "",
        ),
        (
            "shop/orders",
            "cdn.test",
            "deny host_not_allowed",
            "\"*.cdn.test\" does not include cdn.test itself",
        ),
        (
            "shop/orders",
            "api.payments.test:8443",
            "deny port_not_allowed",
            "allows \"api.payments.test\", on port 443",
        ),
        (
            "shop/orders",
            "eu.api.payments.test",
            "deny host_not_allowed",
            "write \"eu.api.payments.test\", or \"*.api.payments.test\"",
        ),
        (
            "shop/orders",
            "x.test:8443",
            "deny host_not_allowed",
            "dials one in 198.51.100.0/24",
        ),
        (
            "shop/orders",
            "web.test",
            "deny host_not_allowed",
            "selects web/*",
        ),
        (
            "shop/web",
            "api.payments.test",
            "deny host_not_allowed",
            "selects shop/orders",
        ),
        (
            "shop/orders",
            "status.test",
            "deny host_not_allowed",
            "by plain HTTP alone, on port 80",
        ),
        (
            "shop/orders",
            "db.vendor.test:5432",
            "allow EgressPolicy shop/orders egress[1] 9",
            "",
        ),
        ("shop/orders", "dot.test:853", "deny encrypted_dns", ""),
        (
            "shop/orders",
            "198.51.100.7:8443",
            "allow EgressPolicy shop/orders egress[3] 12",
            "",
        ),
        (
            "shop/orders",
            "198.51.100.7:443",
            "deny port_not_allowed",
            "allows 198.51.100.0/24, on port 8443",
        ),
        (
            "shop/orders",
            "192.0.2.1:5432",
            "deny address_not_answered",
            "told the endpoint this address for db.vendor.test",
        ),
        (
            "shop/orders",
            "192.0.2.1:22",
            "deny address_not_allowed",
            "",
        ),
        (
            "shop/orders",
            "10.1.2.3:8080",
            "allow ClusterEgressPolicy base direct[0] 31",
            "",
        ),
        (
            "shop/orders",
            "10.1.0.9:8080",
            "allow ClusterEgressPolicy base direct[1] 33",
            "",
        ),
        (
            "shop/orders",
            "10.1.2.3:80",
            "deny cluster",
            "lets TCP pass to 10.1.0.0/16, on port 8080",
        ),
        ("web/a", "10.1.2.3:8080", "audit cluster", "selects shop/*"),
        (
            "web/a",
            "web.test:80",
            "audit port_not_allowed",
            "on port 443",
        ),
        ("-/a", "web.test", "deny host_not_allowed", "selects web/*"),
        (
            "shop/orders",
            "169.254.169.254:80",
            "deny metadata_service",
            "",
        ),
        ("shop/orders", "127.0.0.1:80", "deny loopback", ""),
    ] {
        let found = ask(from, to, None, Transport::Tcp);
        assert_eq!(short(&found), expected, "{from} {to}");
        match near {
            "" => assert_eq!(found.nearest, [], "{from} {to}"),
            near => assert!(
                found.nearest.iter().any(|it| it.why.contains(near)),
                "{from} {to}: {:?}",
                found.nearest
            ),
        }
    }
}

#[test]
fn requests() {
    for (to, method, path, expected, near) in [
        (
            "status.test",
            "GET",
            "/v1/a",
            "allow EgressPolicy shop/orders egress[2] 11",
            "",
        ),
        (
            "status.test",
            "POST",
            "/v1/a",
            "deny method_not_allowed",
            "methods GET",
        ),
        (
            "status.test",
            "GET",
            "/v1/../a",
            "deny path_not_allowed",
            "paths /v1/*",
        ),
        (
            "status.test:8080",
            "GET",
            "/v1/a",
            "deny port_not_allowed",
            "on port 80",
        ),
        (
            "api.payments.test:443",
            "GET",
            "/",
            "deny host_not_allowed",
            "by TLS",
        ),
        // What no rule of HTTP allows is opaque.
        (
            "proxy.test:8080",
            "GET",
            "/",
            "allow EgressPolicy shop/orders egress[4] 14",
            "",
        ),
        (
            "198.51.100.7:8443",
            "GET",
            "/",
            "allow EgressPolicy shop/orders egress[3] 12",
            "",
        ),
    ] {
        let spoken = Spoken::new(Some(method), Some(path), &[], false).unwrap();
        let found = ask("shop/orders", to, Some(spoken), Transport::Tcp);
        assert_eq!(short(&found), expected, "{method} {to}{path}");
        let mut nearest = found.nearest.iter();
        assert!(
            near.is_empty() || nearest.any(|it| it.why.contains(near)),
            "{to}: {found:?}"
        );
    }
}

#[test]
fn datagrams() {
    for (to, expected) in [
        ("api.payments.test", "deny quic"),
        ("192.0.2.1:5000", "deny direct_udp"),
        ("10.1.0.9:8080", "deny cluster"),
    ] {
        let found = ask("shop/orders", to, None, Transport::Udp);
        assert_eq!(short(&found), expected, "{to}");
    }
}

#[test]
fn dns_is_for_no_rule() {
    let (sources, _) = Sources::of_text(Path::new("p.yaml"), TEXT);
    let question = Question::new("192.0.2.1:53", Transport::Udp, None).unwrap();
    let error = explain(&sources, &Subject::default(), &question).unwrap_err();
    assert!(error.contains("resolver"), "{error}");
}

#[test]
fn two_policies_of_one_name_are_told_apart() {
    let twice = format!(
        "{TEXT}---{}",
        TEXT.split("---").next().unwrap().replace("api.", "other.")
    );
    let (sources, errors) = Sources::of_text(Path::new("p.yaml"), &twice);
    assert!(errors.is_empty(), "{errors:?}");
    let subject = Subject {
        identity: parse_identity("shop/orders").unwrap(),
        ..Subject::default()
    };
    let question = Question::new("other.payments.test", Transport::Tcp, None).unwrap();
    let found = explain(&sources, &subject, &question).unwrap();
    let rule = found.rule.unwrap();
    assert_eq!(
        (rule.name.as_str(), rule.site.line),
        ("EgressPolicy shop/orders egress[0]", 41)
    );
}
