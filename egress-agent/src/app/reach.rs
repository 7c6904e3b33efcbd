//! What the gateway of an instance may reach: where its policies may lead, and nowhere else. The
//! gateway decides for each endpoint; this is what holds it in the kernel, should it be somebody
//! else's.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use egress_common::{
    attempt::{TCP, UDP},
    endpoint::{MODE_AUDIT, RELAY_LOOPBACK},
    maps::{Class, MAX_REACH},
    verdict::DropReason,
};
use ipnet::IpNet;

use crate::{
    app::{
        instance::GatewayPlan,
        plan::{Plan, PlanError},
        shared::Direct,
    },
    enforcer::{direct::DirectEntry, reach::ReachState},
    gateway::{hosts::HostsTable, resolve::server::Transport},
    policy::{
        host::HostPattern,
        port::PortRange,
        rule::{Allow, Rule},
    },
};

/// The whole address space, and what of it is no public one: as `gateway::refuse` has it for each
/// address.
const BUILT_IN: [(&str, Option<DropReason>); 32] = {
    use DropReason::{
        Broadcast, LinkLocal, Loopback, MetadataService, Multicast, RefusedNetwork, Unroutable,
    };
    [
        ("0.0.0.0/0", None),
        ("0.0.0.0/8", Some(Unroutable)),
        ("10.0.0.0/8", Some(RefusedNetwork)),
        ("100.64.0.0/10", Some(RefusedNetwork)),
        ("100.100.100.200/32", Some(MetadataService)),
        ("127.0.0.0/8", Some(Loopback)),
        ("168.63.129.16/32", Some(RefusedNetwork)),
        ("169.254.0.0/16", Some(LinkLocal)),
        ("169.254.169.254/32", Some(MetadataService)),
        ("172.16.0.0/12", Some(RefusedNetwork)),
        ("192.0.0.0/24", Some(RefusedNetwork)),
        ("192.88.99.0/24", Some(RefusedNetwork)),
        ("192.168.0.0/16", Some(RefusedNetwork)),
        ("198.18.0.0/15", Some(RefusedNetwork)),
        ("224.0.0.0/4", Some(Multicast)),
        ("240.0.0.0/4", Some(Unroutable)),
        ("255.255.255.255/32", Some(Broadcast)),
        ("::/0", Some(RefusedNetwork)),
        ("::/128", Some(Unroutable)),
        ("::1/128", Some(Loopback)),
        ("2000::/3", None),
        ("2001::/32", Some(RefusedNetwork)),
        ("2001:2::/48", Some(RefusedNetwork)),
        ("2001:10::/28", Some(RefusedNetwork)),
        ("2001:20::/28", Some(RefusedNetwork)),
        ("2002::/16", Some(RefusedNetwork)),
        ("64:ff9b::/32", Some(RefusedNetwork)),
        ("fc00::/7", Some(RefusedNetwork)),
        ("fd00:ec2::254/128", Some(MetadataService)),
        ("fe80::/10", Some(LinkLocal)),
        ("fec0::/10", Some(RefusedNetwork)),
        ("ff00::/8", Some(Multicast)),
    ]
};

/// What the gateway may reach.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reach {
    /// For the maps.
    pub(super) state: ReachState,
    /// Its name servers.
    pub(super) servers: Direct,
    /// Whether it may connect to anywhere, since what an endpoint in Audit dials is dialled.
    pub(super) wide: bool,
}

impl Reach {
    /// Of a plan, and of a gateway whose name servers are known.
    pub(super) fn new(plan: &Plan, gateway: &GatewayPlan) -> Self {
        let rules = distinct(plan);
        let named = rules.iter().flat_map(|rules| rules.iter());
        let lists = Lists::new(plan, gateway, &rules);
        Self {
            state: ReachState {
                networks: lists.networks(),
                ports: ports(named),
            },
            servers: Arc::new(servers(gateway)),
            wide: plan
                .endpoints
                .iter()
                .any(|endpoint| endpoint.state.mode == MODE_AUDIT),
        }
    }

    /// Whether the kernel's table holds this beside the other.
    ///
    /// # Errors
    /// There is too much.
    pub(super) fn fits_beside(&self, old: &Self) -> Result<(), PlanError> {
        let (new, old) = (&self.state.networks, &old.state.networks);
        let added = new.keys().filter(|network| !old.contains_key(network));
        let count = old.len() + added.count();
        match count > MAX_REACH as usize {
            true => Err(PlanError::TooMany {
                what: "networks that policies, the hosts file and the configuration name",
                count,
                most: MAX_REACH as usize,
            }),
            false => Ok(()),
        }
    }
}

