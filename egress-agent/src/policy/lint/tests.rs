use std::{net::IpAddr, path::Path};

use super::*;

/// `level kind line:column`, of one file.
fn found(text: &str, known: Option<&Known>) -> Vec<(String, String)> {
    let (sources, errors) = Sources::of_text(Path::new("p.yaml"), text);
    assert!(errors.is_empty(), "{errors:?}\n{text}");
    let line = |it: &Finding| {
        let (level, kind, site) = (it.level.as_str(), it.kind.as_str(), &it.site);
        let at = format!("{level} {kind} {}:{}", site.line, site.column);
        assert!(!it.message.contains('\n'), "{}", it.message);
        (at, it.message.clone())
    };
    lint(&sources, known).iter().map(line).collect()
}

const HEAD: &str = "apiVersion: egress-agent.dev/v1alpha1\nkind: EgressPolicy\nmetadata: { name: orders, namespace: shop }\nspec:\n";
const CLUSTER: &str = "apiVersion: egress-agent.dev/v1alpha1\nkind: ClusterEgressPolicy\nmetadata: { name: base }\nspec:\n";

fn of_rules(head: &str, list: &str, rules: &[&str]) -> Vec<(String, String)> {
    let rules: String = rules.iter().map(|it| format!("    - {it}\n")).collect();
    found(&format!("{head}  {list}:\n{rules}"), None)
}

#[test]
fn what_a_rule_is_warned_about() {
    for (rules, expected) in [
        (&["hosts: [a.test, b.test]"][..], &[][..]),
        (&["hosts: [\"*.cdn.test\", cdn.test]"], &[]),
        (
            &["hosts: [\"*.cdn.test\"]", "http: { hosts: [cdn.test] }"],
            &[],
        ),
        (
            &["hosts: [\"*.cdn.test\"]"],
            &["note wildcard_without_name 6:15"],
        ),
        (
            &["hosts: [\"*.cdn.test\", cdn.test, a.cdn.test]"],
            &["warning shadowed 6:39"],
        ),
        (
            &["hosts: [a.test]", "hosts: [a.test]"],
            &["warning shadowed 7:7"],
        ),
        (
            &[
                "hosts: [a.test]",
                "{ hosts: [a.test], ports: [\"400-500\"] }",
            ],
            &["warning shadowed 6:7"],
        ),
        (
            &["hosts: [a.test]", "{ hosts: [a.test], ports: [80] }"],
            &[],
        ),
        (
            &["{ hosts: [a.test], ports: [853] }"],
            &["warning matches_nothing 6:7"],
        ),
        (&["{ hosts: [a.test], ports: [853, 854] }"], &[]),
        (
            &["{ cidrs: [192.0.2.1], ports: [53] }"],
            &["warning matches_nothing 6:7"],
        ),
        (
            &["cidrs: [192.0.2.1, 169.254.169.254, 224.0.0.0/8, \"ff02::/16\"]"],
            &[
                "warning matches_nothing 6:26",
                "warning matches_nothing 6:43",
                "warning matches_nothing 6:56",
            ],
        ),
        (&["cidrs: [127.0.0.1]"], &[]),
        (&["cidrs: [0.0.0.0/0]"], &["warning wide 6:15"]),
        (
            &["cidrs: [\"2000::/3\", \"fc00::/7\", 10.0.0.0/8]"],
            &["warning wide 6:15"],
        ),
        // It does not open loopback.
        (
            &["cidrs: [0.0.0.0/0]", "cidrs: [127.0.0.1]"],
            &["warning wide 6:15"],
        ),
        (
            &[
                "cidrs: [10.0.0.0/8]",
                "{ cidrs: [10.1.0.0/16], ports: [22] }",
            ],
            &["warning shadowed 7:7"],
        ),
        (
            &[
                "http: { hosts: [a.test] }",
                "http: { hosts: [a.test], methods: [GET] }",
            ],
            &["warning shadowed 7:7"],
        ),
        (
            &[
                "http: { hosts: [a.test], paths: [\"/v1/*\"], headers: [{ name: A }] }",
                "http: { hosts: [a.test], paths: [/v1/a] }",
            ],
            &[],
        ),
        (
            &[
                "http: { hosts: [a.test], paths: [\"/v1/*\"], headers: [{ name: A }] }",
                "http: { hosts: [a.test], paths: [/v1/a], headers: [{ name: A, value: b }] }",
            ],
            &["warning shadowed 7:7"],
        ),
        // A request that both allow goes by TLS.
        (
            &[
                "http: { hosts: [a.test] }",
                "http: { hosts: [a.test], originateTLS: true }",
            ],
            &[],
        ),
        // A wildcard does not name it.
        (
            &["hosts: [\"*.browserleaks.com\", browserleaks.com, tls-outer.browserleaks.com]"],
            &[],
        ),
    ] {
        let found = of_rules(HEAD, "egress", rules);
        let at: Vec<_> = found.iter().map(|(at, _)| at.as_str()).collect();
        assert_eq!(at, expected, "{rules:?} {found:?}");
    }
}

