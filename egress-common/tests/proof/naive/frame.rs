//! Frames on the endpoint's link: untagged IPv4, IPv6 or ARP, from the endpoint itself to its next
//! hop; ARP and NDP by an exact list.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_common::verdict::{DropReason, Verdict};

use super::{
    super::world::World,
    ip::{first_fault, number, read4, read6},
    judge::{Attempted, judge},
};

const BROADCAST: [u8; 6] = [255; 6];
/// The least that an Ethernet frame has without its checksum; cards pad to that.
const SHORTEST_FRAME: usize = 60;

/// What the link says of a frame.
pub(crate) fn judge_frame(frame: &[u8], world: &World) -> Verdict {
    match read_frame(frame, world) {
        Ok(Some(packet)) => judge(&packet, world),
        Ok(None) => Verdict::Allow,
        Err(reason) => Verdict::Deny(reason),
    }
}

/// A packet to decide on, or `None` for a neighbour message that may pass. What cannot be read is
/// named so; then comes whose it is.
fn read_frame(frame: &[u8], world: &World) -> Result<Option<Attempted>, DropReason> {
    if frame.len() < 14 {
        return Err(DropReason::Truncated);
    }
    let (header, body) = frame.split_at(14);
    let (to, from) = (&header[..6], &header[6..12]);
    let is_spoofed = from != world.mac;
    let packet = match number(&header[12..14]) {
        0x0800 => read4(body)?,
        0x86dd => read6(body)?,
        0x0806 => {
            first_fault(&[
                (is_spoofed, DropReason::SpoofedMac),
                (body.len() < 28, DropReason::Truncated),
            ])?;
            let is_listed = is_arp_allowed(to, body, world) && frame.len() <= SHORTEST_FRAME;
            return first_fault(&[(!is_listed, DropReason::Arp)]).map(|()| None);
        }
        0x8100 | 0x88a8 | 0x9100 => return Err(DropReason::Vlan),
        _ => return Err(DropReason::Ethertype),
    };
    if packet.protocol == 58 && matches!(packet.icmp_type, Some(133..=137)) {
        first_fault(&[
            (is_spoofed, DropReason::SpoofedMac),
            (!is_ndp_sound(body, world), DropReason::Ndp),
        ])?;
        first_fault(&[
            (!may_carry_ndp(to, body, world), DropReason::WrongNextHop),
            (!is_ndp_allowed(body, world), DropReason::Ndp),
        ])?;
        return Ok(None);
    }
    let is_own = packet.source.is_some_and(|ip| world.own.contains(&ip));
    let is_astray = to != world.next_hop_mac;
    first_fault(&[
        (is_spoofed, DropReason::SpoofedMac),
        (is_astray && to == BROADCAST, DropReason::Broadcast),
        (is_astray && to[0] % 2 == 1, DropReason::Multicast),
        (is_astray, DropReason::WrongNextHop),
        (!is_own, DropReason::SpoofedAddress),
    ])?;
    Ok(Some(packet))
}

/// RFC 826: a request of the endpoint for its next hop, or its answer to that.
fn is_arp_allowed(to: &[u8], body: &[u8], world: &World) -> bool {
    let ip = |at: usize| {
        let octets: [u8; 4] = body[at..at + 4].try_into().unwrap();
        IpAddr::from(Ipv4Addr::from(octets))
    };
    let ethernet_and_ipv4 = [0, 1, 8, 0, 6, 4];
    let (sender_mac, sender) = (&body[8..14], ip(14));
    let (target_mac, target) = (&body[18..24], ip(24));
    let is_mine = sender_mac == world.mac && world.own.contains(&sender);
    let to_next_hop = to == world.next_hop_mac;
    let is_request = number(&body[6..8]) == 1
        && world.next_hop.contains(&target)
        && (to_next_hop || to == BROADCAST);
    let is_reply = number(&body[6..8]) == 2 && to_next_hop && target_mac == world.next_hop_mac;
    body[..6] == ethernet_and_ipv4 && is_mine && (is_request || is_reply)
}

/// RFC 4861: hop limit 255, code 0, whole options, nothing behind; a link-layer address in an
/// option is the endpoint's, and a nonce (RFC 7527) is nobody's.
fn is_ndp_sound(body: &[u8], world: &World) -> bool {
    let message = &body[40..40 + number(&body[4..6])];
    let fixed = if message[0] == 133 { 8 } else { 24 };
    let (hop_limit, code) = (body[7], message[1]);
    let is_whole = message.len() >= fixed && (message.len() - fixed).is_multiple_of(8);
    if hop_limit != 255 || code != 0 || !is_whole || body.len() != 40 + message.len() {
        return false;
    }
    let options: Vec<&[u8]> = message[fixed..].chunks(8).collect();
    let is_known = |option: &&[u8]| match (option[0], option[1]) {
        (1 | 2, 1) => option[2..] == world.mac,
        (14, 1) => true,
        _ => false,
    };
    options.len() <= 2 && options.iter().all(is_known)
}

/// To the next hop, or where the packet is for a group, to that group's MAC (RFC 2464).
fn may_carry_ndp(to: &[u8], body: &[u8], world: &World) -> bool {
    let destination = ip6(&body[24..40]);
    let group = [&[0x33, 0x33], &destination.octets()[12..]].concat();
    to == world.next_hop_mac || destination.is_multicast() && to == group
}

fn ip6(bytes: &[u8]) -> Ipv6Addr {
    let octets: [u8; 16] = bytes.try_into().unwrap();
    Ipv6Addr::from(octets)
}

/// The list.
fn is_ndp_allowed(body: &[u8], world: &World) -> bool {
    let (source, destination) = (ip6(&body[8..24]), ip6(&body[24..40]));
    let is_mine = |ip: Ipv6Addr| world.own.contains(&ip.into());
    let is_next_hop = |ip: Ipv6Addr| world.next_hop.contains(&ip.into());
    let is_group = |text: &str| destination == text.parse::<Ipv6Addr>().unwrap();
    let kind = body[40];
    if kind == 133 {
        return is_group("ff02::2") && (is_mine(source) || source.is_unspecified());
    }
    let target = ip6(&body[48..64]);
    let [.., a, b, c] = target.octets();
    let last = u16::from_be_bytes([b, c]);
    let solicited = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), last);
    let is_detection = source.is_unspecified() && is_mine(target) && destination == solicited;
    let is_solicitation = !source.is_unspecified()
        && is_mine(source)
        && is_next_hop(target)
        && [solicited, target].contains(&destination);
    let is_advertisement =
        is_mine(source) && is_mine(target) && (is_group("ff02::1") || is_next_hop(destination));
    match kind {
        135 => is_detection || is_solicitation,
        136 => is_advertisement,
        _ => false,
    }
}