/// The rules of all endpoints, each list once.
fn distinct(plan: &Plan) -> Vec<&Arc<Vec<Rule>>> {
    let all = plan.endpoints.iter().map(|endpoint| &endpoint.rules);
    let by_place: HashMap<_, _> = all.map(|rules| (Arc::as_ptr(rules), rules)).collect();
    by_place.into_values().collect()
}

/// The ports that are dialled for these rules.
fn ports<'a>(rules: impl Iterator<Item = &'a Rule>) -> Box<egress_common::maps::NamedPorts> {
    let mut named = ReachState::default().ports;
    let mut name = |range: PortRange| {
        for port in range.first()..=range.last() {
            named[usize::from(port >> 6)] |= 1 << (port & 63);
        }
    };
    for rule in rules {
        match &rule.allow {
            Allow::Hosts { ports, .. } | Allow::Cidrs { ports, .. } => {
                ports.iter().copied().for_each(&mut name);
            }
            Allow::Http { http, ports } if http.originate_tls => {
                let port = ports.first().map_or(0, |range| range.first());
                name(
                    PortRange::new(http.dials(port), http.dials(port)).unwrap_or(PortRange::HTTPS),
                );
            }
            Allow::Http { ports, .. } => ports.iter().copied().for_each(&mut name),
        }
    }
    named
}

/// Its name servers, exactly.
fn servers(gateway: &GatewayPlan) -> Vec<DirectEntry> {
    let entries = gateway.resolvers.iter().flat_map(|server| {
        let protocols: &[u8] = match server.transport {
            Transport::Udp => &[UDP, TCP],
            Transport::Tcp | Transport::Tls { .. } => &[TCP],
        };
        protocols.iter().map(|protocol| DirectEntry {
            network: IpNet::from(server.address.ip()),
            protocol: *protocol,
            port: server.address.port(),
        })
    });
    let mut entries: Vec<_> = entries.collect();
    entries.sort_unstable();
    entries.dedup();
    entries
}

/// Networks by what is said of them.
struct Lists {
    own: HashSet<IpNet>,
    /// Addresses of allowed names in the hosts file.
    hosts: HashSet<IpNet>,
    /// `refusedAnswers`.
    refused: HashSet<IpNet>,
    /// `permittedAnswers`.
    permitted: HashSet<IpNet>,
    built_in: HashMap<IpNet, Option<DropReason>>,
    node: HashSet<IpNet>,
    cluster: HashSet<IpNet>,
    /// Of rules.
    cidrs: HashSet<IpNet>,
    /// Whether some endpoint reaches the node's loopback.
    relay_loopback: bool,
}

impl Lists {
    fn new(plan: &Plan, gateway: &GatewayPlan, rules: &[&Arc<Vec<Rule>>]) -> Self {
        let rules = || rules.iter().flat_map(|rules| rules.iter());
        let cidrs = rules().flat_map(|rule| match &rule.allow {
            Allow::Cidrs { cidrs, .. } => cidrs.as_slice(),
            Allow::Hosts { .. } | Allow::Http { .. } => &[],
        });
        let names = plan.hosts.names();
        let of = |class: Class| {
            let networks = plan.networks.iter().filter(move |(_, it)| *it == class);
            networks.map(|(network, _)| network.trunc()).collect()
        };
        let built_in = BUILT_IN.iter();
        let built_in = built_in.filter_map(|(network, why)| Some((network.parse().ok()?, *why)));
        let mut endpoints = plan.endpoints.iter();
        Self {
            own: gateway.addresses().map(IpNet::from).collect(),
            hosts: of_names(&names, rules()),
            refused: gateway.refused_answers.iter().map(IpNet::trunc).collect(),
            permitted: gateway.permitted_answers.iter().map(IpNet::trunc).collect(),
            built_in: built_in.collect(),
            node: of(Class::Node),
            cluster: of(Class::Cluster),
            cidrs: cidrs.map(IpNet::trunc).collect(),
            relay_loopback: endpoints.any(|it| it.state.flags & RELAY_LOOPBACK != 0),
        }
    }

    /// Every network that is in some list, with what holds for the addresses that it is the longest
    /// one of: those are in the same lists, all of them.
    fn networks(&self) -> BTreeMap<IpNet, Option<DropReason>> {
        let lists = [
            &self.own,
            &self.hosts,
            &self.refused,
            &self.permitted,
            &self.node,
            &self.cluster,
            &self.cidrs,
        ];
        let all = lists.into_iter().flatten().chain(self.built_in.keys());
        all.map(|network| (*network, self.why_not(network)))
            .collect()
    }

