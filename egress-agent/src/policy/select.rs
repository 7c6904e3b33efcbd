//! Which policies apply to an endpoint, and what they come to.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    port::PortRange,
    rule::{Allow, DirectEntry, Mode, Rule, Transport},
    schema::{ClusterEgressPolicy, ClusterEgressSpec, EgressPolicy, EgressRule, Network},
};

/// What an endpoint may be known as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Its namespace; none outside a cluster.
    pub namespace: Option<String>,
    /// Its service account.
    pub service_account: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A policy of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Of one namespace.
    Namespaced(EgressPolicy),
    /// Of the cluster or node.
    Cluster(ClusterEgressPolicy),
}

/// All policies that were loaded. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct Policies(Arc<Vec<Policy>>);

/// What the policies that select an endpoint come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// Enforce where any selecting policy says so, Audit where all say so, none where no policy
    /// selects the endpoint: then the node's own default decides.
    pub mode: Option<Mode>,
    /// What may be reached through the gateway.
    pub rules: Vec<Rule>,
    /// What passes beside it.
    pub direct: Vec<DirectEntry>,
    /// Who may open flows to it beside the node and the cluster.
    pub replies: Vec<DirectEntry>,
}

impl Policies {
    /// Adds the policies of one more file.
    pub fn add(&mut self, policies: Vec<Policy>) {
        Arc::make_mut(&mut self.0).extend(policies);
    }

    /// Whether the other is a clone of this.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// In the order they were loaded.
    pub fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.0.iter()
    }

    /// What holds for this endpoint.
    pub fn select(&self, identity: &Identity) -> Selected {
        self.collect(&self.selecting(identity))
    }

    /// What all of them come to, selectors aside: for a single command.
    pub fn all(&self) -> Selected {
        self.collect(&(0..self.0.len()).collect::<Vec<_>>())
    }

    /// Which of them, by their places in the order of loading, are about this endpoint.
    pub fn selecting(&self, identity: &Identity) -> Vec<usize> {
        let selecting = self.0.iter().enumerate();
        let selecting = selecting.filter(|(_, policy)| policy.selects(identity));
        selecting.map(|(place, _)| place).collect()
    }

    /// Those of the places whose policies let something pass beside the gateway.
    pub fn with_direct(&self, places: &[usize]) -> Vec<usize> {
        let places = places.iter().copied();
        let with = places.filter(|place| {
            self.0[*place]
                .cluster()
                .is_some_and(|it| !it.direct.is_empty())
        });
        with.collect()
    }

    /// Enforce where any of these says so, Audit where all do, none where there are none.
    pub fn mode(&self, places: &[usize]) -> Option<Mode> {
        let modes = places.iter().map(|place| self.0[*place].mode());
        modes.reduce(|a, b| match (a, b) {
            (Mode::Audit, Mode::Audit) => Mode::Audit,
            (Mode::Enforce, _) | (_, Mode::Enforce) => Mode::Enforce,
        })
    }

    /// What may be reached through the gateway, by the policies in these places.
    pub fn rules(&self, places: &[usize]) -> Vec<Rule> {
        let rules = places.iter().flat_map(|place| self.0[*place].rules());
        rules.collect()
    }

    /// What passes beside the gateway, by the policies in these places.
    pub fn direct(&self, places: &[usize]) -> Vec<DirectEntry> {
        let mut entries = Vec::new();
        for place in places {
            self.0[*place].append_direct(&mut entries);
        }
        entries
    }

    /// Whom else workloads may answer, by the policies in these places.
    pub fn replies(&self, places: &[usize]) -> Vec<DirectEntry> {
        let mut entries = Vec::new();
        for place in places {
            self.0[*place].append_replies(&mut entries);
        }
        entries
    }

    fn collect(&self, places: &[usize]) -> Selected {
        Selected {
            mode: self.mode(places),
            rules: self.rules(places),
            direct: self.direct(places),
            replies: self.replies(places),
        }
    }
}

impl Policy {
    /// `EgressPolicy shop/orders`, `ClusterEgressPolicy dns`.
    pub fn name(&self) -> String {
        match self {
            Self::Namespaced(p) => match &p.metadata.namespace {
                Some(namespace) => format!("EgressPolicy {namespace}/{}", p.metadata.name),
                None => format!("EgressPolicy {}", p.metadata.name),
            },
            Self::Cluster(p) => format!("ClusterEgressPolicy {}", p.metadata.name),
        }
    }

    /// `kind`, as it was written.
    pub fn kind(&self) -> &str {
        match self {
            Self::Namespaced(p) => &p.kind,
            Self::Cluster(p) => &p.kind,
        }
    }

    /// Its mode.
    pub fn mode(&self) -> Mode {
        match self {
            Self::Namespaced(p) => p.spec.mode,
            Self::Cluster(p) => p.spec.mode,
        }
    }

    /// Whether it is about this endpoint.
    pub fn selects(&self, identity: &Identity) -> bool {
        match self {
            Self::Namespaced(p) => {
                p.metadata.namespace == identity.namespace
                    && among(&p.spec.selector.service_accounts, &identity.service_account)
                    && has_labels(identity, &p.spec.selector.match_labels)
            }
            Self::Cluster(p) => {
                among(&p.spec.selector.namespaces, &identity.namespace)
                    && among(&p.spec.selector.service_accounts, &identity.service_account)
                    && has_labels(identity, &p.spec.selector.match_labels)
            }
        }
    }

    /// Its rules of `egress`.
    pub(super) fn egress(&self) -> &[EgressRule] {
        match self {
            Self::Namespaced(p) => &p.spec.egress,
            Self::Cluster(p) => &p.spec.egress,
        }
    }

