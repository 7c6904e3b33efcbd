//! What an instance shall be: endpoints and policies put together, before the kernel is touched.

use crate::{
    config::{Config, EndpointConfig},
    enforcer::{
        cgroup::{self, CgroupError},
        node::{Node, NodeError, link_local},
        state::{DirectEntry, EndpointState, LinkState},
    },
    gateway::protocol,
    policy::{
        load::{LoadError, load_files},
        rule::{Mode, Rule},
        select::{Identity, Policies},
    },
};
use egress_common::{
    endpoint::{HAS_LINK, MAX_ENDPOINTS, MODE_AUDIT, MODE_ENFORCE, PRIVATE_LOOPBACK},
    maps::Class,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
};

/// Ports of one direct entry that are written out one by one; more must be written as all.
const MAX_PORTS: u32 = 1024;

/// The plan cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A policy file.
    #[error(transparent)]
    Policy(#[from] LoadError),
    /// An endpoint's cgroup.
    #[error("endpoint {endpoint}: {source}")]
    Cgroup {
        /// Whose.
        endpoint: String,
        /// What is wrong.
        source: CgroupError,
    },
    /// An endpoint's interface.
    #[error("endpoint {endpoint}: {source}")]
    Node {
        /// Whose.
        endpoint: String,
        /// What is wrong.
        source: NodeError,
    },
    /// The node.
    #[error(transparent)]
    Netlink(#[from] NodeError),
    /// Its MAC address is not to be had.
    #[error(
        "endpoint {endpoint}: the MAC address of the other side of {interface} cannot be read; give it as `mac`"
    )]
    NoMac {
        /// Whose.
        endpoint: String,
        /// Which interface.
        interface: String,
    },
    /// A direct entry.
    #[error(
        "{rule}: {ports} ports in one entry: write up to {MAX_PORTS}, or leave `ports` out for all"
    )]
    Ports {
        /// Which.
        rule: String,
        /// How many.
        ports: u32,
    },
}

/// An endpoint, planned.
#[derive(Debug, Clone)]
pub struct EndpointPlan {
    /// Its name.
    pub name: String,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// For the maps.
    pub state: EndpointState,
    /// For the gateway.
    pub rules: Vec<Rule>,
    /// For the maps.
    pub direct: Vec<DirectEntry>,
}

/// All endpoints, planned.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// By id, from 1.
    pub endpoints: Vec<EndpointPlan>,
    /// What the node knows of networks.
    pub networks: Vec<(IpNet, Class)>,
}

impl Plan {
    /// From a configuration and its policies. Ids follow `ids`, the names of an earlier plan, so
    /// that an endpoint keeps its own.
    pub async fn make(
        config: &Config,
        node: &Node,
        generation: u32,
        ids: &mut Ids,
    ) -> Result<Self, PlanError> {
        let policies = load_files(&config.policies)?;
        let mut endpoints = Vec::new();
        for endpoint in &config.endpoints {
            let id = ids.of(&endpoint.name, &endpoint.cgroup);
            endpoints.push(plan_endpoint(endpoint, &policies, node, id, generation).await?);
        }
        let cluster = config.cluster_networks.iter();
        let mut networks: Vec<_> = cluster.map(|network| (*network, Class::Cluster)).collect();
        networks.extend(node_networks(&node.addresses().await?));
        Ok(Self {
            endpoints,
            networks,
        })
    }

    /// What the gateway is told.
    pub fn for_gateway(&self, generation: u64) -> protocol::Endpoints {
        let endpoints = self.endpoints.iter().map(|plan| protocol::Endpoint {
            id: plan.state.id,
            name: plan.name.clone(),
            mode: match plan.state.mode {
                MODE_AUDIT => Mode::Audit,
                _ => Mode::Enforce,
            },
            policy: plan.state.policy,
            relay_loopback: plan.state.flags & egress_common::endpoint::RELAY_LOOPBACK != 0,
        });
        let policies = self.endpoints.iter();
        let policies: BTreeMap<_, _> = policies
            .map(|plan| (plan.state.policy, plan.rules.clone()))
            .collect();
        protocol::Endpoints {
            generation,
            endpoints: endpoints.collect(),
            policies,
        }
    }

    /// All direct entries, by policy.
    pub fn direct(&self) -> Vec<(u32, DirectEntry)> {
        let plans = self.endpoints.iter();
        let entries = plans.flat_map(|plan| {
            let policy = plan.state.policy;
            plan.direct.iter().map(move |entry| (policy, entry.clone()))
        });
        entries.collect()
    }

    /// Bit n set where a cgroup may lie n levels deep.
    pub fn cgroup_levels(&self) -> u32 {
        cgroup::levels(self.endpoints.iter().map(|plan| plan.state.cgroup))
    }
}

/// The ids of names: those of an earlier agent, by cgroup, and new ones.
#[derive(Debug, Default)]
pub struct Ids {
    names: BTreeMap<String, u32>,
    adopted: BTreeMap<u64, u32>,
}

