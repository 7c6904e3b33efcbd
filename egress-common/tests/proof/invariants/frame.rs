//! Frames and packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_common::verdict::Verdict;

use super::{
    super::{
        subject::{judge_frame, judge_packet, shown},
        world::{ENDPOINT, Flow, World},
    },
    equal, poorer,
};

/// A frame on the link, and what is in it at a socket's hook.
pub(crate) fn on_frame(frame: &[u8], world: &World) {
    let verdict = judge_frame(frame, world);
    let packet = frame.get(14..).unwrap_or_default();
    let of_packet = judge_packet(packet, world);
    let context = || format!("{frame:02x?} in {world:?}");
    for outcome in [verdict, of_packet] {
        let redirected = matches!(outcome, Verdict::Redirect(_));
        assert!(!redirected, "a packet was sent elsewhere: {}", context());
    }
    for same in equal(world) {
        let again = judge_frame(frame, &same);
        assert_eq!(shown(verdict), shown(again), "{}", context());
    }
    for less in poorer(world) {
        let allows = judge_frame(frame, &less) == Verdict::Allow;
        let more = allows && verdict != Verdict::Allow;
        assert!(!more, "{less:?} allows more: {}", context());
    }
    if of_packet == Verdict::Allow {
        assert!(is_plain_and_reaches(packet, world), "{}", context());
    }
    if verdict == Verdict::Allow {
        allowed(frame, world, &context);
    }
}

fn allowed(frame: &[u8], world: &World, context: &dyn Fn() -> String) {
    assert_eq!(frame[6..12], world.mac, "{}", context());
    let is_neighbour = is_arp(frame, world) || is_ndp(frame, world);
    let is_packet = || {
        frame[..6] == world.next_hop_mac
            && world.own.contains(&source(&frame[14..]))
            && u16::from_be_bytes([frame[12], frame[13]]) == ethertype(frame[14])
            && is_plain_and_reaches(&frame[14..], world)
            && judge_packet(&frame[14..], world) == Verdict::Allow
    };
    assert!(is_neighbour || is_packet(), "{}", context());
    let end = end(frame);
    for length in 0..end {
        let cut = judge_frame(&frame[..length], world);
        assert!(cut != Verdict::Allow, "cut at {length}: {}", context());
    }
    if !is_neighbour {
        let mut other = frame.to_vec();
        other[carried(frame)..end].fill(0xa5);
        let allowed = judge_frame(&other, world) == Verdict::Allow;
        assert!(allowed, "what is carried was read: {}", context());
    }
}

fn ethertype(first: u8) -> u16 {
    if first >> 4 == 4 { 0x0800 } else { 0x86dd }
}

/// Where the frame ends by its own account; ARP has 42 bytes.
fn end(frame: &[u8]) -> usize {
    let length = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    match (frame[12], frame[13]) {
        (8, 0) => 14 + length(16),
        (8, 6) => 42,
        _ => 54 + length(18),
    }
}

/// Where the fixed header of TCP or UDP ends.
fn carried(frame: &[u8]) -> usize {
    let (protocol, transport) = match frame[14] >> 4 {
        4 => (frame[23], 34),
        _ => (frame[20], 54),
    };
    transport + if protocol == 6 { 20 } else { 8 }
}

fn is_arp(frame: &[u8], world: &World) -> bool {
    if frame[12..14] != [8, 6] || frame.len() > 60 {
        return false;
    }
    let ip = |at: usize| IpAddr::from([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let asks = frame[20..22] == [0, 1] && world.next_hop.contains(&ip(38));
    let answers = frame[20..22] == [0, 2] && frame[..6] == world.next_hop_mac;
    frame[22..28] == world.mac && world.own.contains(&ip(28)) && (asks || answers)
}

/// A solicitation, an advertisement of oneself or a router solicitation, and nothing with it.
fn is_ndp(frame: &[u8], world: &World) -> bool {
    if frame[12..14] != [0x86, 0xdd] || frame[20] != 58 {
        return false;
    }
    let source = source(&frame[14..]);
    let is_mine = world.own.contains(&source) || source.is_unspecified();
    let is_near = frame[..6] == world.next_hop_mac || frame[..2] == [0x33, 0x33];
    let is_link_local_hop = frame[21] == 255 && frame.len() == end(frame) && frame.len() <= 94;
    let target = || {
        let octets: [u8; 16] = frame[62..78].try_into().unwrap();
        IpAddr::from(octets)
    };
    let is_listed = match frame[54] {
        133 => true,
        135 => world.next_hop.contains(&target()) || world.own.contains(&target()),
        136 => world.own.contains(&target()),
        _ => false,
    };
    is_mine && is_near && is_link_local_hop && is_listed
}

fn source(packet: &[u8]) -> IpAddr {
    addresses(packet).0
}

fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    if packet[0] >> 4 == 4 {
        let octets = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap();
        let ip = |at| IpAddr::from(Ipv4Addr::from(octets(at)));
        (ip(12), ip(16))
    } else {
        let octets = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap();
        let ip = |at| IpAddr::from(Ipv6Addr::from(octets(at)));
        (ip(8), ip(24))
    }
}

/// No options, no fragment, no extension header; TCP or UDP; to the gateway's services, a direct
/// entry, or whoever opened the flow.
fn is_plain_and_reaches(packet: &[u8], world: &World) -> bool {
    let (protocol, at) = match packet[0] {
        0x45 if packet[6] & 0xbf == 0 && packet[7] == 0 => (packet[9], 20),
        0x60..=0x6f => (packet[6], 40),
        _ => return false,
    };
    if ![6, 17].contains(&protocol) {
        return false;
    }
    let (_, to) = addresses(packet);
    let number = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let (local_port, port) = (number(at), number(at + 2));
    let is_gateway = to == world.gateway4 || world.gateway6.is_some_and(|ip| to == ip);
    let is_service = port == world.resolver || protocol == 6 && port == world.proxy;
    let is_reply = world.was_opened(&Flow {
        endpoint: ENDPOINT,
        remote: to,
        remote_port: port,
        local_port,
        protocol,
    });
    let opens = protocol == 6 && packet[at + 13] & 0x12 == 0x02;
    let elsewhere = world.goes_direct(protocol, to, port) || is_reply && !opens;
    if is_gateway {
        is_service
    } else {
        elsewhere && port != 53
    }
}
