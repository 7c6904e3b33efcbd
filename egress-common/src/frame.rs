//! Judging a frame that leaves an endpoint's link, before the decision on what it carries: it
//! must be plain IPv4, IPv6 or ARP, from the endpoint itself, to the next hop.

use crate::{
    address::Address,
    attempt::{Attempt, ICMP6},
    decide::Tables,
    endpoint::Link,
    maps::{NEXT_HOP, OWN},
    packet::{Bytes, parse_ipv4, parse_ipv6},
    verdict::DropReason,
};

/// Length of an Ethernet header without a tag.
pub const ETHERNET_HEADER: u32 = 14;
/// The least length of an Ethernet frame, to which cards pad (IEEE 802.3, without its checksum).
const SHORTEST_FRAME: u32 = 60;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad and the older QinQ.
const ETHERTYPES_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

const BROADCAST: [u8; 6] = [0xff; 6];

/// What a frame is, once it is known to be the endpoint's own.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub enum Frame {
    /// ARP or NDP of the endpoint with its next hop: let it pass.
    Neighbour,
    /// An IP packet, read into the attempt: decide on it.
    Ip,
}

/// What a frame's own header says, and what it carries.
#[derive(Clone, Copy)]
pub struct Header {
    /// The MAC addresses of destination and source, as they are in the frame.
    pub macs: [u32; 3],
    /// What is behind it.
    pub carries: Carried,
}

impl Header {
    #[inline(always)]
    const fn to(&self) -> [u8; 6] {
        let [[a, b, c, d], [e, f, ..], _] = self.bytes();
        [a, b, c, d, e, f]
    }

    #[inline(always)]
    const fn from(&self) -> [u8; 6] {
        let [_, [.., a, b], [c, d, e, f]] = self.bytes();
        [a, b, c, d, e, f]
    }

    #[inline(always)]
    const fn bytes(&self) -> [[u8; 4]; 3] {
        let [a, b, c] = self.macs;
        [a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes()]
    }
}

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// An IP packet.
    Ip,
    /// One of NDP's.
    Ndp,
    /// ARP, not read yet.
    Arp,
}

/// Judges the frame in `bytes`. What was read of it stays in `attempt` for the report.
#[inline(always)]
pub fn parse_frame(
    bytes: &impl Bytes,
    link: &Link,
    tables: &impl Tables,
    attempt: &mut Attempt,
) -> Result<Frame, DropReason> {
    let header = read_frame(bytes, attempt)?;
    check_frame(bytes, &header, link, tables, attempt)
}

/// Reads the frame in `bytes`, whosever it is.
#[inline(always)]
pub fn read_frame(bytes: &impl Bytes, attempt: &mut Attempt) -> Result<Header, DropReason> {
    let header = bytes.load::<14>(0).ok_or(DropReason::Truncated)?;
    let macs = [
        u32::from_ne_bytes([header[0], header[1], header[2], header[3]]),
        u32::from_ne_bytes([header[4], header[5], header[6], header[7]]),
        u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
    ];
    let ethertype = u16::from_be_bytes([header[12], header[13]]);
    let carries = match ethertype {
        ETHERTYPE_IPV4 => {
            parse_ipv4(bytes, ETHERNET_HEADER, attempt)?;
            Carried::Ip
        }
        ETHERTYPE_IPV6 => {
            parse_ipv6(bytes, ETHERNET_HEADER, attempt)?;
            if attempt.protocol == ICMP6 && matches!(attempt.destination_port, 133..=137) {
                Carried::Ndp
            } else {
                Carried::Ip
            }
        }
        ETHERTYPE_ARP => {
            attempt.destination_port = ethertype;
            Carried::Arp
        }
        other => {
            attempt.destination_port = other;
            return Err(if ETHERTYPES_VLAN.contains(&other) {
                DropReason::Vlan
            } else {
                DropReason::Ethertype
            });
        }
    };
    Ok(Header { macs, carries })
}

