//! What an instance shall be: endpoints and policies put together, before the kernel is touched.

use crate::{
    app::shared::{Content, Contents, Direct, Numbers},
    config::{Config, EndpointConfig},
    enforcer::{
        cgroup::{self, CgroupError},
        direct::{DirectEntries, DirectEntry},
        node::{Node, NodeError, link_local},
        state::{EndpointState, LinkState},
    },
    gateway::{
        hosts::{self, Hosts},
        protocol,
    },
    policy::{
        rule::{DIRECT_PORTS_MAX, Mode, Rule},
        select::{Identity, Policies},
    },
};
use egress_common::{
    endpoint::{GATEWAY_ID, HAS_LINK, MODE_AUDIT, MODE_ENFORCE, PRIVATE_LOOPBACK},
    maps::{self, Class},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The plan cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
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
        "{rule}: {ports} ports in one entry: write up to {DIRECT_PORTS_MAX}, or leave `ports` out for all"
    )]
    Ports {
        /// Which.
        rule: String,
        /// How many.
        ports: u32,
    },
    /// More than the kernel's tables hold.
    #[error(
        "{count} {what}, with those that they replace: there is room for {most}; write fewer, or wider networks"
    )]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there can be.
        most: usize,
    },
}

/// What becomes of an endpoint whose cgroup or interface is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// There is no plan: somebody has mistyped it.
    Refuse,
    /// It waits for it.
    Wait,
}

/// An endpoint, planned.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointPlan {
    /// Its name.
    pub name: String,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// The host side of its veth, by name.
    pub interface: Option<String>,
    /// For the maps.
    pub state: EndpointState,
    /// For the gateway; shared with endpoints that the same policies select.
    pub rules: Arc<Vec<Rule>>,
    /// For the maps; shared likewise.
    pub direct: Direct,
    /// For the maps: who may open flows to it beside the node and the cluster.
    pub replies: Direct,
}

impl EndpointPlan {
    /// What is configured and not there.
    pub fn waits_for(&self) -> Vec<String> {
        let cgroup = self.state.cgroup.is_none();
        let cgroup = cgroup.then(|| format!("cgroup {}", self.cgroup.display()));
        let interface = self.interface.iter().filter(|_| self.state.link.is_none());
        let interface = interface.map(|name| format!("interface {name}"));
        cgroup.into_iter().chain(interface).collect()
    }
}

/// All endpoints, planned.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// By id, from 1.
    pub endpoints: Vec<EndpointPlan>,
    /// What the node knows of networks.
    pub networks: Vec<(IpNet, Class)>,
    /// The operator's own names.
    pub hosts: Hosts,
}

impl Plan {
    /// From a configuration and its policies. Ids and numbers follow `ids`, those of an earlier
    /// plan, so that an endpoint keeps its own.
    pub async fn make(
        config: &Config,
        policies: &Policies,
        node: &Node,
        generation: u32,
        ids: &mut Ids,
        missing: Missing,
    ) -> Result<Self, PlanError> {
        let mut endpoints = Vec::new();
        for endpoint in &config.endpoints {
            let id = ids.of(&endpoint.name, &endpoint.cgroup);
            let content = ids.contents.select(policies, identity(endpoint))?;
            let planned = plan_endpoint(endpoint, content, node, id, generation, missing);
            endpoints.push(planned.await?);
        }
        let direct = endpoints.iter();
        let direct = direct.map(|plan: &EndpointPlan| (plan.state.id, Arc::clone(&plan.direct)));
        let numbers = ids.numbers.assign(&direct.collect::<Vec<_>>());
        for plan in &mut endpoints {
            plan.state.policy = numbers.get(&plan.state.id).copied().unwrap_or_default();
        }
        let cluster = config.cluster_networks.iter();
        let mut networks: Vec<_> = cluster.map(|network| (*network, Class::Cluster)).collect();
        networks.extend(node_networks(&node.addresses().await?));
        Ok(Self {
            endpoints,
            networks,
            hosts: Hosts::read(Path::new(hosts::FILE)),
        })
    }

