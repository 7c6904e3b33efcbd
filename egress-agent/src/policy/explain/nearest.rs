//! Rules that nearly allow what was asked for, and what they lack.

use super::{
    Compiled, Near,
    node::NodeView,
    question::{Destination, Question},
    rule_ref,
};
use crate::policy::{
    ech,
    evaluate::DenyReason,
    grant::{Grant, What, grants},
    host::{HostName, HostPattern},
    http::HttpRule,
    port::PortRange,
    schema::EgressRule,
    select::Policy,
    selection::Selection,
    sources::{List, RuleId, Sources},
};

/// The most that are told of.
const MOST: usize = 8;

/// Of the policies in these places first, then of others that would allow it.
pub(super) fn nearest(
    sources: &Sources,
    places: &[usize],
    question: &Question,
    node: &NodeView,
) -> Vec<Near> {
    let mut all = Vec::new();
    let is_gateways = node.is_gateways(question);
    for (place, policy) in sources.policies.iter().enumerate() {
        if places.contains(&place) {
            if is_gateways {
                all.extend(of_rules(sources, place, policy, question));
            }
            all.extend(of_direct(sources, place, policy, question));
        }
    }
    for (place, policy) in sources.policies.iter().enumerate() {
        if !places.contains(&place) && Compiled::new(sources, &[place]).allows(question, node) {
            let id = rule_id(place, List::Egress, 0);
            let mut rule = rule_ref(sources, id);
            rule.name = policy.name();
            rule.site = sources.policy_site(place);
            let why = format!("would allow it, but selects {}", Selection::of(policy));
            all.push(Near { rule, why });
        }
    }
    all.truncate(MOST);
    all
}

const fn rule_id(policy: usize, list: List, index: usize) -> RuleId {
    RuleId {
        policy,
        list,
        index,
    }
}

/// Rules of `egress`, which the gateway asks.
fn of_rules(sources: &Sources, place: usize, policy: &Policy, question: &Question) -> Vec<Near> {
    let rules = policy.egress().iter().enumerate();
    let near = rules.filter_map(|(index, rule)| {
        Some(Near {
            rule: rule_ref(sources, rule_id(place, List::Egress, index)),
            why: of_rule(rule, question)?,
        })
    });
    near.collect()
}

/// Direct entries, which the kernel asks.
fn of_direct(sources: &Sources, place: usize, policy: &Policy, question: &Question) -> Vec<Near> {
    let Destination::Address(address) = question.to else {
        return Vec::new();
    };
    let near = |grant: Grant| {
        let What::Direct(transport, network) = grant.what else {
            return None;
        };
        let (name, ports) = (transport.name(), shown(&[grant.ports]));
        network.contains(&address).then(|| Near {
            rule: rule_ref(sources, grant.rule),
            why: format!("lets {name} pass to {network}, on {ports}"),
        })
    };
    grants(place, policy).into_iter().filter_map(near).collect()
}

fn of_rule(rule: &EgressRule, question: &Question) -> Option<String> {
    match (&question.to, rule) {
        (Destination::Host(host), EgressRule::Hosts { hosts, ports }) => {
            of_hosts(host, hosts, ports, question)
        }
        (Destination::Host(host), EgressRule::Http { http, ports }) => {
            of_http(host, http, ports, question)
        }
        (Destination::Host(_), EgressRule::Cidrs { cidrs, ports }) => on(ports, question.port)
            .then(|| {
                format!(
                    "allows it by address, where the client dials one in {}",
                    list(cidrs)
                )
            }),
        (Destination::Address(address), EgressRule::Cidrs { cidrs, ports }) => {
            let network = cidrs.iter().find(|it| it.0.contains(address))?;
            let loopback = address.is_loopback();
            Some(match on(ports, question.port) && loopback {
                true => format!("{network} does not open loopback; exec --allow-loopback does"),
                false => format!("allows {network}, on {}", shown(ports)),
            })
        }
        (Destination::Address(_), EgressRule::Hosts { hosts, ports }) => {
            let by_told = on(ports, question.port) && question.port != PortRange::HTTPS.first();
            by_told.then(|| {
                format!(
                    "allows it where the gateway's resolver has told the endpoint this address for {}",
                    list(hosts)
                )
            })
        }
        (Destination::Address(_), EgressRule::Http { .. }) => None,
    }
}

