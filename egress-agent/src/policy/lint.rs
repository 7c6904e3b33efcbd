//! What is written in policies and is probably not meant.

use std::collections::{BTreeMap, BTreeSet};

use egress_common::verdict::{DropReason, Verdict};
use ipnet::IpNet;

use super::{
    explain::node::NodeView,
    grant::{Grant, Index, What, grants},
    host::HostPattern,
    port::PortRange,
    rule::{DIRECT_PORTS_MAX, Transport},
    select::{Identity, Policy},
    selection::Selection,
    sources::{List, RuleId, Sources},
};

mod finding;

pub use finding::{Finding, Kind, Level};

/// Networks of fewer bits, of IPv4 and IPv6, are wide: 10.0.0.0/8 is the largest private network
/// (RFC 1918), and few providers have more of IPv6 than a /20.
const WIDE: (u8, u8) = (8, 20);

/// What is known of where the policies will be in force.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The endpoints.
    pub endpoints: Vec<Identity>,
    /// The node.
    pub node: NodeView,
}

/// All findings, in the order of files and lines. Of what is not `known`, nothing is said.
pub fn lint(sources: &Sources, known: Option<&Known>) -> Vec<Finding> {
    let policies: Vec<_> = sources.policies.iter().collect();
    let places = policies.iter().enumerate();
    let grants: Vec<_> = places
        .flat_map(|(place, policy)| self::grants(place, policy))
        .collect();
    let lint = Lint {
        sources,
        known,
        index: Index::new(grants.iter().map(|grant| &grant.what)),
        selections: policies.iter().map(|it| Selection::of(it)).collect(),
        grants,
    };
    let mut found = Vec::new();
    lint.names(&policies, &mut found);
    lint.selectors(&policies, &mut found);
    lint.rules(&mut found);
    found.sort_by(|a, b| a.site.cmp(&b.site));
    found
}

struct Lint<'a> {
    sources: &'a Sources,
    known: Option<&'a Known>,
    /// Of all policies, in their order.
    grants: Vec<Grant>,
    index: Index,
    /// By the policy's place.
    selections: Vec<Selection>,
}

