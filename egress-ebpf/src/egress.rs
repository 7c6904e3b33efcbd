//! `skb egress` and `skb ingress` of the endpoints' cgroups: every packet that a socket of theirs
//! makes, whatever call it came from.

use crate::{
    contain,
    context::Skb,
    decided::{NOTHING, Seen, recall, remember},
    flows, gateway, identify, maps, report,
    tables::{Maps, Outcome, judge},
};
use aya_ebpf::{bindings::__sk_buff, programs::SkBuffContext};
use egress_common::{
    address::Address,
    attempt::Attempt,
    decide::Tables,
    endpoint::{Endpoint, Gateway, HAS_LINK, IS_GATEWAY, PRIVATE_LOOPBACK},
    event::KIND_DROPPED,
    maps::Class,
    packet::parse_ip,
    socket::{AT_EGRESS, Socket},
    verdict::{DropReason, Layer, Verdict},
};

/// The loopback device is the first one of every network namespace.
const LOOPBACK_INTERFACE: u32 = 1;

/// Whether the packet goes on.
#[inline(always)]
pub(crate) fn passes(ctx: &SkBuffContext) -> bool {
    let skb = Skb(ctx.skb.skb);
    let storage = identify::storage_of_packet(&skb);
    let interface = skb.interface();
    let mut attempt = blank();
    let read = read(skb.0, &mut attempt);
    let seen = Seen::on(interface);
    if read == READ {
        let endpoint = recall::<AT_EGRESS>(storage, &attempt, &seen);
        if endpoint != NOTHING {
            if endpoint != 0 {
                maps::count(endpoint, 0);
            }
            return true;
        }
    }
    let socket = identify::known(storage);
    let found = socket
        .as_ref()
        .and_then(|socket| maps::endpoint_of_socket(socket))
        .or_else(|| identify::endpoint_of_packet(&skb));
    let Some(endpoint) = found else {
        // Attached are endpoints' cgroups alone: whoever is not found there is not known.
        let reason = DropReason::UnknownEndpoint;
        report::report(ctx, 0, &blank(), reason, None, interface, KIND_DROPPED);
        return false;
    };
    if interface == LOOPBACK_INTERFACE && endpoint.has(PRIVATE_LOOPBACK) {
        return true;
    }
    let Some(config) = maps::config() else {
        return false;
    };
    let is_gateway = endpoint.has(IS_GATEWAY);
    let outcome = match read {
        READ if is_gateway => contain::judge(&attempt, endpoint, &config.gateway),
        READ => judge(core::ptr::null_mut(), &attempt, endpoint, &config.gateway),
        denied => Outcome::of_number(denied),
    };
    let (verdict, lasts) = (outcome.verdict(), outcome.lasts());
    let to_gateway = verdict == Verdict::Allow && config.gateway.is_at(&attempt.destination);
    let verdict = match &socket {
        _ if endpoint.has(HAS_LINK) || is_gateway || !to_gateway => verdict,
        // Without a link it is only known here who speaks to the gateway, and that it is the gateway.
        _ if interface != LOOPBACK_INTERFACE => Verdict::Deny(DropReason::WrongNextHop),
        _ if !gateway::publishes(&attempt, &config.gateway) => verdict,
        Some(socket) if is_own(socket, endpoint, &attempt, &config.gateway) => verdict,
        Some(_) | None => Verdict::Deny(DropReason::SpoofedAddress),
    };
    match verdict {
        Verdict::Allow => {
            // With a link, that counts and publishes.
            let counted = if endpoint.has(HAS_LINK) {
                0
            } else {
                endpoint.id
            };
            if counted != 0 {
                maps::count(counted, 0);
            }
            if lasts {
                let storage = identify::made(storage, &skb);
                remember::<AT_EGRESS>(storage, &attempt, &seen, counted);
            }
            lasts
                || counted == 0
                || is_gateway
                || gateway::publish(&attempt, endpoint, &config.gateway, socket.as_deref())
        }
        // Packets are not sent elsewhere; `decide` redirects calls alone.
        Verdict::Redirect(_) => false,
        Verdict::Deny(reason) => {
            let process = socket.as_ref().map(|socket| &socket.process);
            report::deny(ctx, endpoint, &attempt, reason, process, interface)
        }
    }
}

#[inline(always)]
fn blank() -> Attempt {
    Attempt::call(Layer::CgroupSkb, 0, Address::UNSPECIFIED, 0)
}

/// What [`read`] returns where the packet was read.
const READ: u8 = 0;

/// A function of its own, with a stack frame of its own: headers are copied out. Returns [`READ`] or
/// the number of a reason.
#[inline(never)]
fn read(skb: *mut __sk_buff, attempt: &mut Attempt) -> u8 {
    match parse_ip(&Skb(skb), 0, attempt) {
        Ok(()) => READ,
        Err(reason) => reason as u8,
    }
}

/// Whether the source address is the endpoint's own, which is the node's. In a network namespace of
/// one's own making one has any address; and a socket may be bound to one that the node has not.
#[inline(always)]
fn is_own(socket: &Socket, endpoint: &Endpoint, attempt: &Attempt, gateway: &Gateway) -> bool {
    let source = &attempt.source;
    socket.namespace == endpoint.namespace
        && (gateway.is_at(source) || Maps::of_packets().class_of(source) == Class::Node)
}

/// Looks at what goes to an endpoint without a link. With one, the link sees it, and this is called for
/// what lies below a cgroup of one without.
#[inline(always)]
pub(crate) fn note_inbound(ctx: &SkBuffContext) {
    let skb = Skb(ctx.skb.skb);
    let Some(endpoint) = identify::endpoint_of_packet(&skb) else {
        return;
    };
    // As for what is sent; but a listener older than the enforcement has no storage, and answers.
    let elsewhere = identify::known(identify::storage_of_packet(&skb))
        .is_some_and(|socket| socket.namespace != endpoint.namespace);
    if !endpoint.has(HAS_LINK) && !elsewhere {
        flows::note(&skb, 0, endpoint);
    }
}
