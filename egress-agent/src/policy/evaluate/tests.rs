use super::*;
use crate::policy::{
    flag::{allow_cidr, allow_host},
    rule::{Allow, Rule},
};

fn compiled(rules: &[&str]) -> CompiledPolicy {
    CompiledPolicy::new(&parse(rules))
}

fn parse(rules: &[&str]) -> Vec<Rule> {
    let rule = |text: &&str| allow_cidr(text).or_else(|_| allow_host(text)).unwrap();
    rules.iter().map(rule).collect()
}

fn name(text: &str) -> HostName {
    HostName::from_text(text).unwrap()
}

#[test]
fn names() {
    let policy = compiled(&["repo.test", "*.cdn.test:8443", "a.cdn.test"]);
    let allow = |rule: &str| Decision::Allow { rule: rule.into() };
    let table = [
        ("repo.test", 443, allow("--allow repo.test")),
        ("repo.test", 80, Decision::Deny(DenyReason::PortNotAllowed)),
        (
            "a.repo.test",
            443,
            Decision::Deny(DenyReason::HostNotAllowed),
        ),
        ("x.cdn.test", 8443, allow("--allow *.cdn.test:8443")),
        ("x.y.cdn.test", 8443, allow("--allow *.cdn.test:8443")),
        (
            "x.cdn.test",
            443,
            Decision::Deny(DenyReason::PortNotAllowed),
        ),
        ("cdn.test", 8443, Decision::Deny(DenyReason::HostNotAllowed)),
        ("a.cdn.test", 443, allow("--allow a.cdn.test")),
        ("a.cdn.test", 8443, allow("--allow *.cdn.test:8443")),
    ];
    for (host, port, expected) in table {
        assert_eq!(
            policy.decide_name(&name(host), port),
            expected,
            "{host}:{port}"
        );
    }
    assert_eq!(policy.decide_look_up(&name("x.cdn.test")), Ok(()));
    let denied = Err(DenyReason::HostNotAllowed);
    assert_eq!(policy.decide_look_up(&name("cdn.test")), denied);
}

#[test]
fn public_names_of_ech_have_to_be_named() {
    let public = "tls-outer.browserleaks.com";
    let wildcard = compiled(&["*.browserleaks.com", "*.cloudflare-ech.com"]);
    let denied = Decision::Deny(DenyReason::EchPublicName);
    for host in [public, "cloudflare-ech.com"] {
        assert_eq!(wildcard.decide_name(&name(host), 443), denied, "{host}");
        let look_up = wildcard.decide_look_up(&name(host));
        assert_eq!(look_up, Err(DenyReason::EchPublicName), "{host}");
        assert_eq!(compiled(&[]).decide_name(&name(host), 443), denied);
    }
    let look_up = wildcard.decide_look_up(&name("www.browserleaks.com"));
    assert_eq!(look_up, Ok(()));
    let named = compiled(&[public]);
    let rule = format!("--allow {public}").as_str().into();
    assert_eq!(
        named.decide_name(&name(public), 443),
        Decision::Allow { rule }
    );
    let port = Decision::Deny(DenyReason::PortNotAllowed);
    assert_eq!(named.decide_name(&name(public), 80), port);
}

#[test]
fn ports_of_hosts() {
    let policy = compiled(&["repo.test", "db.test:5432", "198.51.100.0/24:8443"]);
    let ports = [443, 5432, 8443].map(|port| policy.has_hosts_on(port));
    assert_eq!(ports, [true, true, false]);
}

#[test]
fn addresses() {
    let policy = compiled(&[
        "198.51.100.0/24:8443",
        "198.51.100.7",
        "[2001:db8::/32]:443",
    ]);
    let rule = |ip: &str, port| match policy.decide_address(ip.parse().unwrap(), port) {
        Decision::Allow { rule } => rule.to_string(),
        Decision::Deny(reason) => reason.as_str().to_owned(),
    };
    assert_eq!(
        rule("198.51.100.9", 8443),
        "--allow-cidr 198.51.100.0/24:8443"
    );
    assert_eq!(rule("198.51.100.7", 8443), "--allow-cidr 198.51.100.7");
    assert_eq!(rule("198.51.100.9", 443), "port_not_allowed");
    assert_eq!(rule("198.51.101.9", 8443), "address_not_allowed");
    assert_eq!(rule("::ffff:198.51.100.7", 1), "--allow-cidr 198.51.100.7");
    assert_eq!(rule("2001:db8::5", 443), "--allow-cidr [2001:db8::/32]:443");
    assert_eq!(rule("2001:db9::5", 443), "address_not_allowed");
}

#[test]
fn loopback_is_meant_only_by_what_lies_within_it() {
    let loopback = "127.0.0.1".parse().unwrap();
    for (networks, allowed) in [
        (&["0.0.0.0/0", "::/0", "126.0.0.0/7"][..], false),
        (&["127.0.0.0/8"], true),
        (&["127.0.0.1:5432"], true),
    ] {
        let decision = compiled(networks).decide_address(loopback, 5432);
        assert_eq!(
            matches!(decision, Decision::Allow { .. }),
            allowed,
            "{networks:?}"
        );
    }
    for (network, allowed) in [("::/0", false), ("::/127", false), ("::1", true)] {
        let decision = compiled(&[network]).decide_address("::1".parse().unwrap(), 5432);
        assert_eq!(
            matches!(decision, Decision::Allow { .. }),
            allowed,
            "{network}"
        );
    }
}

#[test]
fn an_empty_policy_allows_nothing() {
    let policy = CompiledPolicy::default();
    assert!(policy.decide_look_up(&name("a.test")).is_err());
    let decision = policy.decide_address("192.0.2.1".parse().unwrap(), 443);
    assert_eq!(decision, Decision::Deny(DenyReason::AddressNotAllowed));
}

/// A look-up's work: how many tables are asked and entries walked.
fn work(policy: &CompiledPolicy, host: &str, address: IpAddr) -> [usize; 3] {
    [
        policy.name_entries(&name(host)).count(),
        policy.http_entries(&name(host)).count(),
        policy.networks.len() + policy.address_entries(address).count(),
    ]
}

#[test]
fn a_look_up_does_not_cost_more_where_there_are_more_rules() {
    let with = |others: u32| {
        let mut rules = parse(&[
            "a.cdn.test",
            "*.cdn.test",
            "198.51.100.0/24",
            "198.51.100.7",
        ]);
        for number in 0..others {
            let network = std::net::Ipv4Addr::from(0x0a00_0000 + number);
            rules.push(allow_host(&format!("h{number}.cdn.test")).unwrap());
            rules.push(allow_host(&format!("*.w{number}.test")).unwrap());
            rules.push(allow_cidr(&network.to_string()).unwrap());
        }
        CompiledPolicy::new(&rules)
    };
    let address = "198.51.100.7".parse().unwrap();
    let (few, many) = (with(1), with(20_000));
    assert_eq!(work(&few, "a.cdn.test", address), [2, 0, 4]);
    assert_eq!(work(&many, "a.cdn.test", address), [2, 0, 4]);
}

#[path = "agreement.rs"]
mod agreement;
