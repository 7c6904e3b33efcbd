//! The BPF programs of egress-agent: entry points only. Each hook has a file of its own, and all
//! of them ask `egress_common::decide`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "see maps::add")]

mod connect;
mod contain;
mod context;
mod decided;
mod diagnose;
mod egress;
mod flows;
mod gateway;
mod identify;
mod link;
mod maps;
mod names;
mod report;
mod sock_create;
mod tables;

use aya_ebpf::{
    macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, cgroup_sockopt, classifier, sock_ops},
    programs::{
        SkBuffContext, SockAddrContext, SockContext, SockOpsContext, SockoptContext, TcContext,
    },
};

/// A cgroup hook's "go on".
const PASS: i32 = 1;
/// A cgroup hook's "no"; the caller gets EPERM.
const REFUSE: i32 = 0;
/// TC's "I have no objection": the next program decides (TCX_NEXT, TC_ACT_UNSPEC).
const NEXT: i32 = -1;
/// TC's "drop" (TCX_DROP, TC_ACT_SHOT).
const DROP: i32 = 2;

#[cgroup_sock(sock_create)]
pub fn egress_sock_create(ctx: SockContext) -> i32 {
    if sock_create::passes(&ctx) {
        PASS
    } else {
        REFUSE
    }
}

#[cgroup_sock_addr(connect4)]
pub fn egress_connect4(ctx: SockAddrContext) -> i32 {
    if connect::connect::<context::V4>(&ctx) {
        PASS
    } else {
        REFUSE
    }
}

#[cgroup_sock_addr(connect6)]
pub fn egress_connect6(ctx: SockAddrContext) -> i32 {
    if connect::connect::<context::V6>(&ctx) {
        PASS
    } else {
        REFUSE
    }
}

#[cgroup_sock_addr(sendmsg4)]
pub fn egress_sendmsg4(ctx: SockAddrContext) -> i32 {
    if connect::sendmsg::<context::V4>(&ctx) {
        PASS
    } else {
        REFUSE
    }
}

#[cgroup_sock_addr(sendmsg6)]
pub fn egress_sendmsg6(ctx: SockAddrContext) -> i32 {
    if connect::sendmsg::<context::V6>(&ctx) {
        PASS
    } else {
        REFUSE
    }
}

#[cgroup_sock_addr(recvmsg4)]
pub fn egress_recvmsg4(ctx: SockAddrContext) -> i32 {
    names::restore::<context::V4>(&ctx);
    PASS
}

#[cgroup_sock_addr(recvmsg6)]
pub fn egress_recvmsg6(ctx: SockAddrContext) -> i32 {
    names::restore::<context::V6>(&ctx);
    PASS
}

#[cgroup_sock_addr(getpeername4)]
pub fn egress_getpeername4(ctx: SockAddrContext) -> i32 {
    names::restore::<context::V4>(&ctx);
    PASS
}

#[cgroup_sock_addr(getpeername6)]
pub fn egress_getpeername6(ctx: SockAddrContext) -> i32 {
    names::restore::<context::V6>(&ctx);
    PASS
}

#[cgroup_skb(egress)]
pub fn egress_skb_egress(ctx: SkBuffContext) -> i32 {
    if egress::passes(&ctx) { PASS } else { REFUSE }
}

#[cgroup_skb(ingress)]
pub fn egress_skb_ingress(ctx: SkBuffContext) -> i32 {
    egress::note_inbound(&ctx);
    PASS
}

/// What the endpoint sends: the host side of its veth receives it.
#[classifier]
pub fn egress_link_out(ctx: TcContext) -> i32 {
    if link::passes(&ctx) { NEXT } else { DROP }
}

/// What the endpoint receives: the host side of its veth sends it.
#[classifier]
pub fn egress_link_in(ctx: TcContext) -> i32 {
    link::note_inbound(&ctx);
    NEXT
}

#[cgroup_skb(ingress)]
pub fn gateway_skb_ingress(ctx: SkBuffContext) -> i32 {
    if gateway::passes(&ctx) { PASS } else { REFUSE }
}

#[sock_ops]
pub fn gateway_sock_ops(ctx: SockOpsContext) -> u32 {
    gateway::established(&ctx);
    1
}

#[cgroup_sockopt(getsockopt)]
pub fn gateway_getsockopt(ctx: SockoptContext) -> i32 {
    gateway::answer(&ctx);
    PASS
}

#[cgroup_sockopt(setsockopt)]
pub fn gateway_setsockopt(ctx: SockoptContext) -> i32 {
    if gateway::ask(&ctx) { PASS } else { REFUSE }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