#[test]
fn direct_entries() {
    for (rule, expected) in [
        (
            "{ cidrs: [10.96.0.10], ports: [53], protocols: [UDP] }",
            &["warning matches_nothing 6:7"][..],
        ),
        ("{ cidrs: [10.0.0.0/8], ports: [\"1-1024\"] }", &[]),
        (
            "{ cidrs: [10.0.0.0/8], ports: [\"1-1025\"] }",
            &["error too_many_ports 6:7"],
        ),
        ("{ cidrs: [10.0.0.0/8], ports: [\"1-65535\"] }", &[]),
        ("cidrs: [0.0.0.0/0]", &["warning wide 6:15"]),
        (
            "cidrs: [10.0.0.0/8, 10.1.0.0/16]",
            &["warning shadowed 6:27"],
        ),
    ] {
        let found = of_rules(CLUSTER, "direct", &[rule]);
        let at: Vec<_> = found.iter().map(|(at, _)| at.as_str()).collect();
        assert_eq!(at, expected, "{rule} {found:?}");
    }
}

#[test]
fn only_who_selects_all_of_another_puts_it_in_the_shadow() {
    let rule = "  egress: [{ hosts: [a.test] }]\n";
    let wide = format!("{CLUSTER}{rule}");
    let narrow = format!("{HEAD}{rule}");
    let shadowed = found(&format!("{wide}---\n{narrow}"), None);
    assert_eq!(shadowed[0].0, "warning shadowed 11:12", "{shadowed:?}");
    assert!(
        shadowed[0].1.contains("ClusterEgressPolicy base egress[0]"),
        "{shadowed:?}"
    );
    let other = narrow.replace("namespace: shop", "namespace: web");
    let both = found(&format!("{narrow}---\n{other}"), None);
    assert_eq!(both, [], "neither selects the other's");
}

#[test]
fn two_of_one_name() {
    let found = found(
        &format!("{HEAD}  mode: Audit\n---\n{HEAD}  mode: Audit\n"),
        None,
    );
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, "warning duplicate_name 9:11");
}

#[test]
fn what_only_a_configuration_tells() {
    let known = Known {
        endpoints: vec![Identity {
            namespace: Some("shop".into()),
            ..Identity::default()
        }],
        node: NodeView {
            cluster: vec!["10.0.0.0/8".parse().unwrap()],
            ..NodeView::default()
        },
    };
    let text = format!("{HEAD}  egress: [{{ cidrs: [10.1.0.0/16] }}]\n");
    assert_eq!(found(&text, None), []);
    let cluster = found(&text, Some(&known));
    assert_eq!(cluster[0].0, "warning matches_nothing 5:22");
    assert!(cluster[0].1.contains("\"direct\""), "{cluster:?}");
    let other = text.replace("shop", "shpo");
    let selected = found(&other, Some(&known));
    assert_eq!(selected[0].0, "warning selects_nothing 3:11");
    assert!(selected[0].1.contains("selects shpo/*"), "{selected:?}");
}

#[test]
fn a_network_of_one_address_is_judged_as_the_kernel_does() {
    let node = NodeView::default();
    for (address, denied) in [("192.0.2.1", false), ("240.0.0.1", true), ("fe80::1", true)] {
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(
            denied_throughout(&node, address.into()).is_some(),
            denied,
            "{address}"
        );
    }
    for network in ["0.0.0.0/0", "224.0.0.0/3", "169.0.0.0/8", "::/0"] {
        assert_eq!(
            denied_throughout(&node, network.parse().unwrap()),
            None,
            "{network}"
        );
    }
}
