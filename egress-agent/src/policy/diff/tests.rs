use std::path::Path;

use super::*;
use crate::policy::load::load_str;

/// One policy of namespace shop, and what comes in `spec`.
fn namespaced(spec: &str) -> String {
    format!(
        "---\napiVersion: egress-agent.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{ name: a, namespace: shop }}\nspec: {{ {spec} }}\n"
    )
}

fn cluster(spec: &str) -> String {
    format!(
        "---\napiVersion: egress-agent.dev/v1alpha1\nkind: ClusterEgressPolicy\nmetadata: {{ name: b }}\nspec: {{ {spec} }}\n"
    )
}

fn policies(text: &str) -> Policies {
    let mut policies = Policies::default();
    policies.add(load_str(Path::new("p.yaml"), text).unwrap());
    policies
}

/// A line for each change: `shop/* + *.cdn.test 443`.
fn changes(before: &str, after: &str) -> Vec<String> {
    let diff = diff(&policies(before), &policies(after));
    let mut lines = Vec::new();
    for of in &diff.selections {
        let selection = &of.selection;
        if let Some((before, after)) = of.mode {
            lines.push(format!("{selection} {before:?}→{after:?}"));
        }
        for (sign, changes) in [("+", &of.allowed), ("-", &of.denied)] {
            lines.extend(changes.iter().map(|it| {
                let ports: Vec<_> = it.ports.iter().map(ToString::to_string).collect();
                let but_for: String = it.but_for.iter().map(|it| format!(" !{it}")).collect();
                format!(
                    "{selection} {sign} {} {}{but_for}",
                    it.what,
                    ports.join(",")
                )
            }));
        }
        lines.extend(
            of.covered
                .iter()
                .map(|it| format!("{selection} = {} by {}", it.what, it.by.join(","))),
        );
    }
    assert_eq!(diff.is_empty(), lines.iter().all(|it| it.contains(" = ")));
    lines
}

fn of_egress(before: &str, after: &str) -> Vec<String> {
    let spec = |egress: &str| namespaced(&format!("egress: [{egress}]"));
    let there = changes(&spec(before), &spec(after));
    let count = |lines: &[String], sign: &str| lines.iter().filter(|it| it.contains(sign)).count();
    let back = changes(&spec(after), &spec(before));
    assert_eq!(count(&there, " + "), count(&back, " - "));
    assert_eq!(count(&there, " - "), count(&back, " + "));
    there
}

#[test]
fn what_only_moved_is_no_difference() {
    for (before, after) in [
        (
            "{ hosts: [a.test, b.test] }",
            "{ hosts: [b.test] }, { hosts: [a.test] }",
        ),
        (
            "{ hosts: [a.test], ports: [\"80-90\"] }",
            "{ hosts: [a.test], ports: [\"85-90\", 80] }, { hosts: [a.test], ports: [\"81-84\"] }",
        ),
        (
            "{ cidrs: [10.0.0.0/24], ports: [22] }",
            "{ cidrs: [10.0.0.0/25, 10.0.0.128/25], ports: [22] }",
        ),
        (
            "{ http: { hosts: [a.test], methods: [GET, PUT], paths: [/a, /b] } }",
            "{ http: { hosts: [a.test], methods: [PUT], paths: [/b, /a] } }, { http: { hosts: [a.test], methods: [GET], paths: [/a, /b] } }",
        ),
    ] {
        assert_eq!(of_egress(before, after), [""; 0], "{before} {after}");
    }
}

