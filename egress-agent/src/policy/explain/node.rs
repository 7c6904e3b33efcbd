//! What the kernel does with a call, by its own decision, as far as it follows from policy and
//! configuration.

use std::net::{IpAddr, Ipv4Addr};

use egress_common::{
    address::Address,
    attempt::Attempt,
    decide::{Tables, decide},
    endpoint::{Endpoint, Gateway, HAS_LINK, PRIVATE_LOOPBACK},
    maps::Class,
    verdict::{Layer, Service, Verdict},
};
use ipnet::IpNet;

use super::question::{Destination, Question};
use crate::policy::rule::{DirectEntry, Transport};

/// A node as its configuration describes it; its own addresses are not known.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Where the gateway listens.
    pub gateway: Gateway,
    /// The networks of pods and Services.
    pub cluster: Vec<IpNet>,
    /// Whether the endpoint has a veth, and so a loopback of its own.
    pub has_link: bool,
}

impl Default for NodeView {
    fn default() -> Self {
        Self {
            gateway: Gateway {
                v4: Address::UNSPECIFIED,
                v6: Address::UNSPECIFIED,
                port: 0,
                dns_port: 0,
                proxy_port: 0,
                reserved: 0,
            },
            cluster: Vec::new(),
            has_link: false,
        }
    }
}

impl NodeView {
    /// The verdict about a TCP `connect`, or about a datagram, to this address; and the most
    /// particular direct entry that names it.
    pub fn kernel<'a>(
        &self,
        address: IpAddr,
        port: u16,
        transport: Transport,
        direct: &'a [DirectEntry],
    ) -> (Verdict, Option<&'a DirectEntry>) {
        let address = address.to_canonical();
        let names = |it: &&DirectEntry| {
            it.transport == transport && it.ports.contains(port) && it.network.contains(&address)
        };
        let entry = direct.iter().filter(names);
        let entry = entry.max_by_key(|it| it.network.prefix_len());
        let layer = match transport {
            Transport::Tcp => Layer::Connect,
            Transport::Udp => Layer::Sendmsg,
        };
        let attempt = Attempt::call(layer, transport.number(), Address::from(address), port);
        let endpoint = Endpoint {
            id: 1,
            flags: if self.has_link {
                HAS_LINK | PRIVATE_LOOPBACK
            } else {
                0
            },
            ..Endpoint::NONE
        };
        let known = Known {
            is_direct: entry.is_some(),
            class: match self.cluster.iter().any(|it| it.contains(&address)) {
                true => Class::Cluster,
                false => Class::Outside,
            },
        };
        (decide(&attempt, &endpoint, &self.gateway, &known), entry)
    }
}

impl NodeView {
    /// Whether the kernel leaves a question to the gateway, direct entries aside.
    pub(super) fn is_gateways(&self, question: &Question) -> bool {
        let (verdict, _) = match question.to {
            Destination::Address(address) => {
                self.kernel(address, question.port, question.transport, &[])
            }
            Destination::Host(_) => self.kernel_of_host(question),
        };
        verdict == Verdict::Redirect(Service::Proxy)
    }

    /// The verdict about wherever a host is.
    pub(super) fn kernel_of_host(
        &self,
        question: &Question,
    ) -> (Verdict, Option<&'static DirectEntry>) {
        let elsewhere = Self {
            cluster: Vec::new(),
            ..self.clone()
        };
        elsewhere.kernel(SOMEWHERE, question.port, question.transport, &[])
    }
}

/// Stands for whatever address a host has (RFC 5737).
const SOMEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

/// What is known of the address that is asked about.
struct Known {
    is_direct: bool,
    class: Class,
}

impl Tables for Known {
    fn is_direct(&self, _set: u32, _attempt: &Attempt) -> bool {
        self.is_direct
    }

    fn role_of(&self, _endpoint: u32, _address: &Address) -> u8 {
        0
    }

    fn class_of(&self, _address: &Address) -> Class {
        self.class
    }

    fn is_reply(&self, _endpoint: u32, _attempt: &Attempt) -> bool {
        false
    }

    fn is_listening(&self, _attempt: &Attempt) -> bool {
        false
    }
}
