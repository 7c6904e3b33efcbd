//! IP packets by hand.

use std::net::IpAddr;

/// What every datagram carries.
const PAYLOAD: &[u8] = b"egress-tests packet";

/// An IP packet with a UDP datagram from port 40000, checksums included.
///
/// Both addresses are of one family.
pub(crate) fn udp(from: IpAddr, to: IpAddr, port: u16) -> Vec<u8> {
    udp_with(from, to, port, PAYLOAD)
}

/// The same with another content.
pub(crate) fn udp_with(from: IpAddr, to: IpAddr, port: u16, content: &[u8]) -> Vec<u8> {
    let length = 8 + content.len() as u16;
    let mut udp = Vec::new();
    for number in [40_000, port, length, 0] {
        udp.extend(u16::to_be_bytes(number));
    }
    udp.extend(content);
    let (from, to) = (octets(from), octets(to));
    let pseudo = [0, libc::IPPROTO_UDP as u8, udp[4], udp[5]];
    let sum = checksum(&[&from, &to, &pseudo, &udp]).to_be_bytes();
    udp[6..8].copy_from_slice(&sum);
    let mut packet = header(&from, &to, length);
    packet.extend(udp);
    packet
}

/// The internet checksum (RFC 1071) over the parts, each of an even length but the last.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or_default();
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn header(from: &[u8], to: &[u8], length: u16) -> Vec<u8> {
    let protocol = libc::IPPROTO_UDP as u8;
    let mut header = if to.len() == 4 {
        let mut header = vec![0x45, 0];
        header.extend((20 + length).to_be_bytes());
        header.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
        header
    } else {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(length.to_be_bytes());
        header.extend([protocol, 64]);
        header
    };
    header.extend(from);
    header.extend(to);
    if to.len() == 4 {
        let sum = checksum(&[&header]).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
    }
    header
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
