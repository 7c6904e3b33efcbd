//! Reading IP packets: only what is plain TCP, UDP or ICMP comes through, everything else is
//! named. Headers are copied out by length, so nothing depends on what happens to be linear.

use crate::{
    address::Address,
    attempt::{Attempt, ICMP, ICMP6, TCP, UDP},
    verdict::DropReason,
};

/// Bytes of a packet. In the kernel `bpf_skb_load_bytes`, in tests a slice.
pub trait Bytes {
    /// The `N` bytes from `offset`; `None` where the packet is shorter.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// The packet's length in bytes.
    fn len(&self) -> u32;
    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Bytes for &[u8] {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let tail = self.get(offset as usize..)?;
        tail.first_chunk().copied()
    }

    fn len(&self) -> u32 {
        <[u8]>::len(self) as u32
    }
}

const IGMP: u8 = 2;
const HOP_BY_HOP: u8 = 0;
const IPV6_FRAGMENT: u8 = 44;

/// Length of an IPv4 header without options (RFC 791).
const IPV4_HEADER: u32 = 20;
/// Length of the IPv6 header (RFC 8200).
const IPV6_HEADER: u32 = 40;

/// Reads the IP packet at `at` into `attempt`, of which it leaves the layer alone. What was read
/// before an error stays, so that a report can show it.
#[inline(always)]
pub fn parse_ip(bytes: &impl Bytes, at: u32, attempt: &mut Attempt) -> Result<(), DropReason> {
    let [first] = bytes.load::<1>(at).ok_or(DropReason::Truncated)?;
    match first >> 4 {
        4 => parse_ipv4(bytes, at, attempt),
        6 => parse_ipv6(bytes, at, attempt),
        _ => Err(DropReason::Malformed),
    }
}

/// Reads the IPv4 packet at `at`, whatever its version field says.
#[inline(always)]
pub fn parse_ipv4(bytes: &impl Bytes, at: u32, attempt: &mut Attempt) -> Result<(), DropReason> {
    let header = bytes.load::<20>(at).ok_or(DropReason::Truncated)?;
    attempt.protocol = header[9];
    attempt.source = Address::v4([header[12], header[13], header[14], header[15]]);
    attempt.destination = Address::v4([header[16], header[17], header[18], header[19]]);
    if header[0] >> 4 != 4 {
        return Err(DropReason::Malformed);
    }
    if attempt.protocol == IGMP {
        return Err(DropReason::GroupManagement);
    }
    if header[0] & 0xf != 5 {
        return Err(if header[0] & 0xf < 5 {
            DropReason::Malformed
        } else {
            DropReason::IpOptions
        });
    }
    // Reserved bit, more fragments, offset; "don't fragment" is free.
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    if fragment & 0x3fff != 0 {
        return Err(DropReason::Fragment);
    }
    if fragment & 0x8000 != 0 {
        return Err(DropReason::Malformed);
    }
    let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
    if total < IPV4_HEADER || at + total > bytes.len() {
        return Err(DropReason::Malformed);
    }
    // ICMPv6 is of IPv6 alone: no kernel sends it here, and its errors are not those of a kernel.
    if attempt.protocol == ICMP6 {
        return Err(DropReason::OtherProtocol);
    }
    parse_transport(bytes, at + IPV4_HEADER, total - IPV4_HEADER, attempt)
}