/// Whether a frame that was read is the endpoint's own, toward its next hop.
#[inline(always)]
pub fn check_frame(
    bytes: &impl Bytes,
    header: &Header,
    link: &Link,
    tables: &impl Tables,
    attempt: &mut Attempt,
) -> Result<Frame, DropReason> {
    let to = header.to();
    if header.from() != link.mac {
        return Err(DropReason::SpoofedMac);
    }
    match header.carries {
        Carried::Ip => {
            check_destination_mac(&to, link)?;
            check_source(link, tables, attempt)?;
            Ok(Frame::Ip)
        }
        Carried::Ndp => {
            check_ndp(bytes, &to, link, tables, attempt)?;
            Ok(Frame::Neighbour)
        }
        Carried::Arp => {
            check_arp(bytes, &to, link, tables, attempt)?;
            Ok(Frame::Neighbour)
        }
    }
}

#[inline(always)]
fn is_own(link: &Link, tables: &impl Tables, address: &Address) -> bool {
    tables.role_of(link.endpoint, address) & OWN != 0
}

#[inline(always)]
fn is_next_hop(link: &Link, tables: &impl Tables, address: &Address) -> bool {
    tables.role_of(link.endpoint, address) & NEXT_HOP != 0
}

#[inline(always)]
fn check_destination_mac(to: &[u8; 6], link: &Link) -> Result<(), DropReason> {
    if *to == link.next_hop_mac {
        return Ok(());
    }
    Err(if *to == BROADCAST {
        DropReason::Broadcast
    } else if to[0] & 1 == 1 {
        DropReason::Multicast
    } else {
        DropReason::WrongNextHop
    })
}

#[inline(always)]
fn check_source(link: &Link, tables: &impl Tables, attempt: &Attempt) -> Result<(), DropReason> {
    if link.owns(&attempt.source) || is_own(link, tables, &attempt.source) {
        Ok(())
    } else {
        Err(DropReason::SpoofedAddress)
    }
}

// Neither of these two is inlined, and a BPF program has 512 bytes of stack: what ARP and NDP need
// lies in frames of their own.

/// ARP (RFC 826): the sender is the endpoint; a request asks for the next hop, a reply goes to it.
/// Behind it is at most padding: a bridge floods requests, and whatever they carry.
#[inline(never)]
fn check_arp(
    bytes: &impl Bytes,
    to: &[u8; 6],
    link: &Link,
    tables: &impl Tables,
    attempt: &mut Attempt,
) -> Result<(), DropReason> {
    // Hardware type 1, protocol IPv4, lengths 6 and 4, operation; then the two pairs.
    let fixed = bytes
        .load::<8>(ETHERNET_HEADER)
        .ok_or(DropReason::Truncated)?;
    let pairs = bytes
        .load::<20>(ETHERNET_HEADER + 8)
        .ok_or(DropReason::Truncated)?;
    attempt.source = Address::v4([pairs[6], pairs[7], pairs[8], pairs[9]]);
    attempt.destination = Address::v4([pairs[16], pairs[17], pairs[18], pairs[19]]);
    let sender_mac = [pairs[0], pairs[1], pairs[2], pairs[3], pairs[4], pairs[5]];
    let target_mac = [
        pairs[10], pairs[11], pairs[12], pairs[13], pairs[14], pairs[15],
    ];
    let sound = fixed[..6] == [0, 1, 8, 0, 6, 4] && sender_mac == link.mac;
    if !sound || bytes.len() > SHORTEST_FRAME {
        return Err(DropReason::Arp);
    }
    let own = is_own(link, tables, &attempt.source);
    let allowed = match u16::from_be_bytes([fixed[6], fixed[7]]) {
        1 => {
            own && is_next_hop(link, tables, &attempt.destination)
                && (*to == BROADCAST || *to == link.next_hop_mac)
        }
        2 => own && *to == link.next_hop_mac && target_mac == link.next_hop_mac,
        _ => false,
    };
    if allowed {
        Ok(())
    } else {
        Err(DropReason::Arp)
    }
}

