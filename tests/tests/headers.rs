//! Packets toward the next hop with more, or other, headers than TCP's, UDP's and ICMP's right behind
//! IP's: each reaches the internet while nobody enforces, and nothing of it when somebody does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use egress_tests::{
    frame::{MARK, Mac, ethernet, fragment, ipv4, ipv6, tcp, udp},
    scene::Scene,
    wire::holds_routed,
    world::{nowhere4, nowhere6},
};

const UDP: u8 = 17;
const TCP: u8 = 6;

fn to4() -> Ipv4Addr {
    match nowhere4(7) {
        IpAddr::V4(to) => to,
        IpAddr::V6(_) => unreachable!("an IPv4 address"),
    }
}

fn to6() -> Ipv6Addr {
    match nowhere6(7) {
        IpAddr::V6(to) => to,
        IpAddr::V4(_) => unreachable!("an IPv6 address"),
    }
}

/// An IPv4 packet of this protocol with these options.
fn over4(
    protocol: u8,
    options: &'static [u8],
    payload: Vec<u8>,
) -> impl FnOnce(&Scene, Mac, Mac) -> Vec<u8> {
    move |scene, own, next_hop| {
        let packet = ipv4(scene.pod.address4, to4(), protocol, options, &payload);
        ethernet(next_hop, own, 0x0800, &packet)
    }
}

/// An IPv6 packet with this next header.
fn over6(next: u8, payload: Vec<u8>) -> impl FnOnce(&Scene, Mac, Mac) -> Vec<u8> {
    move |scene, own, next_hop| {
        let packet = ipv6(scene.pod.address6, to6(), next, &payload);
        ethernet(next_hop, own, 0x86dd, &packet)
    }
}

fn datagram() -> Vec<u8> {
    udp(4000, MARK)
}

/// A datagram in a fragment with this field.
fn fragment4(field: u16) -> impl FnOnce(&Scene, Mac, Mac) -> Vec<u8> {
    move |scene, own, next_hop| {
        let packet = ipv4(scene.pod.address4, to4(), UDP, &[], &datagram());
        ethernet(next_hop, own, 0x0800, &fragment(packet, field))
    }
}

#[test]
fn a_first_fragment() -> Result<()> {
    holds_routed(fragment4(0x2000), "fragment")
}

#[test]
fn a_later_fragment() -> Result<()> {
    holds_routed(fragment4(0x2003), "fragment")
}

#[test]
fn a_last_fragment() -> Result<()> {
    holds_routed(fragment4(0x0003), "fragment")
}

#[test]
fn a_tiny_fragment() -> Result<()> {
    // Of TCP no more than would be read of it if it were whole.
    holds_routed(
        |scene, own, next_hop| {
            let payload = [&[0, 80, 0, 80, 0, 0, 0, 1][..], MARK, &[0; 6]].concat();
            let packet = ipv4(scene.pod.address4, to4(), TCP, &[], &payload);
            ethernet(next_hop, own, 0x0800, &fragment(packet, 0x2000))
        },
        "fragment",
    )
}

#[test]
fn a_recorded_route() -> Result<()> {
    holds_routed(
        over4(UDP, &[7, 7, 4, 0, 0, 0, 0, 0], datagram()),
        "ip_options",
    )
}

#[test]
fn a_timestamp_option() -> Result<()> {
    holds_routed(
        over4(UDP, &[68, 8, 5, 0, 0, 0, 0, 0], datagram()),
        "ip_options",
    )
}

#[test]
fn a_router_alert() -> Result<()> {
    holds_routed(over4(UDP, &[148, 4, 0, 0], datagram()), "ip_options")
}

#[test]
fn options_of_nothing() -> Result<()> {
    holds_routed(over4(UDP, &[1, 1, 1, 1], datagram()), "ip_options")
}

/// An extension header of eight bytes before a datagram.
fn behind(header: [u8; 8]) -> Vec<u8> {
    [&header[..], &datagram()].concat()
}

#[test]
fn hop_by_hop_options() -> Result<()> {
    let padding = [UDP, 0, 1, 4, 0, 0, 0, 0];
    holds_routed(over6(0, behind(padding)), "extension_header")
}

#[test]
fn destination_options() -> Result<()> {
    let padding = [UDP, 0, 1, 4, 0, 0, 0, 0];
    holds_routed(over6(60, behind(padding)), "extension_header")
}

#[test]
fn a_routing_header() -> Result<()> {
    holds_routed(
        over6(43, behind([UDP, 0, 2, 0, 0, 0, 0, 0])),
        "extension_header",
    )
}

#[test]
fn segment_routing() -> Result<()> {
    let header = [UDP, 2, 4, 0, 0, 0, 0, 0];
    let payload = [&header[..], &to6().octets(), &datagram()].concat();
    holds_routed(over6(43, payload), "extension_header")
}

#[test]
fn an_ipv6_fragment() -> Result<()> {
    holds_routed(over6(44, behind([UDP, 0, 0, 1, 0, 0, 0, 7])), "fragment")
}

#[test]
fn an_atomic_fragment() -> Result<()> {
    holds_routed(over6(44, behind([UDP, 0, 0, 0, 0, 0, 0, 7])), "fragment")
}

#[test]
fn an_ipv6_authentication_header() -> Result<()> {
    let header = [UDP, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0];
    let payload = [&header[..], &datagram()].concat();
    holds_routed(over6(51, payload), "extension_header")
}

#[test]
fn no_next_header() -> Result<()> {
    holds_routed(over6(59, MARK.to_vec()), "extension_header")
}

#[test]
fn a_mobility_header() -> Result<()> {
    holds_routed(
        over6(135, behind([59, 0, 0, 0, 0, 0, 0, 0])),
        "extension_header",
    )
}