fn of_hosts(
    host: &HostName,
    hosts: &[HostPattern],
    ports: &[PortRange],
    question: &Question,
) -> Option<String> {
    let by_name = |it: &&HostPattern| it.matches(host);
    let Some(pattern) = hosts.iter().find(by_name) else {
        return hosts.iter().find_map(|it| almost(it, host));
    };
    let is_exact = matches!(pattern, HostPattern::Exact(_));
    Some(match (on(ports, question.port), &question.request) {
        (false, _) => format!("allows \"{pattern}\", on {}", shown(ports)),
        (true, Some(_)) => {
            format!("allows \"{pattern}\" by TLS; write \"http\" for requests without TLS")
        }
        (true, None) if ech::is_public_name(host) && !is_exact => format!(
            "\"{pattern}\" does not include a public name of Encrypted Client Hello; write \"{host}\" if it is meant"
        ),
        (true, None) => return None,
    })
}

fn of_http(
    host: &HostName,
    http: &HttpRule,
    ports: &[PortRange],
    question: &Question,
) -> Option<String> {
    let Some(pattern) = http.hosts.iter().find(|it| it.matches(host)) else {
        return http.hosts.iter().find_map(|it| almost(it, host));
    };
    let Some(request) = question.http() else {
        return Some(format!(
            "allows \"{pattern}\" by plain HTTP alone, on {}; write \"hosts\" for TLS",
            shown(ports)
        ));
    };
    if !on(ports, question.port) {
        return Some(format!("allows \"{pattern}\", on {}", shown(ports)));
    }
    let reason = http.judge(&request).err()?;
    let allowed = match reason {
        DenyReason::MethodNotAllowed => format!("methods {}", list(&http.methods)),
        DenyReason::PathNotAllowed => format!("paths {}", list(&http.paths)),
        DenyReason::HeaderNotAllowed => format!("requests with {}", list(&http.headers)),
        DenyReason::WebsocketNotAllowed => "no WebSockets".to_owned(),
        DenyReason::HostNotAllowed
        | DenyReason::EchPublicName
        | DenyReason::AddressNotAllowed
        | DenyReason::PortNotAllowed => return None,
    };
    Some(format!(
        "names \"{pattern}\" and allows {allowed} ({})",
        reason.as_str()
    ))
}

/// A pattern that does not cover the host, but the one above or below it.
fn almost(pattern: &HostPattern, host: &HostName) -> Option<String> {
    match pattern {
        HostPattern::Subdomains(name) if name == host => Some(format!(
            "\"{pattern}\" does not include {host} itself; write \"{host}\" beside it"
        )),
        HostPattern::Exact(name) if host.parents().any(|parent| parent == name.as_str()) => {
            Some(format!(
                "\"{name}\" does not include what is below it; write \"{host}\", or \"*.{name}\""
            ))
        }
        HostPattern::Exact(_) | HostPattern::Subdomains(_) => None,
    }
}

fn on(ports: &[PortRange], port: u16) -> bool {
    ports.iter().any(|range| range.contains(port))
}

fn shown(ports: &[PortRange]) -> String {
    match ports {
        [PortRange::ALL] => "every port".to_owned(),
        [one] if one.first() == one.last() => format!("port {one}"),
        some => format!("ports {}", list(some)),
    }
}

fn list<T: std::fmt::Display>(all: &[T]) -> String {
    const SHOWN: usize = 4;
    let mut names: Vec<_> = all.iter().take(SHOWN).map(ToString::to_string).collect();
    if all.len() > SHOWN {
        names.push(format!("{} more", all.len() - SHOWN));
    }
    names.join(", ")
}
