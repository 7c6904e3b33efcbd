//! The one form that every source of policy is brought to: files, custom resources and flags.

use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{host::HostPattern, http::HttpRule, port::PortRange};

/// Ports of one direct entry that are written out one by one; more must be written as all. Each is
/// an entry of its own in the kernel's tables.
pub const DIRECT_PORTS_MAX: u32 = 1024;

/// One clause that allows something. There are no clauses that deny.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Where it stands, as records show it: `EgressPolicy shop/orders egress[0]`,
    /// `--allow repo.test`.
    pub name: String,
    /// What it allows, through the gateway.
    pub allow: Allow,
}

/// What a rule allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Allow {
    /// Connections that name one of these hosts, on one of these ports; and beside port 443 those
    /// that say no name, to an address that the endpoint was told for one.
    Hosts {
        /// The names.
        hosts: Vec<HostPattern>,
        /// The ports, never empty.
        ports: Vec<PortRange>,
    },
    /// Requests of plain HTTP, to one of these ports.
    Http {
        /// Which requests.
        http: HttpRule,
        /// The ports, never empty.
        ports: Vec<PortRange>,
    },
    /// Opaque TCP to these networks, on one of these ports.
    Cidrs {
        /// The networks.
        cidrs: Vec<IpNet>,
        /// The ports, never empty.
        ports: Vec<PortRange>,
    },
}

/// A transport that a direct entry names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    /// Protocol 6.
    Tcp,
    /// Protocol 17.
    Udp,
}

impl Transport {
    /// The number in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// Packets that may pass beside the gateway; for the kernel's maps. Of a rule of `replies` the
/// network is who may open, and the ports are the workload's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectEntry {
    /// The network, host bits zero.
    pub network: IpNet,
    /// The transport.
    pub transport: Transport,
    /// The ports.
    pub ports: PortRange,
    /// Where it stands: `ClusterEgressPolicy cluster-dns direct[0]`.
    pub rule: Arc<str>,
}

/// Whether a verdict of deny is carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// Denied is denied.
    #[default]
    Enforce,
    /// Denied is recorded and passes.
    Audit,
}
