use super::*;

const HEAD: &str = "apiVersion: egress-agent.dev/v1alpha1\nkind: EgressPolicy\nmetadata: { name: orders, namespace: shop }\n";

fn error(text: &str) -> String {
    load_str(Path::new("p.yaml"), text).unwrap_err().to_string()
}

#[test]
fn the_example_of_the_language_loads() {
    let text = format!(
        "{HEAD}spec:
  selector: {{ serviceAccounts: [orders] }}
  mode: Audit
  egress:
    - hosts: [\"api.payments.test\", \"*.cdn.test\"]
    - hosts: [\"db.vendor.test\"]
      ports: [5432, \"8000-8100\"]
    - cidrs: [\"198.51.100.0/24\"]
      ports: [8443]
    - http: {{ hosts: [\"status.test\"], methods: [GET], paths: [\"/v1/*\"], originateTLS: true }}
    - http:
        hosts: [\"*.hooks.test\"]
        headers: [{{ name: X-Tenant, value: a }}, {{ name: X-Trace }}]
        websocket: true
      ports: [80, 8080]
---
# a comment alone
---
apiVersion: egress-agent.dev/v1alpha1
kind: ClusterEgressPolicy
metadata: {{ name: dns }}
spec:
  selector: {{ namespaces: [shop] }}
  direct:
    - cidrs: [10.96.0.0/12]
      ports: [53]
      protocols: [UDP, TCP]
"
    );
    let policies = load_str(Path::new("p.yaml"), &text).unwrap();
    assert_eq!(policies.len(), 2);
    assert_eq!(policies[0].name(), "EgressPolicy shop/orders");
    assert_eq!(policies[1].name(), "ClusterEgressPolicy dns");
}

#[test]
fn a_kind_is_found_wherever_it_stands() {
    let spec = "spec: { egress: [ { hosts: [a.test] } ] }";
    for kind in [
        "kind: EgressPolicy",
        "kind:   EgressPolicy  ",
        "kind: \"EgressPolicy\"",
        "\"kind\": EgressPolicy",
        "kind: EgressPolicy # a comment",
        "kind:\n  EgressPolicy",
    ] {
        let rest = "apiVersion: egress-agent.dev/v1alpha1\nmetadata: { name: a }";
        for text in [
            format!("{kind}\n{rest}\n{spec}\n"),
            format!("{spec}\n{rest}\n{kind}\n"),
        ] {
            let policies = load_str(Path::new("p.yaml"), &text).unwrap();
            assert_eq!(policies[0].name(), "EgressPolicy a", "{text}");
        }
    }
    // Not the kind, but a name that goes on in the next line.
    let text = "apiVersion: egress-agent.dev/v1alpha1\nmetadata: { name: \"a\nkind: EgressPolicy\n\" }\nkind: ClusterEgressPolicy\nspec: {}\n";
    if let Ok(policies) = load_str(Path::new("p.yaml"), text) {
        assert_eq!(policies[0].kind(), "ClusterEgressPolicy");
        assert!(matches!(policies[0], Policy::Cluster(_)));
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let rule = |rule: &str| format!("{HEAD}spec:\n  egress:\n    - {rule}\n");
    let table = [
        (
            format!("{HEAD}spec: {{}}\nextra: 1\n"),
            "p.yaml:5:1: unknown field \"extra\"; allowed here: apiVersion, kind, metadata, spec",
        ),
        (
            rule("host: [a.test]"),
            "p.yaml:6:7: unknown field \"host\"; allowed here: hosts, ports, http, cidrs",
        ),
        (
            rule("hosts: [\"*\"]"),
            "p.yaml:6:15: \"*\" would allow every host",
        ),
        (
            rule("hosts: [192.0.2.1]"),
            "p.yaml:6:15: \"192.0.2.1\" is an IP address",
        ),
        (rule("cidrs: [192.0.2.1/24]"), "write \"192.0.2.0/24\""),
        (
            rule("cidrs: [nonsense]"),
            "p.yaml:6:15: \"nonsense\" is no network",
        ),
        (rule("{ hosts: [a.test], ports: [0] }"), "from 1 to 65535"),
        (
            rule("{ hosts: [a.test], ports: [70000] }"),
            "from 1 to 65535",
        ),
        (
            rule("{ hosts: [a.test], cidrs: [10.0.0.0/8] }"),
            "exactly one of",
        ),
        (rule("{ ports: [443] }"), "exactly one of"),
        (rule("{ hosts: [] }"), "\"hosts\" is empty"),
        (
            rule("{ http: { hosts: [a.test] }, hosts: [b.test] }"),
            "exactly one of",
        ),
        (rule("http: { hosts: [] }"), "\"hosts\" is empty"),
        (
            rule("http: { hosts: [a.test], methods: [] }"),
            "the list is empty",
        ),
        (
            rule("http: { hosts: [a.test], methods: [get] }"),
            "write \"GET\"",
        ),
        (
            rule("http: { hosts: [a.test], methods: [CONNECT] }"),
            "asks for a tunnel",
        ),
        (
            rule("http: { hosts: [a.test], paths: [v1] }"),
            "p.yaml:6:40: \"v1\" is no path",
        ),
        (
            rule("http: { hosts: [a.test], paths: [\"/a*\"] }"),
            "a whole segment",
        ),
        (
            rule("http: { hosts: [a.test], headers: [{ name: Host }] }"),
            "the gateway's to write",
        ),
        (
            rule("http: { hosts: [a.test], upstreamPort: 8443 }"),
            "is for \"originateTLS: true\"",
        ),
        (
            rule("http: { hosts: [a.test], method: [GET] }"),
            "unknown field \"method\"",
        ),
        (
            format!("{HEAD}spec: {{ mode: Enforced }}\n"),
            "p.yaml:4:15: unknown value \"Enforced\"; allowed here: Enforce, Audit",
        ),
        (
            format!("{HEAD}spec: {{ direct: [] }}\n"),
            "unknown field \"direct\"",
        ),
        (HEAD.replace("v1alpha1", "v9"), "p.yaml:1:13: unknown value"),
        (HEAD.to_owned(), "spec"),
        ("kind: Pod\n".to_owned(), "p.yaml:1:7: unknown kind \"Pod\""),
        ("a: 1\n".to_owned(), "\"kind\" is missing"),
        ("kind: [\n".to_owned(), "p.yaml:"),
        (
            format!("{HEAD}spec: {{}}\n---\nkind: Pod\n"),
            "p.yaml:6:7: unknown kind",
        ),
        (format!("{HEAD}spec: {{}}\nspec: {{}}\n"), "p.yaml:5:1: "),
    ];
    for (text, part) in table {
        let error = error(&text);
        assert!(error.contains(part), "{text}\n-> {error}\nwanted {part}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_file_that_is_not_there() {
    let error = load_files(&["/nonexistent/p.yaml"])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("/nonexistent/p.yaml: cannot be read"),
        "{error}"
    );
}
