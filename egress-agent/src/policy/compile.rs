//! From rules to what a connection is decided by.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    host::{HostName, HostPattern},
    http::{HttpEntry, HttpRule},
    port::PortRange,
    rule::{Allow, Rule},
};

/// All that an endpoint may reach through the gateway. Empty allows nothing.
#[derive(Clone, Debug, Default)]
pub struct CompiledPolicy {
    pub(super) exact: HashMap<HostName, Vec<Entry>>,
    /// By the name after `*.`.
    pub(super) wildcard: HashMap<HostName, Vec<Entry>>,
    /// The ports of all hosts together.
    pub(super) host_ports: Vec<PortRange>,
    /// Rules of plain HTTP, in the order of the rules.
    pub(super) http_exact: HashMap<HostName, Vec<HttpEntry>>,
    /// By the name after `*.`.
    pub(super) http_wildcard: HashMap<HostName, Vec<HttpEntry>>,
    /// Longest prefix first, so that the most particular rule is the one that is named.
    pub(super) networks: Vec<PrefixTable>,
}

/// A rule's ports under one key.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) ports: PortRange,
    pub(super) rule: Arc<str>,
}

/// All networks of one family and prefix length, by their first address.
#[derive(Clone, Debug)]
pub(super) struct PrefixTable {
    pub(super) prefix: u8,
    pub(super) ipv4: bool,
    pub(super) networks: HashMap<IpAddr, Vec<Entry>>,
}

impl CompiledPolicy {
    /// Compiles; the cost of a decision does not grow with the number of names.
    pub fn new(rules: &[Rule]) -> Self {
        let mut compiled = Self::default();
        for rule in rules {
            let name: Arc<str> = rule.name.as_str().into();
            match &rule.allow {
                Allow::Hosts { hosts, ports } => {
                    compiled.add_host_ports(ports);
                    for host in hosts {
                        compiled.add_host(host, ports, &name);
                    }
                }
                Allow::Http { http, ports } => compiled.add_http(http, ports, &name),
                Allow::Cidrs { cidrs, ports } => {
                    for network in cidrs {
                        compiled.add_network(*network, ports, &name);
                    }
                }
            }
        }
        compiled
            .networks
            .sort_by_key(|t| std::cmp::Reverse(t.prefix));
        compiled
    }

    /// Policies are written with a handful of different ports.
    fn add_host_ports(&mut self, ports: &[PortRange]) {
        for range in ports {
            if !self.host_ports.contains(range) {
                self.host_ports.push(*range);
            }
        }
    }

    fn add_host(&mut self, host: &HostPattern, ports: &[PortRange], rule: &Arc<str>) {
        let (table, name) = match host {
            HostPattern::Exact(name) => (&mut self.exact, name),
            HostPattern::Subdomains(name) => (&mut self.wildcard, name),
        };
        table
            .entry(name.clone())
            .or_default()
            .extend(entries(ports, rule));
    }

    fn add_http(&mut self, http: &HttpRule, ports: &[PortRange], rule: &Arc<str>) {
        let entry = HttpEntry {
            ports: ports.to_vec(),
            http: Arc::new(http.clone()),
            rule: rule.clone(),
        };
        for host in &http.hosts {
            let (table, name) = match host {
                HostPattern::Exact(name) => (&mut self.http_exact, name),
                HostPattern::Subdomains(name) => (&mut self.http_wildcard, name),
            };
            table.entry(name.clone()).or_default().push(entry.clone());
        }
    }

    fn add_network(&mut self, network: IpNet, ports: &[PortRange], rule: &Arc<str>) {
        let (prefix, ipv4) = (network.prefix_len(), network.addr().is_ipv4());
        let found = self
            .networks
            .iter()
            .position(|t| t.prefix == prefix && t.ipv4 == ipv4);
        let index = found.unwrap_or_else(|| {
            self.networks.push(PrefixTable {
                prefix,
                ipv4,
                networks: HashMap::new(),
            });
            self.networks.len() - 1
        });
        self.networks[index]
            .networks
            .entry(network.network())
            .or_default()
            .extend(entries(ports, rule));
    }
}

fn entries<'a>(ports: &'a [PortRange], rule: &'a Arc<str>) -> impl Iterator<Item = Entry> + 'a {
    ports.iter().map(|&ports| Entry {
        ports,
        rule: rule.clone(),
    })
}
