//! What the decision looks up, as plain lists: the endpoint, its link, the gateway, the policies'
//! direct entries, the node's networks, flows and listeners. Entries of strangers are among them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_common::{
    address::Address,
    attempt::Attempt,
    decide::Tables,
    endpoint::{Endpoint, Gateway, Link},
    maps::{Class, NEXT_HOP, OWN},
};

/// The endpoint that is judged.
pub(crate) const ENDPOINT: u32 = 1;
/// Its set of direct entries.
pub(crate) const SET: u32 = 7;

/// An address and the bits of it that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    /// An address within.
    pub(crate) address: IpAddr,
    /// Its length, up to 32 or 128.
    pub(crate) bits: u8,
}

impl Network {
    /// Bit by bit. Networks of the one family hold no address of the other.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        let bits = |ip: IpAddr| -> Vec<bool> {
            let bytes = match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let of = |byte: u8| (0..8).rev().map(move |bit| byte >> bit & 1 == 1);
            bytes.into_iter().flat_map(of).collect()
        };
        let length = usize::from(self.bits);
        self.address.is_ipv4() == ip.is_ipv4() && bits(self.address)[..length] == bits(ip)[..length]
    }
}

/// What a network is to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The node's own address.
    Node,
    /// Pods and Services.
    Cluster,
    /// Everything else.
    Outside,
}

/// A direct entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Direct {
    /// Whose.
    pub(crate) set: u32,
    /// Where to.
    pub(crate) network: Network,
    /// The IP protocol number.
    pub(crate) protocol: u8,
    /// 0 for every port.
    pub(crate) port: u16,
}

/// A flow that was opened inbound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Whose.
    pub(crate) endpoint: u32,
    /// Who opened it.
    pub(crate) remote: IpAddr,
    /// Its port there.
    pub(crate) remote_port: u16,
    /// Its port here.
    pub(crate) local_port: u16,
    /// The IP protocol number.
    pub(crate) protocol: u8,
}

/// All of it.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// The endpoint's flags.
    pub(crate) flags: u8,
    /// Enforce or Audit.
    pub(crate) mode: u8,
    /// The gateway's address.
    pub(crate) gateway4: Ipv4Addr,
    /// The gateway's address, where the node has IPv6.
    pub(crate) gateway6: Option<Ipv6Addr>,
    /// The proxy's port.
    pub(crate) proxy: u16,
    /// The resolver's port.
    pub(crate) resolver: u16,
    /// The endpoint's MAC address.
    pub(crate) mac: [u8; 6],
    /// Its next hop's.
    pub(crate) next_hop_mac: [u8; 6],
    /// The endpoint's addresses.
    pub(crate) own: Vec<IpAddr>,
    /// What its next hop answers for.
    pub(crate) next_hop: Vec<IpAddr>,
    /// What the node knows of networks; the longest holds.
    pub(crate) networks: Vec<(Network, Place)>,
    /// Direct entries of all policies.
    pub(crate) direct: Vec<Direct>,
    /// Inbound flows of all endpoints.
    pub(crate) flows: Vec<Flow>,
    /// Who listens in the endpoint's network namespace.
    pub(crate) listening: Vec<(IpAddr, u16)>,
}

impl World {
    /// The endpoint as its map holds it.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint {
            id: ENDPOINT,
            direct: SET,
            mode: self.mode,
            flags: self.flags,
            ..Endpoint::NONE
        }
    }

    /// The link as its map holds it.
    pub(crate) fn link(&self) -> Link {
        Link {
            endpoint: ENDPOINT,
            mac: self.mac,
            next_hop_mac: self.next_hop_mac,
            own: std::array::from_fn(|at| {
                let own = self.own.get(at).copied();
                own.map_or(Address::UNSPECIFIED, Address::from)
            }),
        }
    }

    /// The gateway as the configuration holds it: without IPv6 its address is unspecified.
    pub(crate) fn gateway(&self) -> Gateway {
        let v6 = self.gateway6.unwrap_or(Ipv6Addr::UNSPECIFIED);
        Gateway {
            v4: IpAddr::from(self.gateway4).into(),
            v6: IpAddr::from(v6).into(),
            port: self.proxy,
            dns_port: self.resolver,
            proxy_port: 15_002,
            reserved: 0,
        }
    }

    /// Whether a direct entry of the endpoint's set is for this.
    pub(crate) fn goes_direct(&self, protocol: u8, to: IpAddr, port: u16) -> bool {
        self.direct.iter().any(|entry| {
            entry.set == SET
                && entry.protocol == protocol
                && entry.network.contains(to)
                && [0, port].contains(&entry.port)
        })
    }

    /// What the node knows of the address.
    pub(crate) fn place(&self, ip: IpAddr) -> Place {
        let around = self.networks.iter().filter(|(n, _)| n.contains(ip));
        around
            .max_by_key(|(network, _)| network.bits)
            .map_or(Place::Outside, |(_, place)| *place)
    }

    /// Whether the endpoint was spoken to on this flow.
    pub(crate) fn was_opened(&self, flow: &Flow) -> bool {
        self.flows.contains(flow)
    }

    /// Whether somebody listens there, within.
    pub(crate) fn has_listener(&self, ip: IpAddr, port: u16) -> bool {
        self.listening.contains(&(ip, port))
    }
}

/// What the decision under test asks.
impl Tables for World {
    fn is_direct(&self, set: u32, attempt: &Attempt) -> bool {
        let to = attempt.destination.to_ip();
        set == SET && self.goes_direct(attempt.protocol, to, attempt.destination_port)
    }

    fn role_of(&self, endpoint: u32, address: &Address) -> u8 {
        if endpoint != ENDPOINT {
            return 0;
        }
        let among = |list: &[IpAddr], role| {
            let found = list.contains(&address.to_ip());
            if found { role } else { 0 }
        };
        among(&self.own, OWN) | among(&self.next_hop, NEXT_HOP)
    }

    fn class_of(&self, address: &Address) -> Class {
        match self.place(address.to_ip()) {
            Place::Node => Class::Node,
            Place::Cluster => Class::Cluster,
            Place::Outside => Class::Outside,
        }
    }

    fn is_reply(&self, endpoint: u32, attempt: &Attempt) -> bool {
        self.was_opened(&Flow {
            endpoint,
            remote: attempt.destination.to_ip(),
            remote_port: attempt.destination_port,
            local_port: attempt.source_port,
            protocol: attempt.protocol,
        })
    }

    fn is_listening(&self, attempt: &Attempt) -> bool {
        self.has_listener(attempt.destination.to_ip(), attempt.destination_port)
    }
}
