//! The frame around a packet that could go, and whose it says that it is.

use egress_common::verdict::DropReason;

use super::{Case, denials};
use crate::{
    frame::{BROADCAST, at, ethernet, octets, patched, syn, udp},
    scene::{
        FOREIGN_MAC, GATEWAY4, GATEWAY6, MAC, NEIGHBOUR4, NEIGHBOUR6, NEXT_HOP4, NODE4, PROXY,
        RESOLVER,
    },
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = ethertypes();
    cases.extend(macs());
    cases.extend(sources());
    cases
}

fn ethertypes() -> Vec<Case> {
    use DropReason::{Ethertype, Malformed, Truncated, Vlan};
    let packet = syn(GATEWAY4, PROXY).split_off(at::VERSION);
    let tagged = |tag| ethernet(tag, &[&[0, 1, 8, 0], &packet[..]].concat());
    let as_if = |ethertype| ethernet(ethertype, &packet);
    let packet6 = syn(GATEWAY6, PROXY).split_off(at::VERSION);
    let reasoned = [
        (Vlan, "802.1Q", tagged(0x8100)),
        (Vlan, "802.1ad", tagged(0x88a8)),
        (Vlan, "the older QinQ", tagged(0x9100)),
        (Vlan, "802.1Q and nothing else", ethernet(0x8100, &[])),
        (Ethertype, "802.3 length", as_if(40)),
        (Ethertype, "RARP", as_if(0x8035)),
        (Ethertype, "MPLS", as_if(0x8847)),
        (Ethertype, "PPPoE", as_if(0x8864)),
        (Ethertype, "802.1X", as_if(0x888e)),
        (Ethertype, "LLDP", as_if(0x88cc)),
        (
            Ethertype,
            "another, and nothing else",
            ethernet(0x88cc, &[]),
        ),
        (Malformed, "IPv6 as if IPv4", ethernet(0x0800, &packet6)),
        (Malformed, "IPv4 as if IPv6", {
            let long = [&packet[..], &[0; 20]].concat();
            ethernet(0x86dd, &long)
        }),
        (Truncated, "ARP and nothing else", ethernet(0x0806, &[])),
    ];
    denials(reasoned)
}

fn macs() -> Vec<Case> {
    use DropReason::{Broadcast, Multicast, SpoofedMac, WrongNextHop};
    let from = |mac: [u8; 6]| patched(syn(GATEWAY4, PROXY), at::MAC_FROM, &mac);
    let to = |mac: [u8; 6]| patched(syn(GATEWAY4, PROXY), at::MAC_TO, &mac);
    let from6 = patched(syn(GATEWAY6, PROXY), at::MAC_FROM, &FOREIGN_MAC);
    let to6 = patched(syn(GATEWAY6, PROXY), at::MAC_TO, &FOREIGN_MAC);
    let mdns = patched(
        udp("224.0.0.251", 5_353),
        at::MAC_TO,
        &[1, 0, 0x5e, 0, 0, 251],
    );
    denials([
        (SpoofedMac, "a neighbour's MAC, v4", from(FOREIGN_MAC)),
        (SpoofedMac, "a neighbour's MAC, v6", from6),
        (SpoofedMac, "no MAC", from([0; 6])),
        (WrongNextHop, "to a neighbour's MAC, v4", to(FOREIGN_MAC)),
        (WrongNextHop, "to a neighbour's MAC, v6", to6),
        (WrongNextHop, "to its own MAC", to(MAC)),
        (Broadcast, "unicast in a broadcast frame", to(BROADCAST)),
        (
            Multicast,
            "unicast in a multicast frame",
            to([1, 0, 0x5e, 0, 0, 1]),
        ),
        (Multicast, "multicast as it should be", mdns),
    ])
}

fn sources() -> Vec<Case> {
    let from4 = |address| patched(syn(GATEWAY4, PROXY), at::SOURCE4, &octets(address));
    let from6 = |address| patched(syn(GATEWAY6, PROXY), at::SOURCE6, &octets(address));
    let reasoned = [
        ("a neighbour's address, v4", from4(NEIGHBOUR4)),
        ("the next hop's address", from4(NEXT_HOP4)),
        ("the node's address", from4(NODE4)),
        ("the gateway's address, v4", from4(GATEWAY4)),
        ("no address, v4", from4("0.0.0.0")),
        ("loopback as source", from4("127.0.0.1")),
        ("a neighbour's address, v6", from6(NEIGHBOUR6)),
        ("the gateway's address, v6", from6(GATEWAY6)),
        ("no address, v6", from6("::")),
        ("a neighbour's query", {
            patched(udp(GATEWAY4, RESOLVER), at::SOURCE4, &octets(NEIGHBOUR4))
        }),
    ];
    denials(reasoned.map(|(name, frame)| (DropReason::SpoofedAddress, name, frame)))
}
