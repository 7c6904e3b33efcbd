//! Frames, from the inside out: the endpoint's own, to its next hop, until a test patches them.
//! Checksums are zero, since no program reads them.

use std::net::IpAddr;

use crate::scene::{MAC, NEXT_HOP_MAC, OWN4, OWN6};

pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;

/// Offsets of fields in a frame, for [`patched`]. The transport header follows IPv4 at 34 and IPv6
/// at 54.
pub(crate) mod at {
    pub(crate) const MAC_TO: usize = 0;
    pub(crate) const MAC_FROM: usize = 6;
    pub(crate) const ETHERTYPE: usize = 12;
    pub(crate) const VERSION: usize = 14;
    pub(crate) const TOTAL4: usize = 16;
    pub(crate) const FRAGMENT4: usize = 20;
    pub(crate) const SOURCE4: usize = 26;
    pub(crate) const TRANSPORT4: usize = 34;
    pub(crate) const PAYLOAD6: usize = 18;
    pub(crate) const HOP_LIMIT6: usize = 21;
    pub(crate) const SOURCE6: usize = 22;
    pub(crate) const DESTINATION6: usize = 38;
    pub(crate) const TRANSPORT6: usize = 54;
    pub(crate) const ARP: usize = 14;
}

/// The bytes of an address in network order.
pub(crate) fn octets(address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

pub(crate) fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&NEXT_HOP_MAC, &MAC, &ethertype.to_be_bytes()[..], payload].concat()
}

/// IPv4 or IPv6, as the destination is; without options or extension headers.
pub(crate) fn ip(protocol: u8, to: &str, payload: &[u8]) -> Vec<u8> {
    let destination = octets(to);
    let length = payload.len() as u16;
    if destination.len() == 4 {
        let mut header = vec![0x45, 0];
        header.extend((20 + length).to_be_bytes());
        header.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
        header.extend(octets(OWN4));
        return ethernet(IPV4, &[&header, &destination, payload].concat());
    }
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(length.to_be_bytes());
    header.extend([protocol, 64]);
    header.extend(octets(OWN6));
    ethernet(IPV6, &[&header, &destination, payload].concat())
}

/// An IPv4 packet whose header has four bytes of no-operation.
pub(crate) fn with_options(protocol: u8, to: &str, payload: &[u8]) -> Vec<u8> {
    let longer = [&[1; 4], payload].concat();
    patched(ip(protocol, to, &longer), at::VERSION, &[0x46])
}

/// A header of 20 bytes without payload.
pub(crate) fn segment(port: u16, flags: u8) -> Vec<u8> {
    let mut header = 40_000_u16.to_be_bytes().to_vec();
    header.extend(port.to_be_bytes());
    header.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

/// A header and four bytes.
pub(crate) fn datagram(port: u16) -> Vec<u8> {
    let mut header = 40_000_u16.to_be_bytes().to_vec();
    header.extend(port.to_be_bytes());
    header.extend([0, 12, 0, 0, b'd', b'a', b't', b'a']);
    header
}

pub(crate) fn tcp(to: &str, port: u16, flags: u8) -> Vec<u8> {
    ip(TCP, to, &segment(port, flags))
}

pub(crate) fn syn(to: &str, port: u16) -> Vec<u8> {
    tcp(to, port, SYN)
}

pub(crate) fn udp(to: &str, port: u16) -> Vec<u8> {
    ip(UDP, to, &datagram(port))
}

/// ICMP or ICMPv6, as the destination is.
pub(crate) fn icmp(to: &str, kind: u8) -> Vec<u8> {
    let protocol = if to.contains(':') { 58 } else { 1 };
    ip(protocol, to, &[kind, 0, 0, 0, 0, 0, 0, 0])
}

/// ARP of the endpoint's: operation, the address asked for or answered, its MAC, and the frame's.
pub(crate) fn arp(operation: u16, target: &str, target_mac: [u8; 6], to: [u8; 6]) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4];
    message.extend(operation.to_be_bytes());
    message.extend(MAC);
    message.extend(octets(OWN4));
    message.extend(target_mac);
    message.extend(octets(target));
    patched(ethernet(ARP, &message), at::MAC_TO, &to)
}

/// NDP about a target: its type, source and destination, and options. The frame goes to the
/// group's MAC where the destination is one.
pub(crate) fn ndp(kind: u8, from: &str, to: &str, target: &str, options: &[u8]) -> Vec<u8> {
    let body = [&[kind, 0, 0, 0, 0, 0, 0, 0], &octets(target)[..], options].concat();
    neighbour(from, to, &body)
}

/// Router solicitation has no target.
pub(crate) fn router_solicitation(from: &str, options: &[u8]) -> Vec<u8> {
    let body = [&[133, 0, 0, 0, 0, 0, 0, 0], options].concat();
    neighbour(from, "ff02::2", &body)
}

fn neighbour(from: &str, to: &str, body: &[u8]) -> Vec<u8> {
    let frame = patched(ip(58, to, body), at::HOP_LIMIT6, &[255]);
    let frame = patched(frame, at::SOURCE6, &octets(from));
    match &octets(to)[..] {
        [0xff, .., a, b, c, d] => patched(frame, at::MAC_TO, &[0x33, 0x33, *a, *b, *c, *d]),
        _ => frame,
    }
}

/// A link-layer address as an NDP option: 1 for the source's, 2 for the target's.
pub(crate) fn link_layer_option(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1], &mac[..]].concat()
}

/// The same frame with other bytes at an offset.
pub(crate) fn patched(mut frame: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}