    /// In the order in which the gateway asks, see `Refused::check`; and what a policy's networks lead
    /// to is what the kernel lets an endpoint connect to (`egress_common::decide`).
    fn why_not(&self, network: &IpNet) -> Option<DropReason> {
        let within = |list: &HashSet<IpNet>| supernets(network).any(|it| list.contains(&it));
        if within(&self.own) {
            return Some(DropReason::GatewayPort);
        }
        if within(&self.hosts) {
            return None;
        }
        let by_name = !within(&self.refused);
        if by_name && within(&self.permitted) {
            return None;
        }
        let mut built_in = supernets(network).filter_map(|it| self.built_in.get(&it));
        let built_in = built_in.next().copied().flatten();
        let by_cidr = within(&self.cidrs);
        match built_in {
            None | Some(DropReason::RefusedNetwork) => {}
            Some(DropReason::Loopback) if by_cidr && self.relay_loopback => return None,
            Some(reason) => return Some(reason),
        }
        if within(&self.node) {
            return Some(DropReason::Node);
        }
        if within(&self.cluster) {
            return Some(DropReason::Cluster);
        }
        match by_cidr {
            true => None,
            false if by_name => built_in,
            false => Some(DropReason::RefusedNetwork),
        }
    }
}

/// The addresses that the hosts file gives to names of some rule.
fn of_names<'a>(names: &HostsTable, rules: impl Iterator<Item = &'a Rule>) -> HashSet<IpNet> {
    let mut left: Vec<_> = names.iter().collect();
    let mut found = HashSet::new();
    for rule in rules {
        let patterns: &[HostPattern] = match &rule.allow {
            Allow::Hosts { hosts, .. } => hosts,
            Allow::Http { http, .. } => &http.hosts,
            Allow::Cidrs { .. } => &[],
        };
        left.retain(|(name, addresses)| {
            let is_named = patterns.iter().any(|pattern| pattern.matches(name));
            if is_named {
                found.extend(addresses.iter().copied().map(IpNet::from));
            }
            !is_named
        });
    }
    found
}

