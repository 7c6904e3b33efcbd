//! Which policies apply to an endpoint, and what they come to.

use std::collections::BTreeMap;

use super::{
    port::PortRange,
    rule::{Allow, DirectEntry, Mode, Rule, Transport},
    schema::{ClusterEgressPolicy, EgressPolicy, EgressRule, Network},
};

/// What an endpoint may be known as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// All policies that were loaded.
#[derive(Clone, Debug, Default)]
pub struct Policies(Vec<Policy>);

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
        self.0.extend(policies);
    }

    /// In the order they were loaded.
    pub fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.0.iter()
    }

    /// What holds for this endpoint.
    pub fn select(&self, identity: &Identity) -> Selected {
        self.collect(|policy| policy.selects(identity))
    }

    /// What all of them come to, selectors aside: for a single command.
    pub fn all(&self) -> Selected {
        self.collect(|_| true)
    }

    fn collect(&self, mut applies: impl FnMut(&Policy) -> bool) -> Selected {
        let mut selected = Selected::default();
        for policy in self.0.iter().filter(|policy| applies(policy)) {
            selected.mode = match (selected.mode, policy.mode()) {
                (None | Some(Mode::Audit), mode) => Some(mode),
                (Some(Mode::Enforce), _) => Some(Mode::Enforce),
            };
            policy.append_to(&mut selected);
        }
        selected
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

    fn append_to(&self, selected: &mut Selected) {
        let egress = match self {
            Self::Namespaced(p) => &p.spec.egress,
            Self::Cluster(p) => &p.spec.egress,
        };
        let name = self.name();
        for (index, rule) in egress.iter().enumerate() {
            selected.rules.push(Rule {
                name: format!("{name} egress[{index}]"),
                allow: allow(rule),
            });
        }
        let Self::Cluster(p) = self else {
            return;
        };
        for (index, rule) in p.spec.direct.iter().enumerate() {
            let name = format!("{name} direct[{index}]");
            let entries = entries(&rule.cidrs, &rule.ports, &rule.protocols, &name);
            selected.direct.extend(entries);
        }
        for (index, rule) in p.spec.replies.iter().enumerate() {
            let name = format!("{name} replies[{index}]");
            let entries = entries(&rule.from, &rule.ports, &rule.protocols, &name);
            selected.replies.extend(entries);
        }
    }
}

fn allow(rule: &EgressRule) -> Allow {
    match rule {
        EgressRule::Hosts { hosts, ports } => Allow::Hosts {
            hosts: hosts.clone(),
            ports: ports.clone(),
        },
        EgressRule::Cidrs { cidrs, ports } => Allow::Cidrs {
            cidrs: cidrs.iter().map(|network| network.0).collect(),
            ports: ports.clone(),
        },
    }
}

/// Every network with every transport and range of ports.
fn entries(
    networks: &[Network],
    ports: &[PortRange],
    transports: &[Transport],
    rule: &str,
) -> Vec<DirectEntry> {
    let ports = match ports {
        [] => &[PortRange::ALL],
        ports => ports,
    };
    let transports = match transports {
        [] => &[Transport::Tcp],
        transports => transports,
    };
    let mut entries = Vec::new();
    for network in networks {
        for &transport in transports {
            entries.extend(ports.iter().map(|&ports| DirectEntry {
                network: network.0,
                transport,
                ports,
                rule: rule.to_owned(),
            }));
        }
    }
    entries
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
            selected.direct[0].rule,
            "ClusterEgressPolicy base direct[0]"
        );
        assert_eq!(selected.direct[0].transport, Transport::Udp);
    }
}
