//! `EgressPolicy` and `ClusterEgressPolicy` as they are written, in files and as custom
//! resources. Unknown fields are errors.

use std::{collections::BTreeMap, fmt, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    flag::parse_network,
    host::HostPattern,
    http::HttpRule,
    port::PortRange,
    rule::{Mode, Transport},
};

/// The only `apiVersion`.
pub const API_VERSION: &str = "egress-agent.dev/v1alpha1";

/// The `apiVersion` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApiVersion {
    /// [`API_VERSION`].
    #[serde(rename = "egress-agent.dev/v1alpha1")]
    V1Alpha1,
}

/// What the workloads of one namespace may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressPolicy {
    /// The version of this schema.
    pub api_version: ApiVersion,
    /// `EgressPolicy`.
    pub kind: String,
    /// Its name and namespace.
    pub metadata: Metadata,
    /// Its content.
    pub spec: EgressSpec,
}

/// What workloads of any namespace may reach, and what passes beside the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterEgressPolicy {
    /// The version of this schema.
    pub api_version: ApiVersion,
    /// `ClusterEgressPolicy`.
    pub kind: String,
    /// Its name.
    pub metadata: ClusterMetadata,
    /// Its content.
    pub spec: ClusterEgressSpec,
}

/// Name and namespace of an [`EgressPolicy`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// The namespace whose workloads it is about; none for endpoints that have none.
    pub namespace: Option<String>,
    /// Kept, not read.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Kept, not read.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// Name of a [`ClusterEgressPolicy`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterMetadata {
    /// Its name.
    pub name: String,
    /// Kept, not read.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Kept, not read.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// The content of an [`EgressPolicy`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressSpec {
    /// Which workloads of the namespace; all where it is empty.
    #[serde(default)]
    pub selector: Selector,
    /// Enforce or Audit.
    #[serde(default)]
    pub mode: Mode,
    /// What they may reach through the gateway.
    #[serde(default)]
    pub egress: Vec<EgressRule>,
}

/// The content of a [`ClusterEgressPolicy`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterEgressSpec {
    /// Which workloads of the cluster; all where it is empty.
    #[serde(default)]
    pub selector: ClusterSelector,
    /// Enforce or Audit.
    #[serde(default)]
    pub mode: Mode,
    /// What they may reach through the gateway.
    #[serde(default)]
    pub egress: Vec<EgressRule>,
    /// What passes beside the gateway, unmonitored.
    #[serde(default)]
    pub direct: Vec<DirectRule>,
    /// Whom else they may answer, beside the gateway and unmonitored, than the node and the
    /// cluster.
    #[serde(default)]
    pub replies: Vec<ReplyRule>,
}

/// Every field that is written must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// One of these service accounts.
    #[serde(default)]
    pub service_accounts: Vec<String>,
    /// All of these labels.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

/// Every field that is written must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterSelector {
    /// One of these namespaces.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// One of these service accounts.
    #[serde(default)]
    pub service_accounts: Vec<String>,
    /// All of these labels.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

/// One clause of `egress`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawEgressRule", into = "RawEgressRule")]
pub enum EgressRule {
    /// By name; port 443 where none is written.
    Hosts {
        /// The names.
        hosts: Vec<HostPattern>,
        /// The ports.
        ports: Vec<PortRange>,
    },
    /// Plain HTTP by request; port 80 where none is written.
    Http {
        /// The requests.
        http: HttpRule,
        /// The ports.
        ports: Vec<PortRange>,
    },
    /// Opaque TCP by address; every port where none is written.
    Cidrs {
        /// The networks.
        cidrs: Vec<Network>,
        /// The ports.
        ports: Vec<PortRange>,
    },
}

/// A clause as it is written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawEgressRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    hosts: Option<Vec<HostPattern>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<Vec<PortRange>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<HttpRule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cidrs: Option<Vec<Network>>,
}

impl TryFrom<RawEgressRule> for EgressRule {
    type Error = &'static str;

    fn try_from(raw: RawEgressRule) -> Result<Self, Self::Error> {
        const ONE: &str = "a rule of egress has exactly one of \"hosts\", \"cidrs\" or \"http\"";
        if raw.ports.as_ref().is_some_and(Vec::is_empty) {
            return Err("\"ports\" is empty; write the ports, or leave the field out");
        }
        match (raw.hosts, raw.cidrs, raw.http) {
            (Some(hosts), None, None) if hosts.is_empty() => {
                Err("\"hosts\" is empty; write the hosts, or leave the rule out")
            }
            (Some(hosts), None, None) => Ok(Self::Hosts {
                hosts,
                ports: raw.ports.unwrap_or_else(|| vec![PortRange::HTTPS]),
            }),
            (None, Some(cidrs), None) if cidrs.is_empty() => {
                Err("\"cidrs\" is empty; write the networks, or leave the rule out")
            }
            (None, Some(cidrs), None) => Ok(Self::Cidrs {
                cidrs,
                ports: raw.ports.unwrap_or_else(|| vec![PortRange::ALL]),
            }),
            (None, None, Some(http)) => {
                http.check()?;
                Ok(Self::Http {
                    http,
                    ports: raw.ports.unwrap_or_else(|| vec![PortRange::HTTP]),
                })
            }
            (None, None, None)
            | (Some(_), Some(_), _)
            | (Some(_), _, Some(_))
            | (_, Some(_), Some(_)) => Err(ONE),
        }
    }
}

impl From<EgressRule> for RawEgressRule {
    fn from(rule: EgressRule) -> Self {
        match rule {
            EgressRule::Hosts { hosts, ports } => Self {
                hosts: Some(hosts),
                ports: Some(ports),
                ..Self::default()
            },
            EgressRule::Http { http, ports } => Self {
                http: Some(http),
                ports: Some(ports),
                ..Self::default()
            },
            EgressRule::Cidrs { cidrs, ports } => Self {
                cidrs: Some(cidrs),
                ports: Some(ports),
                ..Self::default()
            },
        }
    }
}

/// Packets that pass beside the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DirectRule {
    /// To these networks.
    pub cidrs: Vec<Network>,
    /// On these ports; every port where none is written.
    #[serde(default)]
    pub ports: Vec<PortRange>,
    /// By these transports; TCP where none is written.
    #[serde(default)]
    pub protocols: Vec<Transport>,
}

/// Who may open flows to workloads, on which these then answer. TCP of the node and the cluster
/// needs no such rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplyRule {
    /// From these networks.
    pub from: Vec<Network>,
    /// To these ports of the workload; every port where none is written.
    #[serde(default)]
    pub ports: Vec<PortRange>,
    /// By these transports; TCP where none is written.
    #[serde(default)]
    pub protocols: Vec<Transport>,
}

/// A network whose host bits are zero, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network(pub IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = parse_network(text).ok_or_else(|| {
            format!(
                "{text:?} is no network; write one such as \"198.51.100.0/24\" or \"2001:db8::/32\""
            )
        })?;
        if network != network.trunc() {
            let trunc = network.trunc();
            return Err(format!(
                "{text:?} has bits set beyond its prefix; write \"{trunc}\""
            ));
        }
        Ok(Self(network))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for Network {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}
