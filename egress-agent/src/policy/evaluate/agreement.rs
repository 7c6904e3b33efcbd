//! Compiled policies decide as the obvious evaluator does, which asks every rule in turn.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{select, subsequence},
};

use super::*;
use crate::policy::{
    grant::{self, Grant},
    host::HostPattern,
    http::{HeaderPattern, HttpRule},
    path::Path,
    port::PortRange,
    schema::{EgressRule, Network},
    sources::{List, RuleId},
};

/// Names that are often below each other, two of which are public names of ECH.
fn host() -> impl Strategy<Value = HostName> {
    let labels = vec(select(vec!["a", "b", "aa"]), 0..3);
    let base = select(vec![
        "c.test",
        "a.c.test",
        "defo.ie",
        "cover.defo.ie",
        "b.test",
    ]);
    (labels, base).prop_map(|(mut labels, base)| {
        labels.push(base);
        name(&labels.join("."))
    })
}

fn pattern() -> impl Strategy<Value = HostPattern> {
    (host(), any::<bool>()).prop_map(|(host, is_wildcard)| match is_wildcard {
        true => HostPattern::Subdomains(host),
        false => HostPattern::Exact(host),
    })
}

fn port() -> impl Strategy<Value = u16> {
    select(vec![80, 81, 82, 443])
}

fn ports() -> impl Strategy<Value = Vec<PortRange>> {
    let range = (port(), port()).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap());
    vec(range, 1..3)
}

/// Few enough that networks hold them, loopback and both families included.
fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = (select(vec![127, 126, 10, 0]), 0..4u8, 0..4u8);
    let v4 = v4.prop_map(|(a, b, d)| IpAddr::V4(Ipv4Addr::new(a, b, 0, d)));
    let v6 = (select(vec![0, 0x2001]), 0..4u16);
    let v6 = v6.prop_map(|(a, h)| IpAddr::V6(Ipv6Addr::new(a, 0, 0, 0, 0, 0, 0, h)));
    let mapped = (0..4u8).prop_map(|d| IpAddr::V6(Ipv4Addr::new(10, 0, 0, d).to_ipv6_mapped()));
    prop_oneof![4 => v4, 2 => v6, 1 => mapped]
}

fn network() -> impl Strategy<Value = IpNet> {
    (address(), 0..=128u8).prop_map(|(address, bits)| {
        let address = address.to_canonical();
        let most = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, bits.min(most)).unwrap().trunc()
    })
}

fn http() -> impl Strategy<Value = HttpRule> {
    let list = |all: &'static [&'static str]| subsequence(all.to_vec(), 0..=all.len());
    let header = (
        select(vec!["x-a", "x-b"]),
        option::of(select(vec!["1", "2"])),
    );
    let header = header.prop_map(|(name, value)| HeaderPattern {
        name: name.parse().unwrap(),
        value: value.map(str::to_owned),
    });
    let origination = option::of(option::of(select(vec![443, 8443])));
    (
        vec(pattern(), 1..3),
        list(&["GET", "PUT"]),
        list(&["/a", "/a/*", "/*/b", "/b/"]),
        vec(header, 0..2),
        any::<bool>(),
        origination,
    )
        .prop_map(
            |(hosts, methods, paths, headers, websocket, origination)| HttpRule {
                hosts,
                methods: methods.iter().map(|it| it.parse().unwrap()).collect(),
                paths: paths.iter().map(|it| it.parse().unwrap()).collect(),
                headers,
                websocket,
                originate_tls: origination.is_some(),
                upstream_port: origination.flatten(),
            },
        )
}

fn allow() -> impl Strategy<Value = Allow> {
    prop_oneof![
        (vec(pattern(), 1..3), ports()).prop_map(|(hosts, ports)| Allow::Hosts { hosts, ports }),
        (http(), ports()).prop_map(|(http, ports)| Allow::Http { http, ports }),
        (vec(network(), 1..3), ports()).prop_map(|(cidrs, ports)| Allow::Cidrs { cidrs, ports }),
    ]
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    vec(allow(), 0..8).prop_map(|all| {
        let named = all.into_iter().enumerate();
        let rule = |(number, allow): (usize, Allow)| Rule {
            name: number.to_string(),
            allow,
        };
        named.map(rule).collect()
    })
}

fn request() -> impl Strategy<Value = Request> {
    let path = select(vec!["/a", "/a/", "/a/b", "/b/", "/c/b", "/"]);
    let field = (select(vec!["x-a", "x-b"]), select(vec!["1", "2"]));
    let field = field.prop_map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
    let method = select(vec!["GET", "PUT", "get"]);
    (
        host(),
        port(),
        method,
        path,
        vec(field, 0..3),
        any::<bool>(),
    )
        .prop_map(|(host, port, method, path, fields, websocket)| Request {
            host,
            port,
            method: method.to_owned(),
            path: Path::normalise(path.as_bytes()).unwrap(),
            fields,
            websocket,
        })
}

