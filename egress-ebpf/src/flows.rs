//! Flows that were opened inbound, on which an endpoint may answer. Established ones have a table
//! that forgets nothing; what opens or closes, and UDP, has one that forgets the oldest.

use crate::{context::Skb, maps, tables::Maps};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use egress_common::{
    address::Address,
    attempt::{Attempt, TCP, TCP_FIN, TCP_RST, TCP_SYN, UDP},
    decide::Tables,
    endpoint::Endpoint,
    maps::{ANSWERED, CLOSING, Class, Flow, FlowKey, OPENED},
    packet::parse_ip,
    verdict::Layer,
};

/// How long an answer may take where nothing says that the flow goes on: 2 min, in nanoseconds, as
/// for a UDP stream of the kernel's connection tracking (nf_conntrack_udp_timeout_stream).
const ANSWER_NS: u64 = 120_000_000_000;
/// How old a time may be before it is written anew: 1 s, in nanoseconds.
const FRESH_NS: u64 = 1_000_000_000;

/// Looks at a packet on its way to the endpoint: it may open a flow, or end one.
#[inline(always)]
pub(crate) fn note(skb: &Skb, at: u32, endpoint: &Endpoint) {
    let mut attempt = Attempt::call(Layer::CgroupSkb, 0, Address::UNSPECIFIED, 0);
    if parse_ip(skb, at, &mut attempt).is_err() {
        return;
    }
    let key = FlowKey {
        remote: attempt.source,
        remote_port: attempt.source_port,
        local_port: attempt.destination_port,
        protocol: attempt.protocol,
        reserved: [0; 3],
    };
    let is_gateway = maps::config().is_none_or(|config| config.gateway.is_at(&key.remote));
    match attempt.protocol {
        TCP | UDP if is_gateway => {}
        TCP if attempt.opens() => open(endpoint, &key),
        // Whatever the endpoint makes of it, the flow does not need its place any more.
        TCP if attempt.tcp_flags & TCP_RST != 0 => demote(endpoint.id, &key, OPENED),
        TCP => complete(endpoint.id, &key),
        UDP => open(endpoint, &key),
        _ => {}
    }
}

/// The last step of a handshake, or any segment after it.
#[inline(always)]
fn complete(endpoint: u32, key: &FlowKey) {
    // SAFETY: a value of this map for as long as the program runs, and a word of it.
    let is_answered = |flow: *mut Flow| unsafe { (*flow).stage == ANSWERED };
    if opened(endpoint, key).is_some_and(is_answered) {
        establish(endpoint, key);
    }
}

/// A flow gets a place that it keeps. Without one it stays where it is.
#[inline(always)]
fn establish(endpoint: u32, key: &FlowKey) {
    let (Some(flows), Some(opening)) = (maps::flows(endpoint), maps::opening(endpoint)) else {
        return;
    };
    if flows.insert(key, flow(now(), ANSWERED), 0).is_ok() {
        opening.remove(key).ok();
    }
}

/// Remembers a flow, if whoever opens it may.
#[inline(always)]
fn open(endpoint: &Endpoint, key: &FlowKey) {
    let Some(opening) = maps::opening(endpoint.id) else {
        return;
    };
    let now = now();
    // SAFETY: a word is read; if the entry was just given to another flow, then of that one.
    let seen = unsafe { opening.get(key) }.map(|flow| flow.seen_ns);
    if seen.is_some_and(|seen| now.wrapping_sub(seen) < FRESH_NS) || !may_open(endpoint, key) {
        return;
    }
    // A full table forgets its oldest flow, whose answers are then denied: closed, not open.
    opening.insert(key, flow(now, OPENED), 0).ok();
}

/// TCP of the node and the cluster, and what the policy says.
#[inline(always)]
fn may_open(endpoint: &Endpoint, key: &FlowKey) -> bool {
    let is_inside = Maps::of_packets().class_of(&key.remote) != Class::Outside;
    is_inside && key.protocol == TCP || maps::may_open(endpoint.id, key)
}

/// Whether the attempt answers on such a flow.
#[inline(always)]
pub(crate) fn answers(endpoint: u32, attempt: &Attempt) -> bool {
    let key = FlowKey {
        remote: attempt.destination,
        remote_port: attempt.destination_port,
        local_port: attempt.source_port,
        protocol: attempt.protocol,
        reserved: [0; 3],
    };
    if attempt.protocol == TCP {
        segment_answers(endpoint, &key, attempt.tcp_flags)
    } else {
        opened(endpoint, &key).is_some()
    }
}

#[inline(always)]
fn segment_answers(endpoint: u32, key: &FlowKey, flags: u8) -> bool {
    let Some(flows) = maps::flows(endpoint) else {
        return false;
    };
    let ends = flags & (TCP_FIN | TCP_RST) != 0;
    if let Some(known) = flows.get_ptr_mut(key) {
        if ends {
            demote(endpoint, key, CLOSING);
        } else {
            // SAFETY: a value of this map for as long as the program runs, and a word of it.
            unsafe { refresh(known) };
        }
        return true;
    }
    let Some(known) = opened(endpoint, key) else {
        return false;
    };
    // SAFETY: as above.
    unsafe {
        refresh(known);
        let stage = &raw mut (*known).stage;
        if ends {
            stage.write_volatile(CLOSING);
        } else if stage.read_volatile() != CLOSING {
            stage.write_volatile(ANSWERED);
            if flags & TCP_SYN == 0 {
                establish(endpoint, key);
            }
        }
    }
    true
}

/// A flow that opens or closes, if it is not too old.
#[inline(always)]
fn opened(endpoint: u32, key: &FlowKey) -> Option<*mut Flow> {
    let known = maps::opening(endpoint)?.get_ptr_mut(key)?;
    // SAFETY: a value of this map for as long as the program runs.
    let seen = unsafe { (&raw const (*known).seen_ns).read_volatile() };
    (now().wrapping_sub(seen) < ANSWER_NS).then_some(known)
}

/// An established flow goes to those that are forgotten.
#[inline(always)]
fn demote(endpoint: u32, key: &FlowKey, stage: u32) {
    let (Some(flows), Some(opening)) = (maps::flows(endpoint), maps::opening(endpoint)) else {
        return;
    };
    if flows.get_ptr(key).is_some() && opening.insert(key, flow(now(), stage), 0).is_ok() {
        flows.remove(key).ok();
    }
}

/// # Safety
/// `flow` points into a map's value.
#[inline(always)]
unsafe fn refresh(flow: *mut Flow) {
    let now = now();
    // SAFETY: the caller's.
    unsafe {
        let seen = &raw mut (*flow).seen_ns;
        if now.wrapping_sub(seen.read_volatile()) >= FRESH_NS {
            seen.write_volatile(now);
        }
    }
}

#[inline(always)]
fn flow(seen_ns: u64, stage: u32) -> Flow {
    Flow {
        seen_ns,
        stage,
        reserved: 0,
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: no pointers.
    unsafe { bpf_ktime_get_ns() }
}
