//! `cgroup/sock_create`: remembers the creator, and refuses what no later hook would see.

use crate::{diagnose, identify, maps, report};
use aya_ebpf::{EbpfContext, programs::SockContext};
use egress_common::{
    address::Address,
    attempt::{Attempt, TCP, UDP},
    endpoint::HAS_LINK,
    verdict::{DropReason, Layer},
};

const SOCK_RAW: u32 = 3;
/// The kernel makes an MPTCP socket's TCP subflows itself, and `connect` judges those.
const MPTCP: u32 = 262;

/// Whether the socket may be.
#[inline(always)]
pub(crate) fn passes(ctx: &SockContext) -> bool {
    let Some(endpoint) = identify::current_endpoint() else {
        // Below the attached cgroup, but no endpoint's: packets are judged where they appear.
        return true;
    };
    let process = identify::current_process();
    // SAFETY: the context is valid for the whole program.
    let (kind, protocol) = unsafe { ((*ctx.sock).type_, (*ctx.sock).protocol) };
    // SAFETY: the context's own socket.
    let Some(socket) = (unsafe { maps::socket_or_new(ctx.as_ptr().cast()) }) else {
        diagnose::no_storage(endpoint.id);
        return false;
    };
    let namespace = identify::namespace(ctx.as_ptr());
    socket.begin(endpoint.cgroup, namespace, process);
    if endpoint.has(HAS_LINK) {
        return true;
    }
    let known =
        matches!(protocol, 0 | MPTCP) || protocol == u32::from(TCP) || protocol == u32::from(UDP);
    if kind != SOCK_RAW && known {
        return true;
    }
    let attempt = Attempt::call(Layer::SockCreate, protocol as u8, Address::UNSPECIFIED, 0);
    report::deny(
        ctx,
        endpoint,
        &attempt,
        DropReason::RawSocket,
        Some(&process),
        0,
    )
}