    /// What the gateway is told.
    pub fn for_gateway(&self, generation: u64) -> protocol::Endpoints {
        // Rules that endpoints share have the first one's id for a number.
        let mut policies = BTreeMap::new();
        let mut numbers = BTreeMap::new();
        for plan in &self.endpoints {
            let number = *numbers.entry(Arc::as_ptr(&plan.rules)).or_insert_with(|| {
                policies.insert(plan.state.id, Arc::clone(&plan.rules));
                plan.state.id
            });
            debug_assert!(policies.contains_key(&number));
        }
        let endpoints = self.endpoints.iter().map(|plan| protocol::Endpoint {
            id: plan.state.id,
            name: plan.name.clone(),
            mode: match plan.state.mode {
                MODE_AUDIT => Mode::Audit,
                _ => Mode::Enforce,
            },
            policy: numbers[&Arc::as_ptr(&plan.rules)],
            relay_loopback: plan.state.flags & egress_common::endpoint::RELAY_LOOPBACK != 0,
        });
        protocol::Endpoints {
            generation,
            endpoints: endpoints.collect(),
            policies,
            refused: self.refused(),
            hosts: self.hosts.names(),
        }
    }

    /// What no name may lead to.
    fn refused(&self) -> protocol::RefusedNetworks {
        let of = |class: Class| {
            let networks = self.networks.iter().filter(move |(_, it)| *it == class);
            networks.map(|(network, _)| *network).collect()
        };
        protocol::RefusedNetworks {
            node: of(Class::Node),
            cluster: of(Class::Cluster),
        }
    }

    /// Whether the gateway need not be told of the other plan.
    pub fn is_same_for_gateway(&self, other: &Self) -> bool {
        self.for_gateway(0) == other.for_gateway(0)
    }

    /// Whether an endpoint has this id.
    pub fn has(&self, id: u32) -> bool {
        self.endpoints.iter().any(|plan| plan.state.id == id)
    }

    /// The endpoint that has this interface.
    pub fn by_interface(&self, name: &str) -> Option<&EndpointPlan> {
        let mut endpoints = self.endpoints.iter();
        endpoints.find(|endpoint| endpoint.interface.as_deref() == Some(name))
    }

    /// Who may open flows to an endpoint of this id.
    pub fn replies(&self) -> Vec<(u32, DirectEntry)> {
        let plans = self.endpoints.iter();
        let entries = plans.flat_map(|plan| plan.replies.iter().map(|it| (plan.state.id, *it)));
        entries.collect()
    }

    /// All direct entries, by the policy's number.
    pub fn direct(&self) -> DirectEntries {
        let plans = self.endpoints.iter();
        let entries = plans.map(|plan| (plan.state.policy, Arc::clone(&plan.direct)));
        entries.collect()
    }

    /// Whether the kernel's tables hold this plan beside what is left of the other, since what is
    /// new is written before what is old is removed.
    ///
    /// # Errors
    /// What there is too much of.
    pub fn fits_beside(&self, old: &Self) -> Result<(), PlanError> {
        fn count<T: Ord>(new: impl Iterator<Item = T>, old: impl Iterator<Item = T>) -> usize {
            new.chain(old).collect::<BTreeSet<_>>().len()
        }
        let replies = |plan: &Self| plan.replies().into_iter();
        let networks = |plan: &Self| plan.networks.clone().into_iter().map(|(it, _)| it);
        let tables = [
            (
                "endpoints",
                self.endpoints.len(),
                // From 1, and the gateway has the last.
                GATEWAY_ID as usize - 1,
            ),
            (
                "addresses of endpoints and next hops",
                count(self.addresses(), old.addresses()),
                maps::MAX_ADDRESSES as usize,
            ),
            (
                "direct entries",
                together(&self.direct(), &old.direct()),
                maps::MAX_DIRECT as usize,
            ),
            (
                "entries of replies",
                count(replies(self), replies(old)),
                maps::MAX_REPLIES as usize,
            ),
            (
                "addresses of the node and cluster networks",
                count(networks(self), networks(old)),
                maps::MAX_NETWORKS as usize,
            ),
        ];
        for (what, count, most) in tables {
            if count > most {
                return Err(PlanError::TooMany { what, count, most });
            }
        }
        Ok(())
    }

    fn addresses(&self) -> impl Iterator<Item = (u32, IpAddr)> {
        self.endpoints.iter().flat_map(|plan| {
            let hops = plan.state.link.iter().flat_map(|link| &link.next_hops);
            let all = plan.state.addresses.iter().chain(hops);
            all.map(|address| (plan.state.id, *address))
        })
    }

    /// Bit n set where a cgroup may lie n levels deep.
    pub fn cgroup_levels(&self) -> u32 {
        cgroup::levels(self.endpoints.iter().filter_map(|plan| plan.state.cgroup))
    }
}

