//! Counting and reporting what was denied.

use crate::maps;
use aya_ebpf::{EbpfContext, helpers::bpf_ktime_get_boot_ns};
use core::ffi::c_void;
use egress_common::{
    attempt::Attempt,
    endpoint::{Endpoint, MODE_AUDIT},
    event::{Event, KIND_AUDIT, KIND_DROPPED, ReportKey, WINDOW_NS, previous_started},
    process::Process,
    verdict::DropReason,
};

/// Counts the denial, reports it where it is the first of its key and window, and says whether
/// the attempt passes all the same because the endpoint is in Audit.
#[inline(always)]
pub(crate) fn deny<C: EbpfContext>(
    ctx: &C,
    endpoint: &Endpoint,
    attempt: &Attempt,
    reason: DropReason,
    process: Option<&Process>,
    interface: u32,
) -> bool {
    let audit = endpoint.mode == MODE_AUDIT;
    let kind = if audit { KIND_AUDIT } else { KIND_DROPPED };
    report(ctx, endpoint.id, attempt, reason, process, interface, kind);
    audit
}

/// Counts and reports. What kernels send by themselves is counted only, unless a process sent it.
#[inline(always)]
pub(crate) fn report<C: EbpfContext>(
    ctx: &C,
    endpoint: u32,
    attempt: &Attempt,
    reason: DropReason,
    process: Option<&Process>,
    interface: u32,
    kind: u8,
) {
    if reason.is_quiet() && process.is_none() {
        maps::count(endpoint, reason as u8);
        return;
    }
    let process = process.map_or(core::ptr::null(), core::ptr::from_ref);
    let what = u64::from(interface) << 32 | u64::from(kind) << 8 | reason as u64;
    note(ctx.as_ptr(), endpoint, attempt, process, what);
}

/// A function of its own, with a stack frame of its own: an event and its key are large. Of five
/// arguments, which is all that BPF passes, `what` is the interface, the kind and the reason.
#[inline(never)]
fn note(ctx: *mut c_void, endpoint: u32, attempt: &Attempt, process: *const Process, what: u64) {
    let interface = (what >> 32) as u32;
    let kind = (what >> 8) as u8;
    let reason = what as u8;
    let layer = attempt.layer as u8;
    // SAFETY: no pointers.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let mut event = Event {
        time_ns: now,
        process: Process::UNKNOWN,
        source: attempt.source,
        key: ReportKey {
            endpoint,
            destination: attempt.destination,
            port: attempt.destination_port,
            protocol: attempt.protocol,
            reason,
        },
        previous: 0,
        interface,
        source_port: attempt.source_port,
        layer,
        kind,
        previous_started: 0,
    };
    let Some(window) = maps::report_window(&event.key) else {
        // Nobody's windows, since an endpoint has its own before it is one. Counted all the same.
        maps::count(endpoint, reason);
        return;
    };
    // SAFETY: a map's value, which is memory for as long as the program runs; its words are read
    // and written atomically.
    unsafe {
        let is_others = (*window).is_others == 1;
        let started = (&raw const (*window).started_ns).read_volatile();
        // Another CPU may have begun it since `now`.
        let is_over = started == 0 || now.saturating_sub(started) >= WINDOW_NS;
        // Of several that find it over, one restarts it and reports.
        if is_over && maps::exchange(&raw mut (*window).started_ns, started, now) {
            (*window).layer = layer;
            if !is_others {
                event.previous = maps::replace(&raw mut (*window).attempts, 1) as u32;
                event.previous_started = previous_started(started);
            }
        } else {
            // In Audit the other layers see again what the first one let pass.
            if kind == KIND_AUDIT && (*window).layer != layer {
                return;
            }
            maps::add(&raw mut (*window).attempts, 1);
            // The first that finds room tells of them all.
            if !maps::exchange(&raw mut (*window).is_untold, 1, 0) {
                maps::count(endpoint, reason);
                return;
            }
        }
        maps::count(endpoint, reason);
        // Null, or the storage of a live socket, or the caller's stack.
        if let Some(process) = process.as_ref() {
            event.process = *process;
        }
        // By reference: a copy would double the stack frame.
        if maps::tell(ctx, &event) {
            return;
        }
        if is_others {
            maps::add(&raw mut (*window).attempts, 1);
        } else {
            (&raw mut (*window).is_untold).write_volatile(1);
        }
    }
}
