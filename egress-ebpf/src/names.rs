//! `recvmsg4/6` and `getpeername4/6`: the application sees whom it dialled, not the gateway.

use crate::{
    context::{self, Family},
    maps,
};
use aya_ebpf::programs::SockAddrContext;
use egress_common::socket::{TO_PROXY, TO_RESOLVER};

/// Where the context names the gateway's service that this socket was sent to, puts back the
/// destination that the application named.
#[inline(always)]
pub(crate) fn restore<F: Family>(ctx: &SockAddrContext) {
    // SAFETY: the context's own socket.
    let Some(socket) = (unsafe { maps::socket(context::sock(ctx.sock_addr)) }) else {
        return;
    };
    let Some(config) = maps::config() else {
        return;
    };
    let port = match socket.redirected {
        TO_PROXY => config.gateway.port,
        TO_RESOLVER => config.gateway.dns_port,
        _ => return,
    };
    if context::port(ctx) == port && config.gateway.is_at(&F::address(ctx)) {
        F::set_address(ctx, &socket.destination);
        context::set_port(ctx, socket.port);
    }
}
