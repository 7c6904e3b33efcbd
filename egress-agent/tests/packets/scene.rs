//! One endpoint, its link and its direct entries, the gateway, node and cluster: what the maps hold, and
//! the same tables for the parser and the decision in user space.

use std::net::IpAddr;

use egress_common::{
    address::Address,
    attempt::Attempt,
    decide::{Tables, decide},
    endpoint::{Endpoint, Gateway, Link, MODE_ENFORCE},
    frame::{ETHERNET_HEADER, Frame, parse_frame},
    maps::{Class, NEXT_HOP, OWN},
    packet::parse_ip,
    verdict::{Layer, Verdict},
};
use ipnet::IpNet;

/// The endpoint's id; 2 is an empty slot.
pub(crate) const ID: u32 = 1;
pub(crate) const SET: u32 = 7;

pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 5];
pub(crate) const NEXT_HOP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const FOREIGN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 6];

pub(crate) const OWN4: &str = "10.1.0.5";
pub(crate) const OWN6: &str = "fd00:1::5";
pub(crate) const OWN_LINK_LOCAL: &str = "fe80::5";
pub(crate) const NEXT_HOP4: &str = "10.1.0.1";
pub(crate) const NEXT_HOP6: &str = "fe80::1";
/// The neighbours' addresses, which are nothing to the endpoint.
pub(crate) const NEIGHBOUR4: &str = "10.1.0.6";
pub(crate) const NEIGHBOUR6: &str = "fd00:1::6";

pub(crate) const GATEWAY4: &str = "169.254.64.1";
pub(crate) const GATEWAY6: &str = "fd65:6772:6573::1";
pub(crate) const PROXY: u16 = 15_001;
pub(crate) const RESOLVER: u16 = 15_053;

pub(crate) const NODE4: &str = "10.0.0.1";
pub(crate) const NODE6: &str = "fd00::1";

/// The endpoint's addresses, and what its next hop answers for.
pub(crate) const ROLES: [(&str, u8); 5] = [
    (OWN4, OWN),
    (OWN6, OWN),
    (OWN_LINK_LOCAL, OWN),
    (NEXT_HOP4, NEXT_HOP),
    (NEXT_HOP6, NEXT_HOP),
];

/// The node lies in the cluster's networks: the longer one holds.
pub(crate) const NETWORKS: [(&str, Class); 4] = [
    ("10.0.0.0/8", Class::Cluster),
    ("10.0.0.1/32", Class::Node),
    ("fd00::/16", Class::Cluster),
    ("fd00::1/128", Class::Node),
];

/// Set, protocol, network, port (0 for every port). The last one is of another set.
pub(crate) const DIRECT: [(u32, u8, &str, u16); 5] = [
    (SET, 6, "10.9.0.9/32", 5_432),
    (SET, 6, "fd00:9::9/128", 5_432),
    (SET, 17, "10.8.0.0/16", 0),
    (SET, 6, "fd00:8::/32", 9_000),
    (SET + 1, 6, "10.9.0.10/32", 5_432),
];

pub(crate) fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

pub(crate) fn network(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// In Enforce, and without flags: those depend on the hook.
pub(crate) fn endpoint() -> Endpoint {
    Endpoint {
        id: ID,
        direct: SET,
        mode: MODE_ENFORCE,
        ..Endpoint::NONE
    }
}

pub(crate) fn link() -> Link {
    Link {
        endpoint: ID,
        mac: MAC,
        next_hop_mac: NEXT_HOP_MAC,
        // Another one is to be looked up.
        own: [address(OWN4), address(OWN6), Address::UNSPECIFIED],
    }
}

pub(crate) fn gateway() -> Gateway {
    Gateway {
        v4: address(GATEWAY4),
        v6: address(GATEWAY6),
        port: PROXY,
        dns_port: RESOLVER,
        proxy_port: 15002,
        reserved: 0,
    }
}

/// What user space says of a frame on the link, and what it read of it.
pub(crate) fn judge_frame(frame: &[u8]) -> (Verdict, Attempt) {
    let mut attempt = Attempt::call(Layer::Link, 0, Address::UNSPECIFIED, 0);
    let verdict = match parse_frame(&frame, &link(), &Model, &mut attempt) {
        Ok(Frame::Neighbour) => Verdict::Allow,
        Ok(Frame::Ip) => decide(&attempt, &endpoint(), &gateway(), &Model),
        Err(reason) => Verdict::Deny(reason),
    };
    (verdict, attempt)
}

/// What user space says of the packet in a frame, as a socket's hook sees it.
pub(crate) fn judge_packet(frame: &[u8]) -> (Verdict, Attempt) {
    let packet = &frame[ETHERNET_HEADER as usize..];
    let mut attempt = Attempt::call(Layer::CgroupSkb, 0, Address::UNSPECIFIED, 0);
    let verdict = match parse_ip(&packet, 0, &mut attempt) {
        Ok(()) => decide(&attempt, &endpoint(), &gateway(), &Model),
        Err(reason) => Verdict::Deny(reason),
    };
    (verdict, attempt)
}

/// The tables above, without flows.
struct Model;

impl Tables for Model {
    fn is_direct(&self, set: u32, attempt: &Attempt) -> bool {
        DIRECT.iter().any(|(of, protocol, to, port)| {
            *of == set
                && *protocol == attempt.protocol
                && (*port == 0 || *port == attempt.destination_port)
                && network(to).contains(&attempt.destination.to_ip())
        })
    }

    fn role_of(&self, endpoint: u32, wanted: &Address) -> u8 {
        let found = ROLES.iter().find(|(text, _)| address(text) == *wanted);
        found.map_or(0, |(_, role)| if endpoint == ID { *role } else { 0 })
    }

    fn class_of(&self, address: &Address) -> Class {
        NETWORKS
            .iter()
            .filter(|(text, _)| network(text).contains(&address.to_ip()))
            .max_by_key(|(text, _)| network(text).prefix_len())
            .map_or(Class::Outside, |(_, class)| *class)
    }

    fn is_reply(&self, _endpoint: u32, _attempt: &Attempt) -> bool {
        false
    }

    fn is_listening(&self, _attempt: &Attempt) -> bool {
        false
    }
}
