//! Frames that no router would take, or that pretend: each is seen by a neighbour on the same
//! bridge while nobody enforces, and by nobody when somebody does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use egress_tests::{
    frame::{BROADCAST, MARK, Mac, arp, ethernet, icmpv6, ipv4, ipv6, udp},
    scene::Scene,
    wire::{Macs, holds, holds_quietly},
    world::{nowhere4, nowhere6},
};

const UDP: u8 = 17;
const NEIGHBOUR4: Ipv4Addr = Ipv4Addr::new(10, 1, 9, 5);
const NEIGHBOUR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 9, 0, 0, 0, 0, 5);
const NEIGHBOUR_MAC: Mac = [2, 0, 0, 0, 9, 9];
const ALL_NODES: Ipv6Addr = group(1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// A datagram of the pod's to the outside.
fn packet4(scene: &Scene) -> Vec<u8> {
    let IpAddr::V4(to) = nowhere4(7) else {
        unreachable!("an IPv4 address")
    };
    ipv4(scene.pod.address4, to, UDP, &[], &udp(4000, MARK))
}

fn packet6(scene: &Scene) -> Vec<u8> {
    let IpAddr::V6(to) = nowhere6(7) else {
        unreachable!("an IPv6 address")
    };
    ipv6(scene.pod.address6, to, UDP, &udp(4000, MARK))
}

/// A frame of this type with a good packet in it, after `head`.
fn around(ethertype: u16, head: &[u8]) -> impl FnOnce(&Scene, &Macs) -> Vec<u8> {
    let head = head.to_vec();
    move |scene, macs| {
        let payload = [&head[..], &packet4(scene)].concat();
        ethernet(macs.far, macs.own, ethertype, &payload)
    }
}

#[test]
fn a_vlan_tag() -> Result<()> {
    holds(around(0x8100, &[0, 1, 8, 0]), "vlan")
}

#[test]
fn a_vlan_tag_before_ipv6() -> Result<()> {
    let make = |scene: &Scene, macs: &Macs| {
        let payload = [&[0, 1, 0x86, 0xdd][..], &packet6(scene)].concat();
        ethernet(macs.far, macs.own, 0x8100, &payload)
    };
    holds(make, "vlan")
}

#[test]
fn a_vlan_tag_of_priority_alone() -> Result<()> {
    holds(around(0x8100, &[0xe0, 0, 8, 0]), "vlan")
}

#[test]
fn two_vlan_tags() -> Result<()> {
    holds(around(0x88a8, &[0, 1, 0x81, 0, 0, 2, 8, 0]), "vlan")
}

#[test]
fn the_older_double_tag() -> Result<()> {
    holds(around(0x9100, &[0, 1, 0x81, 0, 0, 2, 8, 0]), "vlan")
}

#[test]
fn mpls() -> Result<()> {
    holds(around(0x8847, &[0, 1, 1, 64]), "ethertype")
}

#[test]
fn pppoe() -> Result<()> {
    holds(
        around(0x8864, &[0x11, 0, 0, 1, 0, 64, 0, 0x21]),
        "ethertype",
    )
}

#[test]
fn an_ethertype_for_experiments() -> Result<()> {
    holds(around(0x88b5, &[]), "ethertype")
}

#[test]
fn lldp() -> Result<()> {
    holds(around(0x88cc, &[]), "ethertype")
}

#[test]
fn a_length_in_place_of_a_type() -> Result<()> {
    // 802.3 with an LLC header (RFC 1042).
    holds(around(64, &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]), "ethertype")
}

#[test]
fn reverse_arp() -> Result<()> {
    holds(around(0x8035, &[]), "ethertype")
}

#[test]
fn ipv6_that_calls_itself_ipv4() -> Result<()> {
    let make = |scene: &Scene, macs: &Macs| ethernet(macs.far, macs.own, 0x0800, &packet6(scene));
    holds(make, "malformed")
}