/// NDP (RFC 4861): duplicate address detection, solicitation of the next hop, advertisement of
/// oneself, router solicitation. Hop limit 255, code 0, at most two options, nothing behind them;
/// to the next hop's MAC or that of its group (RFC 2464 section 7).
#[inline(never)]
fn check_ndp(
    bytes: &impl Bytes,
    to: &[u8; 6],
    link: &Link,
    tables: &impl Tables,
    attempt: &Attempt,
) -> Result<(), DropReason> {
    let header = bytes
        .load::<8>(ETHERNET_HEADER)
        .ok_or(DropReason::Truncated)?;
    let at = ETHERNET_HEADER + 40;
    let [kind, code] = bytes.load::<2>(at).ok_or(DropReason::Truncated)?;
    let payload = u16::from_be_bytes([header[4], header[5]]);
    // The message, a link-layer address and a nonce (RFC 7527) of eight bytes each.
    let base = if kind == 133 { 8 } else { 24 };
    let whole = at + u32::from(payload) == bytes.len();
    if header[7] != 255 || code != 0 || payload < base || !whole {
        return Err(DropReason::Ndp);
    }
    let options = at + u32::from(base);
    let are_own = match payload - base {
        0 => true,
        8 => option_is_own(bytes, options, link),
        16 => option_is_own(bytes, options, link) && option_is_own(bytes, options + 8, link),
        _ => false,
    };
    if !are_own {
        return Err(DropReason::Ndp);
    }
    let destination = attempt.destination.octets();
    if !is_group_mac(to, &destination) && *to != link.next_hop_mac {
        return Err(DropReason::WrongNextHop);
    }
    let unspecified = attempt.source == Address::UNSPECIFIED;
    let own = is_own(link, tables, &attempt.source);
    let allowed = match kind {
        133 => (own || unspecified) && destination == ALL_ROUTERS,
        135 | 136 => {
            let target = Address::v6(bytes.load::<16>(at + 8).ok_or(DropReason::Truncated)?);
            // What would be IPv4 to the tables is nobody's on the wire.
            if target.is_v4() {
                return Err(DropReason::Ndp);
            }
            let solicited = is_solicited_node(&destination, &target.octets());
            if kind == 136 {
                own && is_own(link, tables, &target)
                    && (destination == ALL_NODES || is_next_hop(link, tables, &attempt.destination))
            } else if unspecified {
                solicited && is_own(link, tables, &target)
            } else {
                own && is_next_hop(link, tables, &target)
                    && (solicited || attempt.destination == target)
            }
        }
        // Router advertisements and redirects.
        _ => false,
    };
    if allowed {
        Ok(())
    } else {
        Err(DropReason::Ndp)
    }
}

const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_ROUTERS: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// `33:33` and the last four bytes of a multicast address.
#[inline(always)]
fn is_group_mac(mac: &[u8; 6], group: &[u8; 16]) -> bool {
    group[0] == 0xff && *mac == [0x33, 0x33, group[12], group[13], group[14], group[15]]
}

/// `ff02::1:ffXX:XXXX` with the target's last three bytes (RFC 4291 section 2.7.1).
#[inline(always)]
fn is_solicited_node(group: &[u8; 16], target: &[u8; 16]) -> bool {
    const PREFIX: [u8; 13] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
    let mut i = 0;
    while i < 16 {
        let want = if i < 13 { PREFIX[i] } else { target[i] };
        if group[i] != want {
            return false;
        }
        i += 1;
    }
    true
}

/// An option that is a link-layer address (types 1 and 2) must name the endpoint's; a nonce (type
/// 14) may stand there too.
#[inline(always)]
fn option_is_own(bytes: &impl Bytes, at: u32, link: &Link) -> bool {
    match bytes.load::<8>(at) {
        Some([1 | 2, 1, mac @ ..]) => mac == link.mac,
        Some([14, 1, ..]) => true,
        _ => false,
    }
}
