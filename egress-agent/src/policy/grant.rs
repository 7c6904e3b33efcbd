//! What rules come to, piece by piece, so that it can be said which piece covers which.

use std::{collections::HashMap, fmt};

use ipnet::IpNet;

use super::{
    ech,
    evaluate::{LOOPBACK_PREFIX4, LOOPBACK_PREFIX6},
    host::{HostName, HostPattern},
    http::{HttpRule, Method},
    path::PathPattern,
    port::PortRange,
    rule::Transport,
    schema::{EgressRule, Network},
    select::Policy,
    sources::{List, RuleId},
};

/// One host or network on one range of ports, as a rule allows it.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The rule.
    pub rule: RuleId,
    /// The place among the rule's hosts or networks.
    pub item: usize,
    /// What it allows.
    pub what: What,
    /// On which ports.
    pub ports: PortRange,
}

/// What is allowed, but for the ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Connections to a host.
    Host(HostPattern),
    /// Requests of plain HTTP to a host.
    Request(HostPattern, Box<Request>),
    /// TCP to a network, through the gateway.
    Network(IpNet),
    /// Packets to a network, beside the gateway.
    Direct(Transport, IpNet),
    /// Answers to a network.
    Reply(Transport, IpNet),
}

/// Which requests, by at most one method and path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    method: Option<Method>,
    path: Option<PathPattern>,
    /// The headers, WebSocket and origination of the rule are what counts.
    rule: HttpRule,
}

/// All that a policy grants.
pub fn grants(place: usize, policy: &Policy) -> Vec<Grant> {
    let mut all = Vec::new();
    for (index, rule) in policy.egress().iter().enumerate() {
        let id = RuleId {
            policy: place,
            list: List::Egress,
            index,
        };
        egress(id, rule, &mut all);
    }
    let Some(spec) = policy.cluster() else {
        return all;
    };
    for (index, rule) in spec.direct.iter().enumerate() {
        let id = RuleId {
            policy: place,
            list: List::Direct,
            index,
        };
        packets(
            id,
            &rule.cidrs,
            &rule.ports,
            &rule.protocols,
            What::Direct,
            &mut all,
        );
    }
    for (index, rule) in spec.replies.iter().enumerate() {
        let id = RuleId {
            policy: place,
            list: List::Replies,
            index,
        };
        packets(
            id,
            &rule.from,
            &rule.ports,
            &rule.protocols,
            What::Reply,
            &mut all,
        );
    }
    all
}

/// All that one rule of `egress` grants.
pub(super) fn egress(rule: RuleId, of: &EgressRule, all: &mut Vec<Grant>) {
    let mut push = |item, ports: &[PortRange], what: &What| {
        all.extend(ports.iter().map(|&ports| Grant {
            rule,
            item,
            what: what.clone(),
            ports,
        }));
    };
    match of {
        EgressRule::Hosts { hosts, ports } => {
            for (item, host) in hosts.iter().enumerate() {
                push(item, ports, &What::Host(host.clone()));
            }
        }
        EgressRule::Http { http, ports } => {
            for (item, host) in http.hosts.iter().enumerate() {
                for request in requests(http) {
                    push(item, ports, &What::Request(host.clone(), Box::new(request)));
                }
            }
        }
        EgressRule::Cidrs { cidrs, ports } => {
            for (item, network) in cidrs.iter().enumerate() {
                push(item, ports, &What::Network(network.0));
            }
        }
    }
}

fn requests(http: &HttpRule) -> Vec<Request> {
    let methods = one_by_one(&http.methods);
    let paths = one_by_one(&http.paths);
    let request = |method: &Option<Method>, path: &Option<PathPattern>| Request {
        method: method.clone(),
        path: path.clone(),
        rule: HttpRule {
            hosts: Vec::new(),
            methods: Vec::new(),
            paths: Vec::new(),
            ..http.clone()
        },
    };
    let requests = methods
        .iter()
        .flat_map(|method| paths.iter().map(move |path| request(method, path)));
    requests.collect()
}

