//! The host side of an endpoint's veth: the boundary. Every frame that leaves the endpoint's
//! network namespace comes by here, whoever made it.

use crate::{
    context::Skb,
    diagnose, flows, gateway, identify, maps, report,
    tables::{Maps, judge},
};
use aya_ebpf::programs::TcContext;
use egress_common::{
    address::Address,
    attempt::Attempt,
    endpoint::Endpoint,
    event::KIND_DROPPED,
    frame::{ETHERNET_HEADER, Frame, parse_frame},
    verdict::{DropReason, Layer, Verdict},
};

/// Whether the frame goes on.
#[inline(always)]
pub(crate) fn passes(ctx: &TcContext) -> bool {
    let skb = Skb(ctx.skb.skb);
    let interface = skb.interface();
    let mut attempt = Attempt::call(Layer::Link, 0, Address::UNSPECIFIED, 0);
    let known = maps::link(interface)
        .and_then(|link| Some((link, maps::endpoint(link.endpoint)?, maps::config()?)));
    let Some((link, endpoint, config)) = known else {
        diagnose::unknown_link(interface);
        report::report(
            ctx,
            0,
            &attempt,
            DropReason::UnknownEndpoint,
            None,
            interface,
            KIND_DROPPED,
        );
        return false;
    };
    let verdict = if skb.has_vlan() {
        Verdict::Deny(DropReason::Vlan)
    } else {
        match parse_frame(&skb, link, &Maps(core::ptr::null_mut()), &mut attempt) {
            Ok(Frame::Neighbour) => Verdict::Allow,
            Ok(Frame::Ip) => judge(core::ptr::null_mut(), &attempt, endpoint, &config.gateway),
            Err(reason) => Verdict::Deny(reason),
        }
    };
    match verdict {
        Verdict::Allow => {
            maps::count(endpoint.id, 0);
            let socket = identify::socket_of_packet(&skb);
            gateway::publish(&attempt, endpoint, socket.as_deref())
        }
        // Packets are not sent elsewhere; `decide` redirects calls alone.
        Verdict::Redirect(_) => false,
        Verdict::Deny(reason) => refuse(ctx, &skb, endpoint, &attempt, reason, interface),
    }
}

#[inline(always)]
fn refuse(
    ctx: &TcContext,
    skb: &Skb,
    endpoint: &Endpoint,
    attempt: &Attempt,
    reason: DropReason,
    interface: u32,
) -> bool {
    let socket = identify::socket_of_packet(skb);
    let process = socket.as_ref().map(|socket| &socket.process);
    report::deny(ctx, endpoint, attempt, reason, process, interface)
}

/// Looks at what goes to the endpoint.
#[inline(always)]
pub(crate) fn note_inbound(ctx: &TcContext) {
    let skb = Skb(ctx.skb.skb);
    if let Some(endpoint) = maps::link(skb.interface()).and_then(|it| maps::endpoint(it.endpoint)) {
        flows::note(&skb, ETHERNET_HEADER, endpoint);
    }
}
