//! Addresses and ports that mean something.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::{choices::Choices, world::World};

const NOTABLE: [&str; 42] = [
    "198.51.100.7",
    "10.2.0.7",
    "10.0.0.1",
    "10.9.0.9",
    "10.1.0.6",
    "127.0.0.1",
    "127.255.0.9",
    "0.0.0.0",
    "0.1.2.3",
    "1.0.0.0",
    "169.254.169.254",
    "169.254.1.1",
    "169.253.255.255",
    "100.100.100.200",
    "100.100.100.201",
    "223.255.255.255",
    "224.0.0.251",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.254",
    "255.255.255.255",
    "8.8.8.8",
    "2001:db8::7",
    "fd00:2::7",
    "fd00::1",
    "fd00:9::9",
    "fd00:1::6",
    "fd00:ec2::254",
    "fd00:ec2::255",
    "::",
    "::1",
    "::2",
    "::7f00:1",
    "fe80::7",
    "fe7f:ffff::1",
    "febf::1",
    "fec0::1",
    "ff02::1",
    "ff02::2",
    "ff02::fb",
    "feff::1",
    "64:ff9b::c633:6407",
];

/// An address of the family: one that the world knows, a notable one, or any.
pub(super) fn address(from: &mut Choices<'_>, world: &World, is_v4: bool) -> IpAddr {
    let gateways = [Some(world.gateway4.into()), world.gateway6.map(IpAddr::V6)];
    let known = gateways
        .into_iter()
        .flatten()
        .chain(world.direct.iter().map(|entry| entry.network.address))
        .chain(world.flows.iter().map(|flow| flow.remote))
        .chain(world.own.iter().copied())
        .chain(world.next_hop.iter().copied())
        .chain(world.networks.iter().map(|(network, _)| network.address));
    let list: Vec<IpAddr> = known
        .chain(NOTABLE.map(|text| text.parse().unwrap()))
        .filter(|ip| ip.is_ipv4() == is_v4)
        .collect();
    let ip = from.pick(&list);
    match from.below(16) {
        15 if is_v4 => IpAddr::from(from.array::<4>()),
        15 => IpAddr::from(from.array::<16>()),
        14 => beside(ip, from.below(128)),
        _ => ip,
    }
}

/// The same address but for one bit.
fn beside(ip: IpAddr, bit: usize) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() ^ (1 << (bit % 32))).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() ^ (1 << bit)).into(),
    }
}

/// A port: of the gateway, of an entry or flow, a notable one, or any.
pub(super) fn port(from: &mut Choices<'_>, world: &World) -> u16 {
    let known = [world.proxy, world.resolver]
        .into_iter()
        .chain(world.direct.iter().map(|entry| entry.port))
        .chain(world.flows.iter().map(|flow| flow.remote_port))
        .chain(world.listening.iter().map(|(_, port)| *port));
    let list: Vec<u16> = known.chain([53, 443, 853, 80, 0, 40_000]).collect();
    let port = from.pick(&list);
    from.mostly(port, 16, Choices::number)
}

/// A MAC address: the wanted one mostly, else of somebody, a group or anything.
pub(super) fn mac(from: &mut Choices<'_>, world: &World, usual: [u8; 6]) -> [u8; 6] {
    from.mostly(usual, 16, |from| {
        let list = [
            [0xff; 6],
            world.mac,
            world.next_hop_mac,
            [0x33, 0x33, 0, 0, 0, 1],
            [1, 0, 0x5e, 0, 0, 0xfb],
            [0; 6],
            from.array(),
        ];
        from.pick(&list)
    })
}