impl Lint<'_> {
    fn names(&self, policies: &[&Policy], found: &mut Vec<Finding>) {
        let mut first = BTreeMap::new();
        for (place, policy) in policies.iter().enumerate() {
            let name = policy.name();
            if let Some(other) = first.get(&name) {
                found.push(Finding {
                    level: Level::Warning,
                    kind: Kind::DuplicateName,
                    site: self.sources.policy_site(place),
                    message: format!(
                        "{name} is also at {}, and records cannot tell them apart; give one another name",
                        self.sources.policy_site(*other)
                    ),
                });
                continue;
            }
            first.insert(name, place);
        }
    }

    fn selectors(&self, policies: &[&Policy], found: &mut Vec<Finding>) {
        let Some(known) = self.known else { return };
        for (place, policy) in policies.iter().enumerate() {
            if known.endpoints.iter().any(|it| policy.selects(it)) {
                continue;
            }
            found.push(Finding {
                level: Level::Warning,
                kind: Kind::SelectsNothing,
                site: self.sources.policy_site(place),
                message: format!(
                    "{} selects {}, which is no endpoint of the configuration; correct the selector, the namespace or the endpoint",
                    policy.name(),
                    self.selections[place]
                ),
            });
        }
    }

    fn rules(&self, found: &mut Vec<Finding>) {
        let mut rest = self.grants.iter().enumerate().peekable();
        while let Some((start, first)) = rest.next() {
            let mut end = start + 1;
            while rest.next_if(|(_, it)| it.rule == first.rule).is_some() {
                end += 1;
            }
            self.rule(start..end, found);
        }
    }

    /// What one rule grants is together.
    fn rule(&self, places: std::ops::Range<usize>, found: &mut Vec<Finding>) {
        let grants = &self.grants[places.clone()];
        let id = grants[0].rule;
        let mut push = |level, kind, item: Option<usize>, what: &str| {
            let site = match item {
                Some(item) => self.sources.item_site(id, item),
                None => self.sources.rule_site(id),
            };
            let message = format!("{}: {what}", self.sources.rule_name(id));
            found.push(Finding {
                level,
                kind,
                site,
                message,
            });
        };
        if let Some(ports) = grants.iter().find_map(too_many_ports) {
            let what = format!(
                "{ports} ports in one entry; write up to {DIRECT_PORTS_MAX}, or leave \"ports\" out for all"
            );
            push(Level::Error, Kind::TooManyPorts, None, &what);
        }
        if let Some(why) = grants
            .iter()
            .map(never_by_port)
            .reduce(Option::and)
            .flatten()
        {
            return push(Level::Warning, Kind::MatchesNothing, None, why);
        }
        let shadows: Vec<_> = places.map(|place| self.shadow(place)).collect();
        if shadows.iter().all(Option::is_some) {
            let by: BTreeSet<_> = shadows.into_iter().flatten().collect();
            let what = format!(
                "allows nothing that {} not allow; leave it out",
                self.do_it(&by, id)
            );
            return push(Level::Warning, Kind::Shadowed, None, &what);
        }
        let mut items: BTreeMap<usize, Vec<(&Grant, Option<usize>)>> = BTreeMap::new();
        for (grant, shadow) in grants.iter().zip(shadows) {
            items.entry(grant.item).or_default().push((grant, shadow));
        }
        for (item, parts) in items {
            let what = &parts[0].0.what;
            if let Some(why) = self.never(what) {
                push(Level::Warning, Kind::MatchesNothing, Some(item), &why);
            } else if parts.iter().all(|(_, shadow)| shadow.is_some()) {
                let by = parts.iter().filter_map(|(_, shadow)| *shadow).collect();
                let name = shown(what);
                let what = format!(
                    "{name} allows nothing that {} not allow; leave it out",
                    self.do_it(&by, id)
                );
                push(Level::Warning, Kind::Shadowed, Some(item), &what);
            } else if let Some(why) = wide(what) {
                push(Level::Warning, Kind::Wide, Some(item), &why);
            } else if let Some(why) = self.without_name(&parts) {
                push(Level::Note, Kind::WildcardWithoutName, Some(item), &why);
            }
        }
    }

    /// Another grant that allows all of this one to all whom it is for. Of two that are the same,
    /// the later one is in the shadow.
    fn shadow(&self, place: usize) -> Option<usize> {
        let grant = &self.grants[place];
        let mut covering = self.index.covering(&grant.what);
        covering.find(|&other| {
            other != place
                && self.is_within(grant, &self.grants[other])
                && (other < place || !self.is_within(&self.grants[other], grant))
        })
    }

    fn is_within(&self, grant: &Grant, other: &Grant) -> bool {
        let (ours, theirs) = (grant.rule.policy, other.rule.policy);
        other.ports.covers(grant.ports)
            && other.what.covers(&grant.what)
            && (ours == theirs || self.selections[theirs].covers(&self.selections[ours]))
    }

    /// `"*.cdn.test" of this rule does`, `EgressPolicy shop/orders egress[0] (p.yaml:7:7) does`.
    fn do_it(&self, by: &BTreeSet<usize>, own: RuleId) -> String {
        let name = |place: &usize| {
            let other = &self.grants[*place];
            match other.rule == own {
                true => format!("{} of this rule", shown(&other.what)),
                false => {
                    let site = self.sources.rule_site(other.rule);
                    format!("{} ({site})", self.sources.rule_name(other.rule))
                }
            }
        };
        let names: BTreeSet<_> = by.iter().map(name).collect();
        let verb = if names.len() == 1 { "does" } else { "do" };
        let names: Vec<_> = names.into_iter().collect();
        format!("{} {verb}", names.join(" and "))
    }

    /// Why nothing can go there.
    fn never(&self, what: &What) -> Option<String> {
        let What::Network(network) = what else {
            return None;
        };
        let node = self
            .known
            .map(|known| known.node.clone())
            .unwrap_or_default();
        let reason = denied_throughout(&node, *network)?;
        // `exec` may have loopback lead to the gateway.
        (reason != DropReason::Loopback).then(|| match reason == DropReason::Cluster {
            true => format!(
                "{network} is of the cluster, where nothing goes through the gateway; write it under \"direct\" of a ClusterEgressPolicy"
            ),
            false => format!(
                "{network} never reaches the gateway: the kernel denies it as {}; leave it out",
                reason.name()
            ),
        })
    }

    fn without_name(&self, parts: &[(&Grant, Option<usize>)]) -> Option<String> {
        let (grant, _) = parts.first()?;
        let Some(HostPattern::Subdomains(name)) = grant.what.host() else {
            return None;
        };
        let ours = grant.rule.policy;
        let for_all = |place: &usize| {
            let theirs = self.grants[*place].rule.policy;
            self.selections[theirs].covers(&self.selections[ours])
        };
        let itself = What::Host(HostPattern::Exact(name.clone()));
        let connections = self.index.covering(&itself);
        let mut named = connections.chain(self.index.exact_requests(name));
        if named.any(|place| for_all(&place)) {
            return None;
        }
        Some(format!(
            "\"*.{name}\" does not include {name} itself; write \"{name}\" beside it if that is meant"
        ))
    }
}