/// The ids of names: those of an earlier agent, by cgroup, and new ones; and the numbers of policies.
#[derive(Debug, Clone, Default)]
pub struct Ids {
    names: BTreeMap<String, u32>,
    adopted: BTreeMap<u64, u32>,
    numbers: Numbers,
    contents: Contents,
}

impl Ids {
    /// With those that an earlier agent gave: ids by cgroup, and policies' numbers by id.
    pub fn new(mut adopted: BTreeMap<u64, u32>, policies: BTreeMap<u32, u32>) -> Self {
        adopted.retain(|_, id| *id != GATEWAY_ID);
        Self {
            names: BTreeMap::new(),
            adopted,
            numbers: Numbers::new(policies),
            contents: Contents::default(),
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
        let free = || (1..GATEWAY_ID).find(|id| !used.contains(id));
        match next < GATEWAY_ID {
            true => next,
            false => free().unwrap_or(next),
        }
    }
}

/// What policies select an endpoint by.
pub(crate) fn identity(config: &EndpointConfig) -> Identity {
    Identity {
        namespace: config.namespace.clone(),
        service_account: config.service_account.clone(),
        labels: config.labels.clone(),
    }
}

/// All but the number of its direct entries, for which the others must be known.
async fn plan_endpoint(
    config: &EndpointConfig,
    content: Content,
    node: &Node,
    id: u32,
    generation: u32,
    missing: Missing,
) -> Result<EndpointPlan, PlanError> {
    // An endpoint that no policy selects allows nothing and, unless told otherwise, says so.
    let mode = config.mode.or(content.mode).unwrap_or(Mode::Enforce);
    let waits = missing == Missing::Wait;
    let cgroup = match cgroup::identify(&config.cgroup) {
        Ok(cgroup) => Some(cgroup),
        Err(CgroupError::NotFound { .. }) if waits => None,
        Err(source) => {
            return Err(PlanError::Cgroup {
                endpoint: config.name.clone(),
                source,
            });
        }
    };
    let mut addresses = config.addresses.clone();
    let link = match &config.interface {
        Some(interface) => match plan_link(config, interface, node, &mut addresses).await {
            Ok(link) => Some(link),
            // A veth whose other side is on its way has no MAC address there yet.
            Err(
                PlanError::NoMac { .. }
                | PlanError::Node {
                    source: NodeError::NoInterface(_),
                    ..
                },
            ) if waits => None,
            Err(error) => return Err(error),
        },
        None => None,
    };
    // Its loopback is its own, whether the link is there or not.
    let own_loopback = if config.interface.is_some() {
        PRIVATE_LOOPBACK
    } else {
        0
    };
    Ok(EndpointPlan {
        name: config.name.clone(),
        cgroup: config.cgroup.clone(),
        interface: config.interface.clone(),
        state: EndpointState {
            id,
            policy: 0,
            mode: match mode {
                Mode::Enforce => MODE_ENFORCE,
                Mode::Audit => MODE_AUDIT,
            },
            flags: own_loopback | if link.is_some() { HAS_LINK } else { 0 },
            generation,
            addresses,
            cgroup,
            link,
        },
        rules: content.rules,
        direct: content.direct,
        replies: content.replies,
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

/// How many direct entries the kernel has while it has both.
fn together(new: &DirectEntries, old: &DirectEntries) -> usize {
    let sets: BTreeSet<_> = new.keys().chain(old.keys()).collect();
    let counts = sets.into_iter().map(|set| {
        let (Some(new), Some(old)) = (new.get(set), old.get(set)) else {
            let one = new.get(set).or(old.get(set));
            return one.map_or(0, |entries| entries.len());
        };
        if Arc::ptr_eq(new, old) {
            return new.len();
        }
        // Both are in order.
        let lost = old.iter().filter(|entry| new.binary_search(entry).is_err());
        new.len() + lost.count()
    });
    counts.sum()
}

/// In order and each once, so that they can be compared.
pub(super) fn direct_entries(
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
        if ports.len() as u32 > DIRECT_PORTS_MAX {
            return Err(PlanError::Ports {
                rule: entry.rule.to_string(),
                ports: ports.len() as u32,
            });
        }
        all.extend(ports.into_iter().map(|port| DirectEntry {
            network: entry.network,
            protocol: entry.transport.number(),
            port,
        }));
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}