fn on(ports: &[PortRange], port: u16) -> bool {
    ports.iter().any(|range| range.contains(port))
}

/// The best of the rules that allow something, least rank first and then in their order; else the
/// nearest reason.
fn best<'a, T: Ord>(
    rules: impl Iterator<Item = (&'a Rule, Result<T, DenyReason>)>,
    unknown: DenyReason,
) -> Result<String, DenyReason> {
    let (mut allowed, mut reason): (Vec<(T, &str)>, _) = (Vec::new(), unknown);
    for (rule, judged) in rules {
        match judged {
            Ok(rank) => allowed.push((rank, &rule.name)),
            Err(why) => reason = reason.max(why),
        }
    }
    allowed.sort_by(|a, b| a.0.cmp(&b.0));
    allowed
        .first()
        .map(|(_, name)| (*name).to_owned())
        .ok_or(reason)
}

/// How near a pattern is to a host: 0 is the host itself.
fn distance(pattern: &HostPattern, host: &HostName) -> usize {
    match pattern {
        HostPattern::Exact(_) => 0,
        HostPattern::Subdomains(base) => host.as_str().len() - base.as_str().len(),
    }
}

fn naive_name(rules: &[Rule], host: &HostName, port: u16) -> Result<String, DenyReason> {
    let is_public = ech::is_public_name(host);
    let mut judged = Vec::new();
    for rule in rules {
        let Allow::Hosts { hosts, ports } = &rule.allow else {
            continue;
        };
        for pattern in hosts.iter().filter(|it| it.matches(host)) {
            if is_public && matches!(pattern, HostPattern::Subdomains(_)) {
                continue;
            }
            let verdict = match on(ports, port) {
                true => Ok(distance(pattern, host)),
                false => Err(DenyReason::PortNotAllowed),
            };
            judged.push((rule, verdict));
        }
    }
    let unknown = match is_public {
        true => DenyReason::EchPublicName,
        false => DenyReason::HostNotAllowed,
    };
    best(judged.into_iter(), unknown)
}

fn naive_address(rules: &[Rule], address: IpAddr, port: u16) -> Result<String, DenyReason> {
    let address = address.to_canonical();
    let loopback: IpNet = match address {
        IpAddr::V4(_) => "127.0.0.0/8".parse().unwrap(),
        IpAddr::V6(_) => "::1/128".parse().unwrap(),
    };
    let mut judged = Vec::new();
    for rule in rules {
        let Allow::Cidrs { cidrs, ports } = &rule.allow else {
            continue;
        };
        for network in cidrs.iter().filter(|it| it.contains(&address)) {
            if loopback.contains(&address) && !loopback.contains(network) {
                continue;
            }
            let verdict = match on(ports, port) {
                true => Ok(std::cmp::Reverse(network.prefix_len())),
                false => Err(DenyReason::PortNotAllowed),
            };
            judged.push((rule, verdict));
        }
    }
    best(judged.into_iter(), DenyReason::AddressNotAllowed)
}

fn naive_http(rules: &[Rule], request: &Request) -> Result<String, DenyReason> {
    let mut judged = Vec::new();
    for rule in rules {
        let Allow::Http { http, ports } = &rule.allow else {
            continue;
        };
        for pattern in http.hosts.iter().filter(|it| it.matches(&request.host)) {
            let verdict = match on(ports, request.port) {
                true => naive_conditions(http, request),
                false => Err(DenyReason::PortNotAllowed),
            };
            let rank = (!http.originate_tls, distance(pattern, &request.host));
            judged.push((rule, verdict.map(|()| rank)));
        }
    }
    best(judged.into_iter(), DenyReason::HostNotAllowed)
}

/// By the text of what was written.
fn naive_conditions(http: &HttpRule, request: &Request) -> Result<(), DenyReason> {
    let methods: Vec<_> = http.methods.iter().map(ToString::to_string).collect();
    let paths: Vec<_> = http.paths.iter().map(ToString::to_string).collect();
    let fits = |pattern: &String| match (pattern.as_str(), request.path.as_str()) {
        ("/a/*", path) => path.starts_with("/a/"),
        ("/*/b", path) => path == "/a/b" || path == "/c/b",
        (pattern, path) => pattern == path,
    };
    let has = |header: &HeaderPattern| {
        let wanted = String::from(header.name.clone());
        let values: Vec<_> = request
            .fields
            .iter()
            .filter(|(name, _)| *name == wanted)
            .collect();
        let is_value = |value: &[u8]| {
            header
                .value
                .as_ref()
                .is_none_or(|it| it.as_bytes() == value)
        };
        !values.is_empty() && values.iter().all(|(_, value)| is_value(value))
    };
    if !methods.is_empty() && !methods.contains(&request.method) {
        Err(DenyReason::MethodNotAllowed)
    } else if !paths.is_empty() && !paths.iter().any(fits) {
        Err(DenyReason::PathNotAllowed)
    } else if !http.headers.iter().all(has) {
        Err(DenyReason::HeaderNotAllowed)
    } else if request.websocket && !http.websocket {
        Err(DenyReason::WebsocketNotAllowed)
    } else {
        Ok(())
    }
}

