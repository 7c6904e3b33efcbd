//! Whose socket, whose packet.

use crate::{context::Skb, maps};
use aya_ebpf::helpers::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_comm,
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_get_netns_cookie, bpf_ktime_get_boot_ns,
    bpf_skb_ancestor_cgroup_id,
};
use core::ffi::c_void;
use egress_common::{endpoint::Endpoint, process::Process, socket::Socket};

/// How deep below the root of the hierarchy an endpoint's cgroup may lie. The kubelet's lie at
/// three or four; nested hierarchies add theirs.
pub(crate) const MAX_LEVEL: u32 = 12;

/// The endpoint that the current task belongs to.
#[inline(always)]
pub(crate) fn current_endpoint() -> Option<&'static Endpoint> {
    let levels = maps::config()?.cgroup_levels;
    deepest(levels, |level| {
        // SAFETY: no pointers.
        unsafe { bpf_get_current_ancestor_cgroup_id(level) }
    })
}

/// The endpoint that the packet's socket belongs to, by its cgroup.
#[inline(always)]
pub(crate) fn endpoint_of_packet(skb: &Skb) -> Option<&'static Endpoint> {
    let levels = maps::config()?.cgroup_levels;
    deepest(levels, |level| {
        // SAFETY: the context is valid for the whole program.
        unsafe { bpf_skb_ancestor_cgroup_id(skb.0, level) }
    })
}

/// The endpoint whose cgroup is the deepest ancestor.
#[inline(always)]
fn deepest(levels: u32, ancestor: impl Fn(i32) -> u64) -> Option<&'static Endpoint> {
    let mut level = MAX_LEVEL;
    while level > 0 {
        if levels & (1 << level) != 0 {
            let cgroup = ancestor(level as i32);
            if cgroup != 0
                && let Some(id) = maps::endpoint_of_cgroup(cgroup)
            {
                return maps::endpoint(id);
            }
        }
        level -= 1;
    }
    None
}

/// The storage of the socket behind a packet; null where there is no full socket, or it has none.
#[inline(always)]
pub(crate) fn storage_of_packet(skb: &Skb) -> *mut Socket {
    // SAFETY: the packet's own socket; request and time-wait sockets have no storage.
    let found = unsafe { maps::socket(skb.sock()) };
    found.map_or(core::ptr::null_mut(), core::ptr::from_mut)
}

/// The storage, made where there is none, with nothing known of the socket.
#[inline(always)]
pub(crate) fn made(storage: *mut Socket, skb: &Skb) -> *mut Socket {
    if !storage.is_null() {
        return storage;
    }
    // SAFETY: as above.
    let found = unsafe { maps::socket_or_new(skb.sock()) };
    found.map_or(core::ptr::null_mut(), core::ptr::from_mut)
}

/// The socket of a storage, where something is known of it.
#[inline(always)]
pub(crate) fn known<'a>(storage: *mut Socket) -> Option<&'a mut Socket> {
    // SAFETY: null, or the storage of a live socket.
    unsafe { storage.as_mut() }.filter(|socket| socket.cgroup != 0)
}

/// The cookie of the network namespace. The context is that of `sock_create` or of a sock_addr hook.
#[inline(always)]
pub(crate) fn namespace(ctx: *mut c_void) -> u64 {
    // SAFETY: the context is the program's own.
    unsafe { bpf_get_netns_cookie(ctx) }
}

/// The current task, as the creator of a socket.
#[inline(always)]
pub(crate) fn current_process() -> Process {
    // SAFETY: no pointers.
    unsafe {
        Process {
            created_ns: bpf_ktime_get_boot_ns(),
            cgroup: bpf_get_current_cgroup_id(),
            pid: (bpf_get_current_pid_tgid() >> 32) as u32,
            uid: bpf_get_current_uid_gid() as u32,
            command: bpf_get_current_comm().unwrap_or([0; 16]),
        }
    }
}
