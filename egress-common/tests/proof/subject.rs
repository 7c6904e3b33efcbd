//! The decision under test, as the hooks ask it.

use std::net::IpAddr;

use egress_common::{
    address::Address,
    attempt::Attempt,
    decide::decide,
    frame::{Frame, parse_frame},
    packet::parse_ip,
    verdict::{Layer, Service, Verdict},
};

use super::{
    naive::{Attempted, Hook},
    world::World,
};

fn blank(layer: Layer) -> Attempt {
    Attempt::call(layer, 0, Address::UNSPECIFIED, 0)
}

fn on(attempt: &Attempt, world: &World) -> Verdict {
    decide(attempt, &world.endpoint(), &world.gateway(), world)
}

/// The link's way.
pub(crate) fn judge_frame(frame: &[u8], world: &World) -> Verdict {
    let mut attempt = blank(Layer::Link);
    match parse_frame(&frame, &world.link(), world, &mut attempt) {
        Ok(Frame::Neighbour) => Verdict::Allow,
        Ok(Frame::Ip) => on(&attempt, world),
        Err(reason) => Verdict::Deny(reason),
    }
}

/// The way of a socket's `skb egress`.
pub(crate) fn judge_packet(packet: &[u8], world: &World) -> Verdict {
    let mut attempt = blank(Layer::CgroupSkb);
    match parse_ip(&packet, 0, &mut attempt) {
        Ok(()) => on(&attempt, world),
        Err(reason) => Verdict::Deny(reason),
    }
}

/// The way of `connect` and `sendmsg`.
pub(crate) fn judge_call(call: &Attempted, named: IpAddr, world: &World) -> Verdict {
    let layer = match call.hook {
        Hook::Connect => Layer::Connect,
        Hook::Sendmsg | Hook::Packet => Layer::Sendmsg,
    };
    let port = call.destination_port.unwrap_or(0);
    let attempt = Attempt {
        source_port: call.source_port.unwrap_or(0),
        ..Attempt::call(layer, call.protocol, named.into(), port)
    };
    on(&attempt, world)
}

/// A verdict for people; the crate has `Debug` for user space alone.
pub(crate) fn shown(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Redirect(Service::Proxy) => "to the proxy",
        Verdict::Redirect(Service::Resolver) => "to the resolver",
        Verdict::Deny(reason) => reason.name(),
    }
}