fn said(decision: Decision) -> Result<String, DenyReason> {
    match decision {
        Decision::Allow { rule } => Ok(rule.to_string()),
        Decision::Deny(reason) => Err(reason),
    }
}

fn said_http(decision: HttpDecision) -> Result<String, DenyReason> {
    match decision {
        HttpDecision::Allow { rule, .. } => Ok(rule.to_string()),
        HttpDecision::Deny(reason) => Err(reason),
    }
}

proptest! {
    #[test]
    fn names_and_addresses(
        rules in rules(),
        hosts in vec(host(), 8),
        addresses in vec(address(), 8),
        port in port(),
    ) {
        let policy = CompiledPolicy::new(&rules);
        for host in &hosts {
            let ours = said(policy.decide_name(host, port));
            prop_assert_eq!(ours, naive_name(&rules, host, port), "{}:{}", host, port);
        }
        for address in addresses {
            let ours = said(policy.decide_address(address, port));
            prop_assert_eq!(ours, naive_address(&rules, address, port), "{}:{}", address, port);
        }
    }

    #[test]
    fn requests(rules in rules(), requests in vec(request(), 8)) {
        let policy = CompiledPolicy::new(&rules);
        for request in &requests {
            let ours = said_http(policy.decide_http(request));
            prop_assert_eq!(ours, naive_http(&rules, request), "{:?}", request);
            let named = policy.decide_look_up(&request.host).is_ok();
            let by_name = naive_name(&rules, &request.host, request.port);
            let by_request = naive_http(&rules, request);
            let unknown = [DenyReason::HostNotAllowed, DenyReason::EchPublicName].map(Err);
            prop_assert_eq!(named, !unknown.contains(&by_name) || !unknown.contains(&by_request));
        }
    }

    /// What is said to cover something allows all of it.
    #[test]
    fn what_covers_something_allows_it(
        all in vec(allow(), 10),
        hosts in vec(host(), 8),
        addresses in vec(address(), 8),
        requests in vec(request(), 8),
    ) {
        for (wide, narrow) in all.iter().flat_map(|a| all.iter().map(move |b| (a, b))) {
            let theirs = grants(narrow);
            let ours = grants(wide);
            let covers = |it: &Grant| ours.iter().any(|our| {
                our.what.covers(&it.what) && our.ports.covers(it.ports)
            });
            if !theirs.iter().all(covers) {
                continue;
            }
            let (wide, narrow) = (compiled_alone(wide), compiled_alone(narrow));
            for (host, address) in hosts.iter().zip(&addresses) {
                let name = |it: &CompiledPolicy| said(it.decide_name(host, 80)).is_ok();
                prop_assert!(!name(&narrow) || name(&wide), "{}", host);
                let by = |it: &CompiledPolicy| said(it.decide_address(*address, 80)).is_ok();
                prop_assert!(!by(&narrow) || by(&wide), "{}", address);
            }
            for request in &requests {
                let by = |it: &CompiledPolicy| said_http(it.decide_http(request)).is_ok();
                prop_assert!(!by(&narrow) || by(&wide), "{:?}", request);
            }
        }
    }
}

fn compiled_alone(allow: &Allow) -> CompiledPolicy {
    CompiledPolicy::new(&[Rule {
        name: String::new(),
        allow: allow.clone(),
    }])
}

fn grants(allow: &Allow) -> Vec<Grant> {
    let rule = match allow.clone() {
        Allow::Hosts { hosts, ports } => EgressRule::Hosts { hosts, ports },
        Allow::Http { http, ports } => EgressRule::Http { http, ports },
        Allow::Cidrs { cidrs, ports } => EgressRule::Cidrs {
            cidrs: cidrs.into_iter().map(Network).collect(),
            ports,
        },
    };
    let id = RuleId {
        policy: 0,
        list: List::Egress,
        index: 0,
    };
    let mut all = Vec::new();
    grant::egress(id, &rule, &mut all);
    all
}