#[test]
fn ipv4_that_calls_itself_ipv6() -> Result<()> {
    let make = |scene: &Scene, macs: &Macs| ethernet(macs.far, macs.own, 0x86dd, &packet4(scene));
    holds(make, "malformed")
}

/// A good IPv4 packet with one byte changed.
fn with_byte(at: usize, value: u8) -> impl FnOnce(&Scene, &Macs) -> Vec<u8> {
    move |scene, macs| {
        let mut packet = packet4(scene);
        packet[at] = value;
        ethernet(macs.far, macs.own, 0x0800, &packet)
    }
}

#[test]
fn a_header_shorter_than_a_header() -> Result<()> {
    holds(with_byte(0, 0x44), "malformed")
}

#[test]
fn a_header_longer_than_it_is() -> Result<()> {
    holds(with_byte(0, 0x46), "ip_options")
}

#[test]
fn a_length_beyond_the_frame() -> Result<()> {
    holds(with_byte(2, 0x40), "malformed")
}

#[test]
fn a_length_of_nothing() -> Result<()> {
    holds(with_byte(3, 0), "malformed")
}

#[test]
fn an_ipv6_length_beyond_the_frame() -> Result<()> {
    let make = |scene: &Scene, macs: &Macs| {
        let mut packet = packet6(scene);
        packet[4] = 0x40;
        ethernet(macs.far, macs.own, 0x86dd, &packet)
    };
    holds(make, "malformed")
}

#[test]
fn a_good_packet_to_a_neighbours_mac() -> Result<()> {
    holds(around(0x0800, &[]), "wrong_next_hop")
}

#[test]
fn a_good_ipv6_packet_to_a_neighbours_mac() -> Result<()> {
    let make = |scene: &Scene, macs: &Macs| ethernet(macs.far, macs.own, 0x86dd, &packet6(scene));
    holds(make, "wrong_next_hop")
}

#[test]
fn a_neighbours_mac_as_source() -> Result<()> {
    let make =
        |scene: &Scene, macs: &Macs| ethernet(macs.far, NEIGHBOUR_MAC, 0x0800, &packet4(scene));
    holds(make, "spoofed_mac")
}

#[test]
fn a_good_packet_to_everybodys_mac() -> Result<()> {
    let make = |scene: &Scene, macs: &Macs| ethernet(BROADCAST, macs.own, 0x0800, &packet4(scene));
    holds(make, "broadcast")
}

/// A datagram of the pod's to a group or to all, which a bridge floods.
fn to_all4(to: [u8; 4], port: u16) -> impl FnOnce(&Scene, &Macs) -> Vec<u8> {
    move |scene, macs| {
        let packet = ipv4(scene.pod.address4, to.into(), UDP, &[], &udp(port, MARK));
        // RFC 1112 section 6.4.
        let mac = match to {
            [255, ..] => BROADCAST,
            [_, b, c, d] => [1, 0, 0x5e, b & 0x7f, c, d],
        };
        ethernet(mac, macs.own, 0x0800, &packet)
    }
}

/// The same by IPv6.
fn to_all6(to: Ipv6Addr, port: u16) -> impl FnOnce(&Scene, &Macs) -> Vec<u8> {
    move |scene, macs| {
        let packet = ipv6(scene.pod.address6, to, UDP, &udp(port, MARK));
        let [.., a, b, c, d] = to.octets();
        ethernet([0x33, 0x33, a, b, c, d], macs.own, 0x86dd, &packet)
    }
}

/// A group of the link's.
const fn group(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, last)
}

#[test]
fn a_join_that_carries_data() -> Result<()> {
    // A packet socket is nobody's to the kernel, and it joins groups by itself, too.
    let make = |scene: &Scene, macs: &Macs| {
        let to = Ipv4Addr::new(239, 1, 2, 3);
        let join = [&[0x16, 0, 0, 0, 239, 1, 2, 3][..], MARK].concat();
        let packet = ipv4(scene.pod.address4, to, 2, &[], &join);
        ethernet([1, 0, 0x5e, 1, 2, 3], macs.own, 0x0800, &packet)
    };
    holds_quietly(make, "group_management")
}

