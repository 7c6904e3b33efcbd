//! IP packets from the endpoint: sound ones, and each field wrong now and then.

use std::net::IpAddr;

use super::{
    super::{choices::Choices, world::World},
    pool,
};

/// How often a field is wrong: once in so many packets.
const RARELY: u8 = 24;

/// An IP packet, and whether it is IPv4.
pub(super) fn packet(from: &mut Choices<'_>, world: &World) -> (Vec<u8>, bool) {
    let is_v4 = !from.once_in(2);
    let to = pool::address(from, world, is_v4);
    let usual = world.own.iter().find(|ip| ip.is_ipv4() == is_v4).copied();
    let source = match usual {
        Some(own) => from.mostly(own, RARELY, |from| pool::address(from, world, is_v4)),
        None => pool::address(from, world, is_v4),
    };
    let (protocol, payload) = payload(from, world, is_v4);
    (ip(from, protocol, source, to, &payload), is_v4)
}

/// TCP, UDP or ICMP; or anything at all.
fn payload(from: &mut Choices<'_>, world: &World, is_v4: bool) -> (u8, Vec<u8>) {
    match from.below(8) {
        0..=2 => (6, segment(from, world)),
        3 | 4 => (17, datagram(from, world)),
        5 => {
            let usual = if is_v4 { 1 } else { 58 };
            let protocol = from.mostly(usual, 8, |_| 59 - usual);
            (protocol, icmp(from))
        }
        6 => extension(from, world),
        _ => {
            let length = from.below(48);
            (from.byte(), from.bytes(length))
        }
    }
}

fn segment(from: &mut Choices<'_>, world: &World) -> Vec<u8> {
    let flags = [0x02, 0x10, 0x12, 0x04, 0x06, 0x00, 0xff];
    let mut bytes = ports(from, world);
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    let offset = from.mostly(0x50, RARELY, Choices::byte);
    bytes.extend([offset, from.pick(&flags), 0xff, 0xff, 0, 0, 0, 0]);
    let length = from.mostly(0, 4, |from| from.below(32));
    bytes.extend(from.bytes(length));
    bytes
}

fn datagram(from: &mut Choices<'_>, world: &World) -> Vec<u8> {
    let mut bytes = ports(from, world);
    let length = from.below(16);
    bytes.extend(wrong_by(from, 8 + length).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(from.bytes(length));
    bytes
}

/// From a flow's port or any to one of the pool.
fn ports(from: &mut Choices<'_>, world: &World) -> Vec<u8> {
    let local: Vec<u16> = world.flows.iter().map(|flow| flow.local_port).collect();
    let source = match local.is_empty() {
        true => 40_000,
        false => from.pick(&local),
    };
    let source = from.mostly(source, 8, Choices::number);
    let destination = pool::port(from, world);
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

fn icmp(from: &mut Choices<'_>) -> Vec<u8> {
    let kinds = [
        8, 0, 128, 129, 1, 2, 3, 4, 5, 11, 12, 130, 132, 133, 134, 135, 136, 137, 143,
    ];
    let mut bytes = vec![from.pick(&kinds), from.mostly(0, RARELY, Choices::byte)];
    let length = 6 + from.below(40);
    bytes.extend(from.bytes(length));
    bytes
}

/// A header between IP's and a transport that would pass.
fn extension(from: &mut Choices<'_>, world: &World) -> (u8, Vec<u8>) {
    let kind = from.pick(&[0, 43, 44, 51, 59, 60, 135, 139, 140, 253, 254, 4, 41, 2]);
    let next = from.pick(&[6, 17, 58]);
    let mut bytes = vec![next, from.mostly(0, RARELY, Choices::byte)];
    bytes.extend([5, 2, 0, 0, 1, 0]);
    bytes.extend(match next {
        6 => segment(from, world),
        17 => datagram(from, world),
        _ => icmp(from),
    });
    (kind, bytes)
}

/// A header and its payload.
pub(super) fn ip(
    from: &mut Choices<'_>,
    protocol: u8,
    source: IpAddr,
    to: IpAddr,
    payload: &[u8],
) -> Vec<u8> {
    let header = match (source, to) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            let addresses = [source.octets(), to.octets()].concat();
            header4(from, protocol, &addresses, payload.len())
        }
        (source, to) => {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            let addresses = [octets(source), octets(to)].concat();
            header6(from, protocol, &addresses, payload.len())
        }
    };
    [&header, payload].concat()
}

fn header4(from: &mut Choices<'_>, protocol: u8, addresses: &[u8], payload: usize) -> Vec<u8> {
    let options = from.mostly(0, RARELY, |from| from.below(11));
    let version = from.mostly(0x45 + options as u8, RARELY, Choices::byte);
    let total = wrong_by(from, 20 + options * 4 + payload);
    let fragment = from.mostly(0, RARELY, |from| {
        let (any, bit) = (from.number(), 1 << from.below(16));
        from.pick(&[0x4000, 0x8000, 0x2000, 0xffff, any, bit, bit])
    });
    let mut bytes = vec![version, from.byte()];
    bytes.extend(total.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(addresses);
    bytes.extend(vec![1; options * 4]);
    bytes
}

fn header6(from: &mut Choices<'_>, protocol: u8, addresses: &[u8], payload: usize) -> Vec<u8> {
    let mut bytes = vec![from.mostly(0x60, RARELY, Choices::byte), 0, 0, 0];
    bytes.extend(wrong_by(from, payload).to_be_bytes());
    bytes.extend([protocol, from.mostly(255, RARELY, Choices::byte)]);
    bytes.extend(addresses);
    bytes
}

/// A length that now and then lies.
fn wrong_by(from: &mut Choices<'_>, length: usize) -> u16 {
    let length = length as u16;
    from.mostly(length, RARELY, |from| match from.below(5) {
        0 => length.wrapping_add(1),
        1 => length.wrapping_sub(1),
        2 => 0,
        3 => u16::MAX,
        _ => from.number(),
    })
}
