//! Frames by hand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};

/// What every frame carries at its end, for the capture to know it by.
pub const MARK: &[u8] = b"egress-tests frame";

/// To every host of the link.
pub const BROADCAST: Mac = [0xff; 6];

/// A hardware address.
pub type Mac = [u8; 6];

/// Reads one, as `ip link` shows it.
///
/// # Errors
/// Where it is none.
pub fn mac(text: &str) -> Result<Mac> {
    let mut address = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut address {
        let part = parts.next().context("too short a hardware address")?;
        *byte = u8::from_str_radix(part, 16).with_context(|| format!("{text} is no address"))?;
    }
    Ok(address)
}

/// A frame with an Ethernet header.
pub fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 packet (RFC 791). `options` are of whole words.
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let words = 5 + options.len() / 4;
    let total = words * 4 + payload.len();
    let mut header = vec![0x40 | words as u8, 0];
    header.extend((total as u16).to_be_bytes());
    header.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    header.extend(options);
    sign(&mut header);
    header.extend(payload);
    header
}

/// The same with another fragment field: flags and offset.
pub fn fragment(mut packet: Vec<u8>, field: u16) -> Vec<u8> {
    packet[6..8].copy_from_slice(&field.to_be_bytes());
    sign(&mut packet);
    packet
}

/// Writes the header's checksum (RFC 1071).
fn sign(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let length = usize::from(packet[0] & 0xf) * 4;
    let words = packet[..length].chunks_exact(2);
    let mut sum: u32 = words
        .map(|it| u32::from(u16::from_be_bytes([it[0], it[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// An IPv6 packet (RFC 8200).
pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// A UDP datagram without a checksum, which routers do not look at.
pub fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let numbers = [40_000, port, length, 0].map(u16::to_be_bytes).concat();
    [&numbers, payload].concat()
}

/// A TCP segment without a checksum, from port 40000 to 8443.
pub fn tcp(flags: u8) -> Vec<u8> {
    let mut segment = [40_000_u16, 8_443].map(u16::to_be_bytes).concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(MARK);
    segment
}

/// ARP for IPv4 over Ethernet (RFC 826).
pub fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        packet.extend(mac);
        packet.extend(address.octets());
    }
    packet
}

/// An ICMPv6 message with its checksum (RFC 4443), hop limit 255 as NDP wants it.
pub fn icmpv6(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[2..4].fill(0);
    let mut whole = [&from.octets()[..], &to.octets()].concat();
    whole.extend((message.len() as u32).to_be_bytes());
    whole.extend([0, 0, 0, 58]);
    whole.extend(&message);
    whole.resize(whole.len().next_multiple_of(2), 0);
    let mut sum: u32 = whole
        .chunks_exact(2)
        .map(|it| u32::from(u16::from_be_bytes([it[0], it[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let mut packet = ipv6(from, to, 58, &message);
    packet[7] = 255;
    packet
}

/// The ethertype of a family.
pub fn ethertype(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => 0x0800,
        IpAddr::V6(_) => 0x86dd,
    }
}

/// As the attack takes it.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