#[test]
fn a_listener_report_that_carries_data() -> Result<()> {
    let make = |scene: &Scene, macs: &Macs| {
        let report = [&[58, 0, 5, 2, 0, 0, 1, 0, 131][..], &[0; 7], MARK].concat();
        let packet = ipv6(scene.pod.address6, ALL_NODES, 0, &report);
        ethernet(ALL_NODES_MAC, macs.own, 0x86dd, &packet)
    };
    holds_quietly(make, "group_management")
}

#[test]
fn a_source_route() -> Result<()> {
    // Loose, by way of one more address (RFC 791 section 3.1); strict is alike.
    let make = |scene: &Scene, macs: &Macs| {
        let IpAddr::V4(to) = nowhere4(7) else {
            unreachable!("an IPv4 address")
        };
        let option = [131, 7, 4, 198, 51, 100, 9, 0];
        let packet = ipv4(scene.pod.address4, to, UDP, &option, &udp(4000, MARK));
        ethernet(macs.far, macs.own, 0x0800, &packet)
    };
    holds(make, "ip_options")
}

#[test]
fn multicast_dns() -> Result<()> {
    holds(to_all4([224, 0, 0, 251], 5353), "multicast")
}

#[test]
fn multicast_dns_by_ipv6() -> Result<()> {
    holds(to_all6(group(0xfb), 5353), "multicast")
}

#[test]
fn service_discovery() -> Result<()> {
    holds(to_all4([239, 255, 255, 250], 1900), "multicast")
}

#[test]
fn service_discovery_by_ipv6() -> Result<()> {
    holds(to_all6(group(0xc), 1900), "multicast")
}

#[test]
fn link_local_name_resolution() -> Result<()> {
    holds(to_all4([224, 0, 0, 252], 5355), "multicast")
}

#[test]
fn dhcp_to_all() -> Result<()> {
    holds(to_all4([255; 4], 67), "broadcast")
}

#[test]
fn dhcp_by_ipv6() -> Result<()> {
    let servers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
    holds(to_all6(servers, 547), "multicast")
}

#[test]
fn a_datagram_to_all_of_the_subnet() -> Result<()> {
    let make = |scene: &Scene, macs: &Macs| {
        let to = Ipv4Addr::new(10, 1, 1, 255);
        let packet = ipv4(scene.pod.address4, to, UDP, &[], &udp(4000, MARK));
        ethernet(BROADCAST, macs.own, 0x0800, &packet)
    };
    holds(make, "broadcast")
}

#[test]
fn a_gratuitous_arp() -> Result<()> {
    let make = |scene: &Scene, macs: &Macs| {
        let own = scene.pod.address4;
        let says = arp(1, (macs.own, own), ([0; 6], own));
        ethernet(BROADCAST, macs.own, 0x0806, &says)
    };
    holds(make, "arp")
}

#[test]
fn a_gratuitous_arp_answer() -> Result<()> {
    let make = |scene: &Scene, macs: &Macs| {
        let own = scene.pod.address4;
        let says = arp(2, (macs.own, own), (BROADCAST, own));
        ethernet(BROADCAST, macs.own, 0x0806, &says)
    };
    holds(make, "arp")
}

#[test]
fn an_arp_probe_for_a_neighbours_address() -> Result<()> {
    let make = |_: &Scene, macs: &Macs| {
        let nobody = Ipv4Addr::UNSPECIFIED;
        let asks = arp(1, (macs.own, nobody), ([0; 6], NEIGHBOUR4));
        ethernet(BROADCAST, macs.own, 0x0806, &asks)
    };
    holds(make, "arp")
}

