//! Kinds of addresses, by their textbook networks.

use std::net::IpAddr;

use egress_common::verdict::DropReason;

use super::super::world::Network;

fn within(ip: IpAddr, network: &str) -> bool {
    let (address, bits) = network.split_once('/').unwrap();
    Network {
        address: address.parse().unwrap(),
        bits: bits.parse().unwrap(),
    }
    .contains(ip)
}

/// The host itself: loopback, or no address at all, which Linux takes for the same.
pub(super) fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified()
}

/// Why a destination is never outside, by the first line that it fits.
pub(super) fn never_outside(ip: IpAddr) -> Option<DropReason> {
    use DropReason::{Broadcast, LinkLocal, MetadataService, Multicast, Unroutable};
    [
        ("169.254.169.254/32", MetadataService),
        ("100.100.100.200/32", MetadataService),
        ("fd00:ec2::254/128", MetadataService),
        ("255.255.255.255/32", Broadcast),
        ("0.0.0.0/8", Unroutable),
        ("224.0.0.0/4", Multicast),
        ("ff00::/8", Multicast),
        ("240.0.0.0/4", Unroutable),
        ("169.254.0.0/16", LinkLocal),
        ("fe80::/10", LinkLocal),
    ]
    .into_iter()
    .find(|(network, _)| within(ip, network))
    .map(|(_, reason)| reason)
}
