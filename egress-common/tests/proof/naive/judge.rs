//! The decision on what was read: a list of lines, of which the first that is true holds.

use std::net::IpAddr;

use egress_common::{
    endpoint::{PRIVATE_LOOPBACK, RELAY_LOOPBACK},
    verdict::{DropReason, Service, Verdict},
};

use super::{
    super::world::{ENDPOINT, Flow, Place, World},
    addresses::{is_local, never_outside},
};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// TCP's `connect`.
    Connect,
    /// A datagram that is about to be sent.
    Sendmsg,
    /// A packet.
    Packet,
}

/// A packet or a call.
#[derive(Clone, Debug)]
pub(crate) struct Attempted {
    /// Who asks.
    pub(crate) hook: Hook,
    /// Calls have none yet.
    pub(crate) source: Option<IpAddr>,
    /// Where to; never a mapped address.
    pub(crate) destination: IpAddr,
    /// The IP protocol number.
    pub(crate) protocol: u8,
    /// Of TCP and UDP packets.
    pub(crate) source_port: Option<u16>,
    /// Of TCP and UDP.
    pub(crate) destination_port: Option<u16>,
    /// Of ICMP.
    pub(crate) icmp_type: Option<u8>,
    /// A TCP packet with SYN and without ACK.
    pub(crate) opens: bool,
}

/// Whatever no line names is denied.
pub(crate) fn judge(it: &Attempted, world: &World) -> Verdict {
    use Verdict::{Allow, Deny, Redirect};
    let is_call = it.hook != Hook::Packet;
    let (is_tcp, is_udp) = (it.protocol == 6, it.protocol == 17);
    let has_ports = is_tcp || is_udp;
    let (to, port) = (it.destination, it.destination_port.unwrap_or(0));
    let is_names = has_ports && port == 53;
    let to_gateway = to == world.gateway4 || world.gateway6.is_some_and(|ip| to == ip);
    let is_service = is_tcp && port == world.proxy || has_ports && port == world.resolver;
    let has = |flag| world.flags & flag != 0;
    let is_local = is_local(to);
    let is_within = is_call && has(PRIVATE_LOOPBACK) && (is_local || world.own.contains(&to));
    let is_unserved = is_tcp && is_local && !world.has_listener(to, port);
    let is_relayed = is_within && is_unserved && has(RELAY_LOOPBACK);
    let is_direct = has_ports && world.goes_direct(it.protocol, to, port);
    let never = never_outside(to);
    let is_in = |place| has_ports && world.place(to) == place;
    let lines = [
        (is_call && is_names, Redirect(Service::Resolver)),
        (is_icmp_error(it), Deny(DropReason::IcmpError)),
        (to_gateway && is_service, Allow),
        (to_gateway, Deny(DropReason::GatewayPort)),
        (is_relayed, Redirect(Service::Proxy)),
        (is_within, Allow),
        (is_names, Deny(DropReason::ForeignDns)),
        (is_direct, Allow),
        (is_reply(it, world), Allow),
        (is_local, Deny(DropReason::Loopback)),
        (never.is_some(), Deny(never.unwrap_or(DropReason::Internal))),
        (is_in(Place::Node), Deny(DropReason::Node)),
        (is_in(Place::Cluster), Deny(DropReason::Cluster)),
        (has_ports && port == 853, Deny(DropReason::EncryptedDns)),
        (is_tcp && it.hook == Hook::Connect, Redirect(Service::Proxy)),
        (is_tcp && !is_call && !it.opens, Deny(DropReason::NoFlow)),
        (is_tcp, Deny(DropReason::DirectTcp)),
        (is_udp && port == 443, Deny(DropReason::Quic)),
        (is_udp, Deny(DropReason::DirectUdp)),
        (true, Deny(DropReason::Icmp)),
    ];
    let held = lines.iter().find(|(is_so, _)| *is_so);
    held.map_or(Deny(DropReason::Internal), |(_, verdict)| *verdict)
}

/// Unreachable, too big, time exceeded, parameter problem, by the family's numbers.
fn is_icmp_error(it: &Attempted) -> bool {
    match (it.protocol, it.icmp_type) {
        (1, Some(kind)) => [3, 11, 12].contains(&kind),
        (58, Some(kind)) => [1, 2, 3, 4].contains(&kind),
        _ => false,
    }
}

/// On a flow that was opened inbound; an answer opens nothing.
fn is_reply(it: &Attempted, world: &World) -> bool {
    let (Some(local_port), Some(remote_port)) = (it.source_port, it.destination_port) else {
        return false;
    };
    let flow = Flow {
        endpoint: ENDPOINT,
        remote: it.destination,
        remote_port,
        local_port,
        protocol: it.protocol,
    };
    !it.opens && world.was_opened(&flow)
}