/// The network and all that it is in, from the longest.
fn supernets(network: &IpNet) -> impl Iterator<Item = IpNet> {
    std::iter::successors(Some(*network), IpNet::supernet)
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use super::*;
    use crate::{
        app::plan::EndpointPlan,
        enforcer::state::EndpointState,
        gateway::{hosts::Hosts, protocol::Limits, refuse::refusal, resolve::cache::CacheBounds},
        policy::flag::{allow_cidr, allow_host},
    };

    fn gateway() -> GatewayPlan {
        GatewayPlan {
            resolvers: vec![
                "10.96.0.10".parse().unwrap(),
                "tls://192.0.2.53#dns.vendor.test".parse().unwrap(),
            ],
            v4: "169.254.64.1".parse().unwrap(),
            v6: Some("fd65:6772:6573::1".parse().unwrap()),
            port: 15001,
            dns_port: 15053,
            proxy_port: 15002,
            user: 62_951,
            resolver_roots: None,
            cache: CacheBounds::default(),
            answer_grace: Duration::ZERO,
            permitted_answers: Vec::new(),
            limits: Limits::default(),
            refused_answers: Vec::new(),
            roots: String::new(),
            on_loopback: true,
        }
    }

    fn plan(rules: Vec<Rule>, flags: u8) -> Plan {
        let state = EndpointState {
            id: 1,
            policy: 1,
            mode: 0,
            flags,
            generation: 1,
            addresses: Vec::new(),
            cgroup: None,
            link: None,
        };
        Plan {
            endpoints: vec![EndpointPlan {
                name: "shop".into(),
                cgroup: "/".into(),
                interface: None,
                state,
                rules: rules.into(),
                direct: Direct::default(),
                replies: Direct::default(),
            }],
            networks: vec![
                ("203.0.113.1/32".parse().unwrap(), Class::Node),
                ("198.51.100.0/24".parse().unwrap(), Class::Cluster),
            ],
            hosts: Hosts::default(),
        }
    }

    /// As the kernel looks it up.
    fn why_not(reach: &Reach, address: &str) -> Option<DropReason> {
        let address = IpNet::from(address.parse::<IpAddr>().unwrap());
        let mut found = supernets(&address).filter_map(|it| reach.state.networks.get(&it));
        *found.next().unwrap()
    }

    #[test]
    fn what_is_no_public_address_is_what_the_gateway_refuses() {
        let reach = Reach::new(&Plan::default(), &gateway());
        let mut edges = Vec::new();
        for network in reach.state.networks.keys() {
            let (first, last) = (network.network(), network.broadcast());
            edges.extend([first, last]);
            for (edge, step) in [(first, -1), (last, 1)] {
                edges.extend(match edge {
                    IpAddr::V4(edge) => u32::from(edge)
                        .checked_add_signed(step)
                        .map(|it| IpAddr::V4(it.into())),
                    IpAddr::V6(edge) => u128::from(edge)
                        .checked_add_signed(step.into())
                        .map(|it| IpAddr::V6(it.into())),
                });
            }
        }
        assert!(edges.len() > 100);
        for edge in edges {
            // No packet bears one of these: the kernel makes IPv4 of it.
            if matches!(edge, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
                continue;
            }
            let found = why_not(&reach, &edge.to_string());
            let is_own = gateway().addresses().any(|own| own == edge);
            assert_eq!(found.is_some(), refusal(edge).is_some() || is_own, "{edge}");
        }
    }

    #[test]
    fn where_policies_lead() {
        let rules = vec![
            allow_host("repo.test").unwrap(),
            allow_host("*.repo.test:8443").unwrap(),
            allow_cidr("10.7.0.0/16:5432").unwrap(),
            allow_cidr("127.0.0.0/8:9000-9001").unwrap(),
            allow_cidr("0.0.0.0/0:25").unwrap(),
        ];
        let reach = Reach::new(&plan(rules.clone(), 0), &gateway());
        for (address, want) in [
            ("10.7.1.1", None),
            ("8.8.8.8", None),
            // A rule for everything is none for what is nobody's to reach.
            ("127.0.0.1", Some(DropReason::Loopback)),
            ("0.0.0.0", Some(DropReason::Unroutable)),
            ("169.254.169.254", Some(DropReason::MetadataService)),
            ("203.0.113.1", Some(DropReason::Node)),
            ("198.51.100.7", Some(DropReason::Cluster)),
            ("fd12::1", Some(DropReason::RefusedNetwork)),
        ] {
            assert_eq!(why_not(&reach, address), want, "{address}");
        }
        let named = |port| egress_common::maps::is_named(&reach.state.ports, port);
        for port in [443, 8443, 5432, 9000, 9001, 25] {
            assert!(named(port), "{port}");
        }
        for port in [0, 80, 442, 444, 9002, 65_535] {
            assert!(!named(port), "{port}");
        }
        assert!(!reach.wide);
        let relayed = Reach::new(&plan(rules, RELAY_LOOPBACK), &gateway());
        assert_eq!(why_not(&relayed, "127.0.0.1"), None);
        let unspecified = why_not(&relayed, "0.0.0.0");
        assert_eq!(unspecified, Some(DropReason::Unroutable));
        let entries: Vec<_> = reach
            .servers
            .iter()
            .map(|it| (it.network.addr(), it.protocol, it.port))
            .collect();
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        let want = [
            (at("10.96.0.10"), TCP, 53),
            (at("10.96.0.10"), UDP, 53),
            (at("192.0.2.53"), TCP, 853),
        ];
        assert_eq!(entries, want);
    }

    #[test]
    fn what_the_operator_says() {
        let mut plan = plan(vec![allow_host("repo.test").unwrap()], 0);
        let file = std::env::temp_dir().join(format!("reach-hosts-{}", std::process::id()));
        std::fs::write(&file, "127.0.0.1 localhost\n10.0.0.9 repo.test\n").unwrap();
        plan.hosts = Hosts::read(&file);
        std::fs::remove_file(&file).unwrap();
        let nets = |texts: &[&str]| -> Vec<IpNet> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let gateway = GatewayPlan {
            permitted_answers: nets(&["192.168.0.0/16", "203.0.113.1/32"]),
            refused_answers: nets(&["192.168.7.0/24", "8.8.8.8/32"]),
            ..gateway()
        };
        let reach = Reach::new(&plan, &gateway);
        for (address, want) in [
            ("10.0.0.9", None),
            ("10.0.0.10", Some(DropReason::RefusedNetwork)),
            ("127.0.0.1", Some(DropReason::Loopback)),
            ("192.168.1.1", None),
            ("192.168.7.1", Some(DropReason::RefusedNetwork)),
            ("8.8.8.8", Some(DropReason::RefusedNetwork)),
            ("203.0.113.1", None),
        ] {
            assert_eq!(why_not(&reach, address), want, "{address}");
        }
        let own = gateway.v4.to_string();
        assert_eq!(why_not(&reach, &own), Some(DropReason::GatewayPort));
    }
}