#[test]
fn arp_that_asks_for_a_neighbour() -> Result<()> {
    let make = |scene: &Scene, macs: &Macs| {
        let asks = arp(1, (macs.own, scene.pod.address4), ([0; 6], NEIGHBOUR4));
        ethernet(BROADCAST, macs.own, 0x0806, &asks)
    };
    holds(make, "arp")
}

#[test]
fn arp_as_a_neighbour() -> Result<()> {
    let make = |_: &Scene, macs: &Macs| {
        let says = arp(1, (macs.own, NEIGHBOUR4), ([0; 6], NEIGHBOUR4));
        ethernet(BROADCAST, macs.own, 0x0806, &says)
    };
    holds(make, "arp")
}

#[test]
fn an_arp_answer_as_the_next_hop() -> Result<()> {
    let make = |scene: &Scene, macs: &Macs| {
        let says = arp(2, (macs.own, scene.pod.gateway4), (macs.far, NEIGHBOUR4));
        ethernet(macs.far, macs.own, 0x0806, &says)
    };
    holds(make, "arp")
}

#[test]
fn an_arp_request_that_carries_data() -> Result<()> {
    let make = |scene: &Scene, macs: &Macs| {
        let asks = arp(
            1,
            (macs.own, scene.pod.address4),
            ([0; 6], scene.pod.gateway4),
        );
        ethernet(BROADCAST, macs.own, 0x0806, &[&asks[..], &[7; 40]].concat())
    };
    holds(make, "arp")
}

/// An NDP message of the pod's to all nodes, with a target.
fn ndp(kind: u8, from: Ipv6Addr, target: Ipv6Addr, macs: &Macs) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(target.octets());
    message.extend([2, 1]);
    message.extend(macs.own);
    ethernet(
        ALL_NODES_MAC,
        macs.own,
        0x86dd,
        &icmpv6(from, ALL_NODES, &message),
    )
}

#[test]
fn a_solicitation_of_a_neighbour() -> Result<()> {
    let make = |scene: &Scene, macs: &Macs| ndp(135, scene.pod.address6, NEIGHBOUR6, macs);
    holds(make, "ndp")
}

#[test]
fn a_solicitation_that_carries_data() -> Result<()> {
    let make = |scene: &Scene, macs: &Macs| {
        let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
        message.extend(scene.pod.gateway6.octets());
        // An option of three times eight bytes.
        message.extend([1, 3]);
        message.resize(message.len() + 22 - MARK.len(), 7);
        message.extend(MARK);
        let to = scene.pod.gateway6;
        let packet = icmpv6(scene.pod.address6, to, &message);
        ethernet(macs.far, macs.own, 0x86dd, &packet)
    };
    holds(make, "ndp")
}

#[test]
fn a_neighbour_advertisement_as_a_neighbour() -> Result<()> {
    let make = |scene: &Scene, macs: &Macs| ndp(136, scene.pod.address6, NEIGHBOUR6, macs);
    holds(make, "ndp")
}

#[test]
fn a_neighbour_advertisement_from_a_neighbour() -> Result<()> {
    holds(|_, macs| ndp(136, NEIGHBOUR6, NEIGHBOUR6, macs), "ndp")
}

#[test]
fn a_router_advertisement() -> Result<()> {
    let make = |scene: &Scene, macs: &Macs| {
        let message = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        let packet = icmpv6(scene.pod.address6, ALL_NODES, &message);
        ethernet(ALL_NODES_MAC, macs.own, 0x86dd, &packet)
    };
    holds(make, "ndp")
}

#[test]
fn a_redirect() -> Result<()> {
    let make = |scene: &Scene, macs: &Macs| {
        let mut message = vec![137, 0, 0, 0, 0, 0, 0, 0];
        message.extend(scene.pod.address6.octets());
        message.extend(NEIGHBOUR6.octets());
        let packet = icmpv6(scene.pod.address6, ALL_NODES, &message);
        ethernet(ALL_NODES_MAC, macs.own, 0x86dd, &packet)
    };
    holds(make, "ndp")
}
