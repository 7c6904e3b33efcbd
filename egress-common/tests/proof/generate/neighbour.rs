//! ARP and NDP of the endpoint with its next hop, and each field wrong now and then.

use std::net::{IpAddr, Ipv6Addr};

use super::{
    super::{choices::Choices, world::World},
    packet, pool,
};

const RARELY: u8 = 20;

/// ARP's message.
pub(super) fn arp(from: &mut Choices<'_>, world: &World) -> Vec<u8> {
    let usual = [0, 1, 8, 0, 6, 4];
    let mut bytes = from.mostly(usual, RARELY, Choices::array).to_vec();
    let operation = from.mostly(1, 2, |from| from.pick(&[2, 2, 0, 3, 8]));
    bytes.extend([0, operation]);
    bytes.extend(pool::mac(from, world, world.mac));
    bytes.extend(v4(from, world, &world.own));
    let target = from.pick(&[[0; 6], world.next_hop_mac]);
    bytes.extend(pool::mac(from, world, target));
    bytes.extend(v4(from, world, &world.next_hop));
    bytes
}

fn v4(from: &mut Choices<'_>, world: &World, usual: &[IpAddr]) -> Vec<u8> {
    match one_of(from, world, usual, true) {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(_) => vec![0; 4],
    }
}

fn v6(from: &mut Choices<'_>, world: &World, usual: &[IpAddr]) -> Ipv6Addr {
    // Now and then IPv4, as it would be in the tables.
    let is_v4 = from.once_in(2 * RARELY);
    match one_of(from, world, usual, is_v4) {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn one_of(from: &mut Choices<'_>, world: &World, usual: &[IpAddr], is_v4: bool) -> IpAddr {
    let of_family = |ip: &&IpAddr| ip.is_ipv4() == is_v4;
    let usual: Vec<IpAddr> = usual.iter().filter(of_family).copied().collect();
    match usual.is_empty() || from.once_in(RARELY) {
        true => pool::address(from, world, is_v4),
        false => from.pick(&usual),
    }
}

/// NDP's packet, and the MAC of its group or next hop.
pub(super) fn ndp(from: &mut Choices<'_>, world: &World) -> (Vec<u8>, [u8; 6]) {
    let kind = from.pick(&[135, 136, 133, 135, 136, 134, 137]);
    let is_detection = kind == 135 && from.once_in(3);
    let source = match is_detection || kind == 133 && from.once_in(3) {
        true => Ipv6Addr::UNSPECIFIED,
        false => v6(from, world, &world.own),
    };
    let target = match is_detection || kind == 136 {
        true => v6(from, world, &world.own),
        false => v6(from, world, &world.next_hop),
    };
    let destination = destination(from, world, kind, target);
    let message = message(from, world, kind, target);
    let packet = packet::ip(from, 58, source.into(), destination.into(), &message);
    (packet, frames_to(from, world, destination))
}

fn message(from: &mut Choices<'_>, world: &World, kind: u8, target: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![kind, from.mostly(0, RARELY, Choices::byte)];
    message.extend([0; 6]);
    if kind != 133 {
        message.extend(target.octets());
    }
    for _ in 0..from.below(4) {
        message.extend(option(from, world));
    }
    message
}

fn frames_to(from: &mut Choices<'_>, world: &World, destination: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = destination.octets();
    let group = from.mostly([0x33, 0x33, a, b, c, d], RARELY, |from| {
        let [a, b, c, d] = from.array();
        [0x33, 0x33, a, b, c, d]
    });
    match destination.is_multicast() {
        true => group,
        false => from.mostly(world.next_hop_mac, RARELY, |_| group),
    }
}

fn destination(from: &mut Choices<'_>, world: &World, kind: u8, target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    let last = u16::from_be_bytes([b, c]);
    let solicited = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), last);
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let all_routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let next_hop = v6(from, world, &world.next_hop);
    let usual = match kind {
        133 => all_routers,
        135 => from.pick(&[solicited, target]),
        _ => from.pick(&[all_nodes, next_hop]),
    };
    let others = [all_nodes, all_routers, solicited, target, next_hop];
    from.mostly(usual, RARELY, |from| from.pick(&others))
}

fn option(from: &mut Choices<'_>, world: &World) -> Vec<u8> {
    let other = from.byte();
    let kind = from.pick(&[1, 14, 2, 1, 14, 3, 5, other]);
    let length = from.mostly(1, RARELY, Choices::byte);
    let mac = match kind {
        14 => from.array(),
        _ => pool::mac(from, world, world.mac),
    };
    [&[kind, length], &mac[..]].concat()
}