/// Reads the IPv6 packet at `at`, whatever its version field says.
#[inline(always)]
pub fn parse_ipv6(bytes: &impl Bytes, at: u32, attempt: &mut Attempt) -> Result<(), DropReason> {
    let header = bytes.load::<8>(at).ok_or(DropReason::Truncated)?;
    attempt.source = Address::v6(bytes.load::<16>(at + 8).ok_or(DropReason::Truncated)?);
    attempt.destination = Address::v6(bytes.load::<16>(at + 24).ok_or(DropReason::Truncated)?);
    attempt.protocol = header[6];
    if header[0] >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    // On the wire a mapped address is nobody's (RFC 4291 section 2.5.5.2 is for sockets).
    if attempt.source.is_v4() || attempt.destination.is_v4() {
        return Err(DropReason::Malformed);
    }
    let payload = u32::from(u16::from_be_bytes([header[4], header[5]]));
    match attempt.protocol {
        TCP | UDP | ICMP6 => {}
        IPV6_FRAGMENT => return Err(DropReason::Fragment),
        HOP_BY_HOP if is_mld(bytes, at + IPV6_HEADER) => return Err(DropReason::GroupManagement),
        // Routing, authentication, no next header, destination options, mobility, HIP, shim6,
        // experiments (IANA's list of extension header types); ESP is a tunnel.
        HOP_BY_HOP | 43 | 51 | 59 | 60 | 135 | 139 | 140 | 253 | 254 => {
            return Err(DropReason::ExtensionHeader);
        }
        _ => return Err(reason_of_protocol(attempt.protocol)),
    }
    if at + IPV6_HEADER + payload > bytes.len() {
        return Err(DropReason::Malformed);
    }
    parse_transport(bytes, at + IPV6_HEADER, payload, attempt)
}

/// MLD travels behind a hop-by-hop header of eight bytes (RFC 3810 section 5).
#[inline(always)]
fn is_mld(bytes: &impl Bytes, at: u32) -> bool {
    match bytes.load::<9>(at) {
        Some(b) => b[0] == ICMP6 && b[1] == 0 && matches!(b[8], 130..=132 | 143),
        None => false,
    }
}

#[inline(always)]
fn parse_transport(
    bytes: &impl Bytes,
    at: u32,
    length: u32,
    attempt: &mut Attempt,
) -> Result<(), DropReason> {
    match attempt.protocol {
        TCP => {
            if length < 20 {
                return Err(DropReason::Truncated);
            }
            let header = bytes.load::<14>(at).ok_or(DropReason::Truncated)?;
            attempt.source_port = u16::from_be_bytes([header[0], header[1]]);
            attempt.destination_port = u16::from_be_bytes([header[2], header[3]]);
            attempt.tcp_flags = header[13];
            let offset = u32::from(header[12] >> 4) * 4;
            if offset < 20 || offset > length {
                return Err(DropReason::Malformed);
            }
            Ok(())
        }
        UDP => {
            if length < 8 {
                return Err(DropReason::Truncated);
            }
            let header = bytes.load::<8>(at).ok_or(DropReason::Truncated)?;
            attempt.source_port = u16::from_be_bytes([header[0], header[1]]);
            attempt.destination_port = u16::from_be_bytes([header[2], header[3]]);
            if u32::from(u16::from_be_bytes([header[4], header[5]])) != length {
                return Err(DropReason::Malformed);
            }
            Ok(())
        }
        ICMP | ICMP6 => {
            if length < 8 {
                return Err(DropReason::Truncated);
            }
            let [kind] = bytes.load::<1>(at).ok_or(DropReason::Truncated)?;
            attempt.destination_port = u16::from(kind);
            Ok(())
        }
        other => Err(reason_of_protocol(other)),
    }
}

/// The reason for an IP protocol that is not TCP, UDP or ICMP (IANA's protocol numbers).
#[inline(always)]
pub const fn reason_of_protocol(protocol: u8) -> DropReason {
    match protocol {
        // IP in IP, IPv6 in IP, GRE, ESP, AH, minimal encapsulation, IPIP, EtherIP, ENCAP, L2TP,
        // MPLS, Ethernet.
        4 | 41 | 47 | 50 | 51 | 55 | 94 | 97 | 98 | 115 | 137 | 143 => DropReason::Tunnel,
        _ => DropReason::OtherProtocol,
    }
}

/// Whether an ICMP type is one that kernels send by themselves: errors (RFC 792, RFC 4443).
#[inline(always)]
pub const fn is_icmp_error(protocol: u8, kind: u16) -> bool {
    match protocol {
        ICMP => matches!(kind, 3 | 11 | 12),
        ICMP6 => matches!(kind, 1..=4),
        _ => false,
    }
}