impl Ids {
    /// With those that an earlier agent gave.
    pub fn new(adopted: BTreeMap<u64, u32>) -> Self {
        Self {
            names: BTreeMap::new(),
            adopted,
        }
    }

    /// The id of an endpoint, from 1.
    pub fn of(&mut self, name: &str, cgroup: &Path) -> u32 {
        if let Some(id) = self.names.get(name) {
            return *id;
        }
        // A cgroup that there is not gets its error where the endpoint is planned.
        let cgroup = cgroup::identify(cgroup).map_or(0, |cgroup| cgroup.id);
        let id = self
            .adopted
            .remove(&cgroup)
            .unwrap_or_else(|| self.unused());
        self.names.insert(name.to_owned(), id);
        id
    }

    /// Forgets the names that are none of the plan's.
    pub fn retain(&mut self, plan: &Plan) {
        let names = plan.endpoints.iter();
        let names: BTreeSet<&str> = names.map(|endpoint| endpoint.name.as_str()).collect();
        self.names.retain(|name, _| names.contains(name.as_str()));
        self.adopted.clear();
    }

    /// One beyond all, so that what has gone is confused with nobody; where there are no more, the
    /// least that is free.
    fn unused(&self) -> u32 {
        let used = self.names.values().chain(self.adopted.values());
        let used: BTreeSet<u32> = used.copied().collect();
        let next = used.last().map_or(1, |last| last + 1);
        let free = || (1..MAX_ENDPOINTS).find(|id| !used.contains(id));
        match next < MAX_ENDPOINTS {
            true => next,
            false => free().unwrap_or(next),
        }
    }
}

async fn plan_endpoint(
    config: &EndpointConfig,
    policies: &Policies,
    node: &Node,
    id: u32,
    generation: u32,
) -> Result<EndpointPlan, PlanError> {
    let selected = policies.select(&Identity {
        namespace: config.namespace.clone(),
        service_account: config.service_account.clone(),
        labels: config.labels.clone(),
    });
    // An endpoint that no policy selects allows nothing and, unless told otherwise, says so.
    let mode = config.mode.or(selected.mode).unwrap_or(Mode::Enforce);
    let cgroup = cgroup::identify(&config.cgroup).map_err(|source| PlanError::Cgroup {
        endpoint: config.name.clone(),
        source,
    })?;
    let mut addresses = config.addresses.clone();
    let link = match &config.interface {
        Some(interface) => Some(plan_link(config, interface, node, &mut addresses).await?),
        None => None,
    };
    Ok(EndpointPlan {
        name: config.name.clone(),
        cgroup: config.cgroup.clone(),
        state: EndpointState {
            id,
            policy: id,
            mode: match mode {
                Mode::Enforce => MODE_ENFORCE,
                Mode::Audit => MODE_AUDIT,
            },
            flags: if link.is_some() {
                HAS_LINK | PRIVATE_LOOPBACK
            } else {
                0
            },
            generation,
            addresses,
            cgroup,
            link,
        },
        rules: selected.rules,
        direct: direct_entries(&selected.direct)?,
    })
}

async fn plan_link(
    config: &EndpointConfig,
    interface: &str,
    node: &Node,
    addresses: &mut Vec<IpAddr>,
) -> Result<LinkState, PlanError> {
    let veth = node.veth(interface).await;
    let veth = veth.map_err(|source| PlanError::Node {
        endpoint: config.name.clone(),
        source,
    })?;
    let mac = config.mac.or(veth.peer_mac);
    let mac = mac.ok_or_else(|| PlanError::NoMac {
        endpoint: config.name.clone(),
        interface: interface.to_owned(),
    })?;
    let own = IpAddr::from(link_local(mac));
    if !addresses.contains(&own) {
        addresses.push(own);
    }
    let next_hops = if config.next_hops.is_empty() {
        veth.next_hops
    } else {
        config.next_hops.clone()
    };
    Ok(LinkState {
        interface: veth.interface,
        mac,
        next_hop_mac: veth.next_hop_mac,
        next_hops,
    })
}

/// The node's own addresses, each a network of one.
pub fn node_networks(addresses: &[IpAddr]) -> impl Iterator<Item = (IpNet, Class)> {
    addresses
        .iter()
        .map(|address| (IpNet::from(*address), Class::Node))
}

fn direct_entries(
    entries: &[crate::policy::rule::DirectEntry],
) -> Result<Vec<DirectEntry>, PlanError> {
    let mut all = Vec::new();
    for entry in entries {
        let (first, last) = (entry.ports.first(), entry.ports.last());
        let ports: Vec<u16> = if first <= 1 && last == u16::MAX {
            vec![0]
        } else {
            (first..=last).collect()
        };
        if ports.len() as u32 > MAX_PORTS {
            return Err(PlanError::Ports {
                rule: entry.rule.clone(),
                ports: ports.len() as u32,
            });
        }
        all.extend(ports.into_iter().map(|port| DirectEntry {
            network: entry.network,
            protocol: entry.transport.number(),
            port,
        }));
    }
    Ok(all)
}