/// None for any, where there is no list.
fn one_by_one<T: Clone>(list: &[T]) -> Vec<Option<T>> {
    match list {
        [] => vec![None],
        some => some.iter().cloned().map(Some).collect(),
    }
}

fn packets(
    rule: RuleId,
    networks: &[Network],
    ports: &[PortRange],
    transports: &[Transport],
    what: impl Fn(Transport, IpNet) -> What,
    all: &mut Vec<Grant>,
) {
    let (ports, transports) = super::select::with_defaults(ports, transports);
    for (item, network) in networks.iter().enumerate() {
        for &transport in transports {
            all.extend(ports.iter().map(|&ports| Grant {
                rule,
                item,
                what: what(transport, network.0),
                ports,
            }));
        }
    }
}

/// Finds what covers something without a look at everything.
#[derive(Debug, Default)]
pub struct Index(HashMap<Key, Vec<usize>>);

#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    Host(Way, HostPattern),
    Network(Way, IpNet),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Way {
    Gateway,
    Http,
    Direct(Transport),
    Reply(Transport),
}

impl Index {
    /// Of a list, whose places it returns.
    pub fn new<'a>(all: impl Iterator<Item = &'a What>) -> Self {
        let mut index = Self::default();
        for (place, what) in all.enumerate() {
            index.0.entry(what.key()).or_default().push(place);
        }
        index
    }

    /// The places of all that cover this one; of requests only the host is looked at.
    pub fn covering(&self, what: &What) -> impl Iterator<Item = usize> {
        let keys = what.covering_keys().into_iter();
        keys.filter_map(|key| self.0.get(&key)).flatten().copied()
    }

    /// The places of all requests to just this host.
    pub fn exact_requests(&self, name: &HostName) -> impl Iterator<Item = usize> {
        let key = Key::Host(Way::Http, HostPattern::Exact(name.clone()));
        self.0.get(&key).into_iter().flatten().copied()
    }
}

impl What {
    /// Whether it allows all that the other does.
    pub fn covers(&self, other: &Self) -> bool {
        let conditions = match (self, other) {
            (Self::Request(_, ours), Self::Request(_, theirs)) => ours.covers(theirs),
            (
                Self::Host(_)
                | Self::Request(..)
                | Self::Network(_)
                | Self::Direct(..)
                | Self::Reply(..),
                _,
            ) => true,
        };
        conditions && other.covering_keys().contains(&self.key())
    }

    /// Whether it is a host or an address rather than several, whatever is asked of it.
    pub fn is_one(&self) -> bool {
        match self {
            Self::Host(host) => matches!(host, HostPattern::Exact(_)),
            Self::Request(..) => false,
            Self::Network(network) | Self::Direct(_, network) | Self::Reply(_, network) => {
                network.prefix_len() == network.max_prefix_len()
            }
        }
    }

    /// Its host, where it has one.
    pub const fn host(&self) -> Option<&HostPattern> {
        match self {
            Self::Host(host) | Self::Request(host, _) => Some(host),
            Self::Network(_) | Self::Direct(..) | Self::Reply(..) => None,
        }
    }

    /// Its network, where it has one.
    pub const fn network(&self) -> Option<IpNet> {
        match self {
            Self::Network(network) | Self::Direct(_, network) | Self::Reply(_, network) => {
                Some(*network)
            }
            Self::Host(_) | Self::Request(..) => None,
        }
    }

    /// The same for another network; itself where it is about hosts.
    pub fn with_network(&self, network: IpNet) -> Self {
        match self {
            Self::Network(_) => Self::Network(network),
            Self::Direct(transport, _) => Self::Direct(*transport, network),
            Self::Reply(transport, _) => Self::Reply(*transport, network),
            Self::Host(_) | Self::Request(..) => self.clone(),
        }
    }

