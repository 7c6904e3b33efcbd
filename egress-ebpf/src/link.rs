//! The host side of an endpoint's veth: the boundary. Every frame that leaves the endpoint's
//! network namespace comes by here, whoever made it.

use crate::{
    context::Skb,
    decided::{NOTHING, Seen, recall, remember},
    diagnose, flows, gateway, identify, maps, report,
    tables::{Maps, Outcome, judge},
};
use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use core::mem::MaybeUninit;
use egress_common::{
    address::Address,
    attempt::Attempt,
    event::KIND_DROPPED,
    frame::{Carried, ETHERNET_HEADER, Frame, Header, check_frame, read_frame},
    socket::AT_LINK,
    verdict::{DropReason, Layer, Verdict},
};

/// Whether the frame goes on.
#[inline(always)]
pub(crate) fn passes(ctx: &TcContext) -> bool {
    let skb = Skb(ctx.skb.skb);
    let interface = skb.interface();
    let mut attempt = blank();
    let mut header = MaybeUninit::uninit();
    let read = read(skb.0, &mut attempt, &mut header);
    let storage = identify::storage_of_packet(&skb);
    let mut seen = Seen::on(interface);
    if read == READ {
        // SAFETY: it was read.
        let header = unsafe { header.assume_init_ref() };
        if header.carries == Carried::Ip {
            seen.macs = header.macs;
            let endpoint = recall::<AT_LINK>(storage, &attempt, &seen);
            if endpoint != NOTHING {
                maps::count(endpoint, 0);
                return true;
            }
        }
    }
    let socket = identify::known(storage);
    let known = maps::link(interface)
        .and_then(|link| Some((link, maps::endpoint(link.endpoint)?, maps::config()?)));
    let Some((link, endpoint, config)) = known else {
        diagnose::unknown_link(interface);
        report::report(
            ctx,
            0,
            &blank(),
            DropReason::UnknownEndpoint,
            None,
            interface,
            KIND_DROPPED,
        );
        return false;
    };
    let outcome = if read == READ {
        // SAFETY: it was read.
        let header = unsafe { header.assume_init_ref() };
        match check_frame(&skb, header, link, &Maps::of_packets(), &mut attempt) {
            Ok(Frame::Neighbour) => Outcome::ONCE,
            Ok(Frame::Ip) => judge(core::ptr::null_mut(), &attempt, endpoint, &config.gateway),
            Err(reason) => Outcome::of_number(reason as u8),
        }
    } else {
        Outcome::of_number(read)
    };
    match outcome.verdict() {
        Verdict::Allow => {
            maps::count(endpoint.id, 0);
            if outcome.lasts() {
                let storage = identify::made(storage, &skb);
                remember::<AT_LINK>(storage, &attempt, &seen, endpoint.id);
                return true;
            }
            gateway::publish(&attempt, endpoint, &config.gateway, socket.as_deref())
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
    Attempt::call(Layer::Link, 0, Address::UNSPECIFIED, 0)
}

/// What [`read`] returns where the frame was read.
const READ: u8 = 0;

/// A function of its own, with a stack frame of its own: headers are copied out. Returns [`READ`] or
/// the number of a reason.
#[inline(never)]
fn read(skb: *mut __sk_buff, attempt: &mut Attempt, header: &mut MaybeUninit<Header>) -> u8 {
    let skb = Skb(skb);
    if skb.has_vlan() {
        return DropReason::Vlan as u8;
    }
    match read_frame(&skb, attempt) {
        Ok(found) => {
            header.write(found);
            READ
        }
        Err(reason) => reason as u8,
    }
}

/// Looks at what goes to the endpoint.
#[inline(always)]
pub(crate) fn note_inbound(ctx: &TcContext) {
    let skb = Skb(ctx.skb.skb);
    if let Some(endpoint) = maps::link(skb.interface()).and_then(|it| maps::endpoint(it.endpoint)) {
        flows::note(&skb, ETHERNET_HEADER, endpoint);
    }
}