#[test]
fn what_becomes_allowed_and_denied() {
    for (before, after, expected) in [
        (
            "{ hosts: [a.test] }",
            "{ hosts: [b.test] }",
            &["+ b.test 443", "- a.test 443"][..],
        ),
        (
            "{ hosts: [a.cdn.test] }",
            "{ hosts: [\"*.cdn.test\"] }",
            &["+ *.cdn.test 443 !a.cdn.test", "= a.cdn.test by *.cdn.test"],
        ),
        (
            "{ hosts: [\"*.cdn.test\", a.cdn.test] }",
            "{ hosts: [\"*.cdn.test\"] }",
            &["= a.cdn.test by *.cdn.test"],
        ),
        (
            "{ hosts: [cdn.test] }",
            "{ hosts: [\"*.cdn.test\"] }",
            &["+ *.cdn.test 443", "- cdn.test 443"],
        ),
        (
            "{ hosts: [a.test], ports: [\"80-90\"] }",
            "{ hosts: [a.test], ports: [\"84-95\", 1] }",
            &["+ a.test 1,91-95", "- a.test 80-83"],
        ),
        (
            "{ cidrs: [10.0.0.0/8] }",
            "{ cidrs: [10.1.0.0/16], ports: [22] }",
            &["- 10.0.0.0/8 1-65535 !10.1.0.0/16"],
        ),
        (
            "{ http: { hosts: [a.test], paths: [\"/v1/*\"] } }",
            "{ http: { hosts: [a.test], paths: [/v1/a] } }",
            &["- http a.test/v1/* 80 !http a.test/v1/a"],
        ),
        (
            "{ http: { hosts: [a.test] } }",
            "{ http: { hosts: [a.test], originateTLS: true } }",
            &["+ http a.test by TLS to port 443 80", "- http a.test 80"],
        ),
        (
            "{ hosts: [\"*.cloudflare-ech.com\", cloudflare-ech.com] }",
            "{ hosts: [\"*.cloudflare-ech.com\"] }",
            &["- cloudflare-ech.com 443"],
        ),
    ] {
        let expected: Vec<_> = expected.iter().map(|it| format!("shop/* {it}")).collect();
        let found = of_egress(before, after);
        assert_eq!(found, expected, "{before} {after}");
    }
}

#[test]
fn direct_entries_and_answers_are_compared() {
    let before = cluster("direct: [{ cidrs: [10.1.0.0/16], protocols: [TCP, UDP], ports: [80] }]");
    let after = cluster(
        "direct: [{ cidrs: [10.1.0.0/16], ports: [80] }], replies: [{ from: [10.2.0.0/16] }]",
    );
    assert_eq!(
        changes(&before, &after),
        [
            "*/* + answers TCP 10.2.0.0/16 1-65535",
            "*/* - direct UDP 10.1.0.0/16 80"
        ]
    );
}

#[test]
fn a_rule_of_a_wider_selection_counts_for_those_within() {
    let own =
        namespaced("selector: { serviceAccounts: [orders, web] }, egress: [{ hosts: [a.test] }]");
    let all = cluster("egress: [{ hosts: [a.test] }]");
    let both = own.clone() + &all;
    assert_eq!(changes(&own, &both), ["*/* + a.test 443"]);
    // Said once, of the widest.
    assert_eq!(changes(&both, ""), ["*/* - a.test 443"]);
    assert_eq!(changes(&own, &all), ["*/* + a.test 443"]);
    assert_eq!(changes(&all, &own), ["*/* - a.test 443"]);
    let one = namespaced("selector: { serviceAccounts: [web] }, egress: [{ hosts: [a.test] }]");
    assert_eq!(changes(&own, &one), ["shop/orders - a.test 443"]);
}

#[test]
fn modes() {
    let audit = namespaced("mode: Audit");
    assert_eq!(changes(&audit, &namespaced("")), ["shop/* Audit→Enforce"]);
    assert_eq!(changes(&audit, ""), ["shop/* Audit→Enforce"]);
    assert_eq!(changes("", &namespaced("")), [""; 0]);
}

#[test]
fn sets_of_ports() {
    let ports = |text: &str| -> Vec<PortRange> {
        let parts = text.split(',').filter(|it| !it.is_empty());
        parts.map(|it| it.parse().unwrap()).collect()
    };
    for (all, less, left) in [
        ("1-65535", "1-65535", ""),
        ("1-65535", "80", "1-79,81-65535"),
        ("80-90", "70-80,90-99", "81-89"),
        ("80", "81", "80"),
        ("1,65535", "2-65534", "1,65535"),
        ("5-9", "", "5-9"),
    ] {
        assert_eq!(
            difference(&ports(all), &ports(less)),
            ports(left),
            "{all} {less}"
        );
    }
    assert_eq!(
        union(&ports("90,80-88,89,1,60000-65535,65535")),
        ports("1,80-90,60000-65535")
    );
}