fn shown(what: &What) -> String {
    format!("\"{what}\"")
}

fn too_many_ports(grant: &Grant) -> Option<u32> {
    let count = grant.ports.count();
    let written_out = grant.rule.list != List::Egress && grant.ports != PortRange::ALL;
    (written_out && count > DIRECT_PORTS_MAX).then_some(count)
}

/// Why nothing comes by this port.
fn never_by_port(grant: &Grant) -> Option<&'static str> {
    let port = (grant.ports.first() == grant.ports.last()).then_some(grant.ports.first())?;
    match (grant.rule.list, port) {
        (List::Egress, 53) => Some(
            "port 53 reaches no rule, since all DNS goes to the gateway's resolver, but by CONNECT to the gateway as a proxy; leave the port out",
        ),
        (List::Egress, 853) => Some(
            "port 853 does not reach the gateway, since the kernel denies it as encrypted_dns, but by CONNECT to it as a proxy; leave the port out",
        ),
        (List::Direct, 53) => Some(
            "port 53 is never direct: all DNS goes to the gateway's resolver; leave the port out",
        ),
        (List::Egress | List::Direct | List::Replies, _) => None,
    }
}

/// Where every address of a network is denied by the kernel, why.
fn denied_throughout(node: &NodeView, network: IpNet) -> Option<DropReason> {
    let of = |address| match node.kernel(address, 443, Transport::Tcp, &[]).0 {
        Verdict::Deny(reason) => Some(reason),
        Verdict::Allow | Verdict::Redirect(_) => None,
    };
    let (first, last) = (of(network.network())?, of(network.broadcast())?);
    // What is denied is in blocks of addresses, and a network with both ends in the same one is
    // within it, but for the widest.
    let wide = network.prefix_len() < 4;
    (first == last && !wide).then_some(first)
}

fn wide(what: &What) -> Option<String> {
    let network = match what {
        What::Network(network) | What::Direct(_, network) => *network,
        What::Reply(..) | What::Host(_) | What::Request(..) => return None,
    };
    let (is_wide, whole) = match network {
        IpNet::V4(net) => (net.prefix_len() < WIDE.0, "IPv4"),
        // Unique local addresses are all the cluster's own (RFC 4193).
        IpNet::V6(net) => (
            net.prefix_len() < WIDE.1 && !net.network().is_unique_local(),
            "IPv6",
        ),
    };
    let unseen = match what {
        What::Direct(..) => "beside the gateway, unmonitored",
        What::Network(_) | What::Host(_) | What::Request(..) | What::Reply(..) => {
            "whatever server name is asked for"
        }
    };
    if !is_wide {
        return None;
    }
    let part = match network.prefix_len() {
        0 => format!("all of {whole}"),
        bits => format!("1/{} of all {whole}", 1_u32 << bits),
    };
    Some(format!(
        "{network} is {part}, {unseen}; write the networks that are meant"
    ))
}

#[cfg(test)]
#[path = "lint/tests.rs"]
mod tests;
