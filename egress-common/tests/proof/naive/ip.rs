//! IP packets: plain TCP, UDP and the family's ICMP, or the reason why it is nothing of that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_common::verdict::DropReason;

use super::judge::{Attempted, Hook};

/// A packet whose first nibble tells what it is.
pub(super) fn read_any(packet: &[u8]) -> Result<Attempted, DropReason> {
    match packet.first().map(|first| first / 16) {
        None => Err(DropReason::Truncated),
        Some(4) => read4(packet),
        Some(6) => read6(packet),
        Some(_) => Err(DropReason::Malformed),
    }
}

/// By its ethertype an IPv4 packet (RFC 791).
pub(super) fn read4(packet: &[u8]) -> Result<Attempted, DropReason> {
    if packet.len() < 20 {
        return Err(DropReason::Truncated);
    }
    let ip = |at: usize| {
        let octets: [u8; 4] = packet[at..at + 4].try_into().unwrap();
        IpAddr::from(Ipv4Addr::from(octets))
    };
    let (version, words) = (packet[0] / 16, packet[0] % 16);
    let total = number(&packet[2..4]);
    let flags_and_offset = number(&packet[6..8]);
    let (flags, offset) = (flags_and_offset / 0x2000, flags_and_offset % 0x2000);
    let (is_reserved, more_fragments) = (flags & 4 != 0, flags & 1 != 0);
    let protocol = packet[9];
    first_fault(&[
        (version != 4, DropReason::Malformed),
        (protocol == 2, DropReason::GroupManagement),
        (words < 5, DropReason::Malformed),
        (words > 5, DropReason::IpOptions),
        (more_fragments || offset > 0, DropReason::Fragment),
        (is_reserved, DropReason::Malformed),
        (total < 20 || total > packet.len(), DropReason::Malformed),
    ])?;
    match protocol {
        1 | 6 | 17 => read_transport(protocol, ip(12), ip(16), &packet[20..total]),
        other => Err(reason_of(other)),
    }
}

/// By its ethertype an IPv6 packet (RFC 8200).
pub(super) fn read6(packet: &[u8]) -> Result<Attempted, DropReason> {
    if packet.len() < 40 {
        return Err(DropReason::Truncated);
    }
    let ip = |at: usize| {
        let octets: [u8; 16] = packet[at..at + 16].try_into().unwrap();
        Ipv6Addr::from(octets)
    };
    let (source, to) = (ip(8), ip(24));
    let is_mapped = |ip: Ipv6Addr| ip.to_ipv4_mapped().is_some();
    let next_header = packet[6];
    let behind = &packet[40..];
    let length = number(&packet[4..6]);
    let is_mld = next_header == 0 && is_mld(behind);
    // IANA's list of extension headers, and "no next header".
    let is_extension = [0, 43, 51, 59, 60, 135, 139, 140, 253, 254].contains(&next_header);
    first_fault(&[
        (packet[0] / 16 != 6, DropReason::Malformed),
        (is_mapped(source) || is_mapped(to), DropReason::Malformed),
        (next_header == 44, DropReason::Fragment),
        (is_mld, DropReason::GroupManagement),
        (is_extension, DropReason::ExtensionHeader),
    ])?;
    if ![6, 17, 58].contains(&next_header) {
        return Err(reason_of(next_header));
    }
    if length > behind.len() {
        return Err(DropReason::Malformed);
    }
    read_transport(next_header, source.into(), to.into(), &behind[..length])
}

/// Hop-by-hop options of eight bytes, then a multicast listener query, report or done.
fn is_mld(behind: &[u8]) -> bool {
    let kinds = [130, 131, 132, 143];
    behind.len() > 8 && behind[0] == 58 && behind[1] == 0 && kinds.contains(&behind[8])
}

fn read_transport(
    protocol: u8,
    source: IpAddr,
    destination: IpAddr,
    bytes: &[u8],
) -> Result<Attempted, DropReason> {
    let smallest = if protocol == 6 { 20 } else { 8 };
    if bytes.len() < smallest {
        return Err(DropReason::Truncated);
    }
    let mut packet = Attempted {
        hook: Hook::Packet,
        source: Some(source),
        destination,
        protocol,
        source_port: None,
        destination_port: None,
        icmp_type: None,
        opens: false,
    };
    if protocol == 6 || protocol == 17 {
        packet.source_port = Some(number(&bytes[0..2]) as u16);
        packet.destination_port = Some(number(&bytes[2..4]) as u16);
    } else {
        packet.icmp_type = Some(bytes[0]);
    }
    let is_sound = match protocol {
        6 => {
            let header = usize::from(bytes[12] / 16) * 4;
            let (syn, ack) = (bytes[13] & 2 != 0, bytes[13] & 16 != 0);
            packet.opens = syn && !ack;
            (20..=bytes.len()).contains(&header)
        }
        17 => number(&bytes[4..6]) == bytes.len(),
        _ => true,
    };
    if is_sound {
        Ok(packet)
    } else {
        Err(DropReason::Malformed)
    }
}

/// Protocols that carry packets or frames, by IANA's names; then whatever else there is.
fn reason_of(protocol: u8) -> DropReason {
    let tunnels = [
        ("IPv4", 4),
        ("IPv6", 41),
        ("GRE", 47),
        ("ESP", 50),
        ("AH", 51),
        ("Min-IPv4", 55),
        ("IPIP", 94),
        ("ETHERIP", 97),
        ("ENCAP", 98),
        ("L2TP", 115),
        ("MPLS-in-IP", 137),
        ("Ethernet", 143),
    ];
    if tunnels.iter().any(|(_, number)| *number == protocol) {
        DropReason::Tunnel
    } else {
        DropReason::OtherProtocol
    }
}

/// The reason of the first line that is true.
pub(super) fn first_fault(lines: &[(bool, DropReason)]) -> Result<(), DropReason> {
    match lines.iter().find(|(is_so, _)| *is_so) {
        Some((_, reason)) => Err(*reason),
        None => Ok(()),
    }
}

/// Big-endian.
pub(super) fn number(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .fold(0, |so_far, byte| so_far * 256 + usize::from(*byte))
}