    /// What only the cluster's can have.
    pub(super) fn cluster(&self) -> Option<&ClusterEgressSpec> {
        match self {
            Self::Namespaced(_) => None,
            Self::Cluster(p) => Some(&p.spec),
        }
    }

    fn rules(&self) -> impl Iterator<Item = Rule> {
        let name = self.name();
        let rules = self.egress().iter().enumerate();
        rules.map(move |(index, rule)| Rule {
            name: format!("{name} egress[{index}]"),
            allow: allow(rule),
        })
    }

    fn append_direct(&self, all: &mut Vec<DirectEntry>) {
        let rules = self.cluster().into_iter().flat_map(|it| &it.direct);
        for (index, rule) in rules.enumerate() {
            let name = format!("{} direct[{index}]", self.name());
            append(all, &rule.cidrs, &rule.ports, &rule.protocols, &name.into());
        }
    }

    fn append_replies(&self, all: &mut Vec<DirectEntry>) {
        let rules = self.cluster().into_iter().flat_map(|it| &it.replies);
        for (index, rule) in rules.enumerate() {
            let name = format!("{} replies[{index}]", self.name());
            append(all, &rule.from, &rule.ports, &rule.protocols, &name.into());
        }
    }
}

fn allow(rule: &EgressRule) -> Allow {
    match rule {
        EgressRule::Hosts { hosts, ports } => Allow::Hosts {
            hosts: hosts.clone(),
            ports: ports.clone(),
        },
        EgressRule::Http { http, ports } => Allow::Http {
            http: http.clone(),
            ports: ports.clone(),
        },
        EgressRule::Cidrs { cidrs, ports } => Allow::Cidrs {
            cidrs: cidrs.iter().map(|network| network.0).collect(),
            ports: ports.clone(),
        },
    }
}

/// Appends every network with every transport and range of ports.
fn append(
    entries: &mut Vec<DirectEntry>,
    networks: &[Network],
    ports: &[PortRange],
    transports: &[Transport],
    rule: &Arc<str>,
) {
    let (ports, transports) = with_defaults(ports, transports);
    for network in networks {
        for &transport in transports {
            entries.extend(ports.iter().map(|&ports| DirectEntry {
                network: network.0,
                transport,
                ports,
                rule: Arc::clone(rule),
            }));
        }
    }
}

/// Every port where none is written, and TCP where no transport is.
pub(super) const fn with_defaults<'a>(
    ports: &'a [PortRange],
    transports: &'a [Transport],
) -> (&'a [PortRange], &'a [Transport]) {
    let ports = match ports {
        [] => &[PortRange::ALL],
        ports => ports,
    };
    let transports = match transports {
        [] => &[Transport::Tcp],
        transports => transports,
    };
    (ports, transports)
}

/// An empty list is no condition; a condition is never met by what is not known.
fn among(allowed: &[String], value: &Option<String>) -> bool {
    allowed.is_empty() || value.as_ref().is_some_and(|value| allowed.contains(value))
}

fn has_labels(identity: &Identity, wanted: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| identity.labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::load::load_str;

    fn policies(text: &str) -> Policies {
        let mut policies = Policies::default();
        policies.add(load_str(Path::new("p.yaml"), text).unwrap());
        policies
    }

    const TEXT: &str = "
apiVersion: egress-agent.dev/v1alpha1
kind: EgressPolicy
metadata: { name: orders, namespace: shop }
spec:
  selector: { serviceAccounts: [orders], matchLabels: { tier: back } }
  egress: [ { hosts: [a.test] }, { cidrs: [198.51.100.0/24] } ]
---
apiVersion: egress-agent.dev/v1alpha1
kind: ClusterEgressPolicy
metadata: { name: base }
spec:
  mode: Audit
  direct: [ { cidrs: [10.96.0.10/32], ports: [53], protocols: [UDP, TCP] } ]
";

    fn identity(namespace: &str, account: &str, tier: &str) -> Identity {
        Identity {
            namespace: Some(namespace.into()),
            service_account: Some(account.into()),
            labels: [("tier".to_owned(), tier.to_owned())].into(),
        }
    }

    #[test]
    fn selectors() {
        let policies = policies(TEXT);
        let table = [
            (identity("shop", "orders", "back"), 2, Some(Mode::Enforce)),
            (identity("shop", "orders", "front"), 0, Some(Mode::Audit)),
            (identity("shop", "other", "back"), 0, Some(Mode::Audit)),
            (identity("other", "orders", "back"), 0, Some(Mode::Audit)),
            (Identity::default(), 0, Some(Mode::Audit)),
        ];
        for (identity, rules, mode) in table {
            let selected = policies.select(&identity);
            assert_eq!(
                (selected.rules.len(), selected.mode),
                (rules, mode),
                "{identity:?}"
            );
            assert_eq!(selected.direct.len(), 2);
        }
        assert_eq!(Policies::default().select(&Identity::default()).mode, None);
    }

    #[test]
    fn rules_are_named_by_where_they_stand() {
        let selected = policies(TEXT).select(&identity("shop", "orders", "back"));
        assert_eq!(selected.rules[0].name, "EgressPolicy shop/orders egress[0]");
        assert_eq!(selected.rules[1].name, "EgressPolicy shop/orders egress[1]");
        assert_eq!(
            &*selected.direct[0].rule,
            "ClusterEgressPolicy base direct[0]"
        );
        assert_eq!(selected.direct[0].transport, Transport::Udp);
    }
}