/// An inner packet of ours to anywhere.
fn inner4() -> Vec<u8> {
    ipv4(Ipv4Addr::new(10, 9, 9, 9), to4(), UDP, &[], &datagram())
}

fn inner6() -> Vec<u8> {
    ipv6(to6(), to6(), UDP, &datagram())
}

#[test]
fn ip_in_ip() -> Result<()> {
    holds_routed(over4(4, &[], inner4()), "tunnel")
}

#[test]
fn ipv6_in_ip() -> Result<()> {
    holds_routed(over4(41, &[], inner6()), "tunnel")
}

#[test]
fn ip_in_ipv6() -> Result<()> {
    holds_routed(over6(4, inner4()), "tunnel")
}

#[test]
fn ipv6_in_ipv6() -> Result<()> {
    holds_routed(over6(41, inner6()), "tunnel")
}

#[test]
fn gre() -> Result<()> {
    let payload = [&[0, 0, 8, 0][..], &inner4()].concat();
    holds_routed(over4(47, &[], payload), "tunnel")
}

#[test]
fn gre_over_ipv6() -> Result<()> {
    let payload = [&[0, 0, 8, 0][..], &inner4()].concat();
    holds_routed(over6(47, payload), "tunnel")
}

#[test]
fn esp() -> Result<()> {
    holds_routed(over4(50, &[], behind([0, 0, 0, 1, 0, 0, 0, 1])), "tunnel")
}

#[test]
fn esp_over_ipv6() -> Result<()> {
    holds_routed(over6(50, behind([0, 0, 0, 1, 0, 0, 0, 1])), "tunnel")
}

#[test]
fn an_authentication_header() -> Result<()> {
    let header = [UDP, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0];
    let payload = [&header[..], &datagram()].concat();
    holds_routed(over4(51, &[], payload), "tunnel")
}

#[test]
fn vxlan() -> Result<()> {
    let payload = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &[2; 14], &inner4()].concat();
    holds_routed(over4(UDP, &[], udp(4789, &payload)), "direct_udp")
}

#[test]
fn wireguard() -> Result<()> {
    let payload = [&[1, 0, 0, 0][..], &[7; 144], MARK].concat();
    holds_routed(over4(UDP, &[], udp(51820, &payload)), "direct_udp")
}

#[test]
fn vxlan_over_ipv6() -> Result<()> {
    let payload = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &[2; 14], &inner6()].concat();
    holds_routed(over6(UDP, udp(4789, &payload)), "direct_udp")
}

#[test]
fn wireguard_over_ipv6() -> Result<()> {
    let payload = [&[1, 0, 0, 0][..], &[7; 144], MARK].concat();
    holds_routed(over6(UDP, udp(51820, &payload)), "direct_udp")
}

#[test]
fn l2tp() -> Result<()> {
    holds_routed(over4(115, &[], behind([0, 0, 0, 1, 0, 0, 0, 0])), "tunnel")
}

#[test]
fn dccp_over_ipv6() -> Result<()> {
    holds_routed(over6(33, datagram()), "other_protocol")
}

#[test]
fn sctp() -> Result<()> {
    holds_routed(over4(132, &[], datagram()), "other_protocol")
}

#[test]
fn sctp_over_ipv6() -> Result<()> {
    holds_routed(over6(132, datagram()), "other_protocol")
}

#[test]
fn dccp() -> Result<()> {
    holds_routed(over4(33, &[], datagram()), "other_protocol")
}

#[test]
fn udp_lite() -> Result<()> {
    holds_routed(over4(136, &[], datagram()), "other_protocol")
}

#[test]
fn udp_lite_over_ipv6() -> Result<()> {
    holds_routed(over6(136, datagram()), "other_protocol")
}

#[test]
fn a_protocol_for_experiments() -> Result<()> {
    holds_routed(over4(253, &[], datagram()), "other_protocol")
}

#[test]
fn a_forged_syn() -> Result<()> {
    holds_routed(over4(TCP, &[], tcp(0x02)), "direct_tcp")
}

#[test]
fn a_forged_syn_over_ipv6() -> Result<()> {
    holds_routed(over6(TCP, tcp(0x02)), "direct_tcp")
}

#[test]
fn a_forged_acknowledgement() -> Result<()> {
    holds_routed(over4(TCP, &[], tcp(0x10)), "no_flow")
}

#[test]
fn a_forged_answer_to_a_syn() -> Result<()> {
    holds_routed(over6(TCP, tcp(0x12)), "no_flow")
}

#[test]
fn a_forged_reset() -> Result<()> {
    holds_routed(over4(TCP, &[], tcp(0x04)), "no_flow")
}

#[test]
fn a_segment_without_flags() -> Result<()> {
    holds_routed(over4(TCP, &[], tcp(0)), "no_flow")
}

#[test]
fn a_segment_with_every_flag() -> Result<()> {
    holds_routed(over4(TCP, &[], tcp(0xff)), "no_flow")
}

#[test]
fn a_neighbours_address() -> Result<()> {
    let make = |_: &Scene, own: Mac, next_hop: Mac| {
        let from = Ipv4Addr::new(10, 1, 9, 5);
        ethernet(
            next_hop,
            own,
            0x0800,
            &ipv4(from, to4(), UDP, &[], &datagram()),
        )
    };
    holds_routed(make, "spoofed_address")
}

#[test]
fn a_neighbours_ipv6_address() -> Result<()> {
    let make = |_: &Scene, own: Mac, next_hop: Mac| {
        let from = Ipv6Addr::new(0xfd00, 1, 9, 0, 0, 0, 0, 5);
        ethernet(next_hop, own, 0x86dd, &ipv6(from, to6(), UDP, &datagram()))
    };
    holds_routed(make, "spoofed_address")
}
