//! `connect4/6` and `sendmsg4/6`: what a process asks for is answered at once, by EPERM or by the
//! gateway.

use crate::{
    contain,
    context::{self, Family},
    diagnose, identify, maps, report, tables,
};
use aya_ebpf::{EbpfContext, programs::SockAddrContext};
use egress_common::{
    attempt::{Attempt, TCP, UDP},
    endpoint::{Endpoint, IS_GATEWAY},
    socket::{NOT_REDIRECTED, Socket, TO_PROXY, TO_RESOLVER},
    verdict::{DropReason, Layer, Service, Verdict},
};

/// A UDP `connect` to port 53 goes to the resolver like the datagrams; to anywhere else it sends
/// nothing, and is neither denied nor reported.
const DNS: u16 = 53;

/// `connect4` and `connect6`: whether the call goes on.
#[inline(always)]
pub(crate) fn connect<F: Family>(ctx: &SockAddrContext) -> bool {
    let protocol = context::protocol(ctx);
    if protocol == u32::from(TCP) {
        judge::<F>(ctx, Layer::Connect, TCP)
    } else if protocol == u32::from(UDP) {
        if context::port(ctx) == DNS {
            judge::<F>(ctx, Layer::Connect, UDP)
        } else {
            forget_redirect(ctx);
            true
        }
    } else {
        // Ping and raw sockets: their packets are judged.
        true
    }
}

/// `sendmsg4` and `sendmsg6`: whether the datagram goes on. UDP-Lite comes by here, too, and its
/// packets are judged as what they are.
#[inline(always)]
pub(crate) fn sendmsg<F: Family>(ctx: &SockAddrContext) -> bool {
    if context::protocol(ctx) != u32::from(UDP) {
        return true;
    }
    judge::<F>(ctx, Layer::Sendmsg, UDP)
}

#[inline(always)]
fn judge<F: Family>(ctx: &SockAddrContext, layer: Layer, protocol: u8) -> bool {
    let (endpoint, socket) = match identify(ctx) {
        Caller::Endpoint(endpoint, socket) => (endpoint, socket),
        // Its packets are judged where they appear.
        Caller::Nobody => return true,
        Caller::NoStorage => return false,
    };
    let Some(config) = maps::config() else {
        return false;
    };
    let destination = F::address(ctx);
    let port = context::port(ctx);
    let mut attempt = Attempt::call(layer, protocol, destination, port);
    if protocol == UDP {
        // A server's answer comes from the port that it is bound to.
        attempt.source_port = context::local_port(ctx);
    }
    socket.destination = destination;
    socket.port = port;
    socket.redirected = NOT_REDIRECTED;
    let outcome = match endpoint.has(IS_GATEWAY) {
        true => contain::judge(&attempt, endpoint, &config.gateway),
        false => tables::judge(ctx.as_ptr(), &attempt, endpoint, &config.gateway),
    };
    match outcome.verdict() {
        Verdict::Allow => true,
        Verdict::Redirect(service) => {
            let gateway = &config.gateway;
            F::set_address(ctx, &gateway.address_for(&destination));
            match service {
                Service::Proxy => {
                    context::set_port(ctx, gateway.port);
                    socket.redirected = TO_PROXY;
                }
                Service::Resolver => {
                    context::set_port(ctx, gateway.dns_port);
                    socket.redirected = TO_RESOLVER;
                }
            }
            true
        }
        Verdict::Deny(reason) => refuse(ctx, endpoint, &attempt, reason, socket),
    }
}

#[inline(always)]
fn refuse(
    ctx: &SockAddrContext,
    endpoint: &Endpoint,
    attempt: &Attempt,
    reason: DropReason,
    socket: &Socket,
) -> bool {
    report::deny(ctx, endpoint, attempt, reason, Some(&socket.process), 0)
}

/// Whose call it is.
enum Caller {
    /// This endpoint's, by a socket with this storage.
    Endpoint(&'static Endpoint, &'static mut Socket),
    /// No endpoint's.
    Nobody,
    /// An endpoint's, but there is no memory for the socket's storage.
    NoStorage,
}

/// The endpoint, and the socket's storage. A socket older than the enforcement gets its storage
/// here, as does one whose endpoint has gone; the process that uses it now stands for its creator.
#[inline(always)]
fn identify(ctx: &SockAddrContext) -> Caller {
    let sk = context::sock(ctx.sock_addr);
    // SAFETY: the context's own socket.
    if let Some(socket) = unsafe { maps::socket(sk) }
        && let Some(endpoint) = maps::endpoint_of_socket(socket)
    {
        return Caller::Endpoint(endpoint, socket);
    }
    let Some(endpoint) = identify::current_endpoint() else {
        return Caller::Nobody;
    };
    // SAFETY: as above.
    let Some(socket) = (unsafe { maps::socket_or_new(sk) }) else {
        diagnose::no_storage(endpoint.id);
        return Caller::NoStorage;
    };
    if socket.cgroup == 0 {
        let namespace = identify::namespace(ctx.as_ptr());
        socket.begin(endpoint.cgroup, namespace, identify::current_process());
    }
    socket.cgroup = endpoint.cgroup;
    Caller::Endpoint(endpoint, socket)
}

#[inline(always)]
fn forget_redirect(ctx: &SockAddrContext) {
    // SAFETY: the context's own socket.
    if let Some(socket) = unsafe { maps::socket(context::sock(ctx.sock_addr)) } {
        socket.redirected = NOT_REDIRECTED;
    }
}