    fn key(&self) -> Key {
        match self {
            Self::Host(host) => Key::Host(Way::Gateway, host.clone()),
            Self::Request(host, _) => Key::Host(Way::Http, host.clone()),
            Self::Network(network) => Key::Network(Way::Gateway, *network),
            Self::Direct(transport, network) => Key::Network(Way::Direct(*transport), *network),
            Self::Reply(transport, network) => Key::Network(Way::Reply(*transport), *network),
        }
    }

    fn covering_keys(&self) -> Vec<Key> {
        match self.key() {
            Key::Host(way, host) => {
                let hosts = hosts_covering(&host, way == Way::Gateway);
                hosts.into_iter().map(|host| Key::Host(way, host)).collect()
            }
            Key::Network(way, network) => {
                // As the decision has it, which is the gateway's alone.
                let least = match (way, network) {
                    (Way::Gateway, IpNet::V4(net)) if net.addr().is_loopback() => LOOPBACK_PREFIX4,
                    (Way::Gateway, IpNet::V6(net)) if net.addr().is_loopback() => LOOPBACK_PREFIX6,
                    (Way::Gateway | Way::Http | Way::Direct(_) | Way::Reply(_), _) => 0,
                };
                let lengths = least.min(network.prefix_len())..=network.prefix_len();
                let wider = lengths.filter_map(|length| IpNet::new(network.addr(), length).ok());
                wider.map(|net| Key::Network(way, net.trunc())).collect()
            }
        }
    }
}

/// The pattern itself and every wildcard above it.
fn hosts_covering(host: &HostPattern, hides_ech: bool) -> Vec<HostPattern> {
    let mut all = vec![host.clone()];
    let name = match host {
        HostPattern::Exact(name) if hides_ech && ech::is_public_name(name) => return all,
        HostPattern::Exact(name) | HostPattern::Subdomains(name) => name,
    };
    let parents = name.parents();
    let parents = parents.filter_map(|parent| HostName::from_wire(parent.as_bytes()).ok());
    all.extend(parents.map(HostPattern::Subdomains));
    all
}

impl Request {
    fn covers(&self, other: &Self) -> bool {
        let method = self.method.is_none() || self.method == other.method;
        let path = match (&self.path, &other.path) {
            (None, _) => true,
            (Some(ours), Some(theirs)) => ours.covers(theirs),
            (Some(_), None) => false,
        };
        let (ours, theirs) = (&self.rule, &other.rule);
        let headers = ours.headers.iter().all(|wanted| {
            let mut asked = theirs.headers.iter();
            asked.any(|it| {
                it.name == wanted.name && (wanted.value.is_none() || it.value == wanted.value)
            })
        });
        let leads = |rule: &HttpRule| (rule.originate_tls, rule.upstream_port);
        let websocket = ours.websocket || !theirs.websocket;
        method && path && headers && websocket && leads(ours) == leads(theirs)
    }
}

/// `*.cdn.test`, `http GET status.test/v1/*`, `10.0.0.0/8`, `direct UDP 10.0.0.0/8`.
impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |transport: &Transport| transport.name();
        match self {
            Self::Host(host) => write!(f, "{host}"),
            Self::Request(host, request) => write_request(f, host, request),
            Self::Network(network) => write!(f, "{network}"),
            Self::Direct(transport, network) => {
                write!(f, "direct {} {network}", name(transport))
            }
            Self::Reply(transport, network) => {
                write!(f, "answers {} {network}", name(transport))
            }
        }
    }
}

fn write_request(f: &mut fmt::Formatter<'_>, host: &HostPattern, request: &Request) -> fmt::Result {
    f.write_str("http ")?;
    if let Some(method) = &request.method {
        write!(f, "{method} ")?;
    }
    write!(f, "{host}")?;
    if let Some(path) = &request.path {
        write!(f, "{path}")?;
    }
    for header in &request.rule.headers {
        write!(f, " with {header}")?;
    }
    if request.rule.websocket {
        f.write_str(" and WebSockets")?;
    }
    if request.rule.originate_tls {
        write!(f, " by TLS to port {}", request.rule.dials(0))?;
    }
    Ok(())
}
