//! Counting and reporting what was denied.

use crate::maps;
use aya_ebpf::{EbpfContext, helpers::bpf_ktime_get_boot_ns};
use core::ffi::c_void;
use egress_common::{
    attempt::Attempt,
    endpoint::{Endpoint, MODE_AUDIT},
    event::{
        Event, KIND_AUDIT, KIND_DROPPED, ReportKey, ReportWindow, WINDOW_NS, previous_started,
    },
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
    match maps::report_window(&event.key) {
        Some(window) => {
            // SAFETY: a value of an LRU map, which is memory for as long as the program runs; its
            // words are read and written atomically.
            unsafe {
                let started = (&raw const (*window).started_ns).read_volatile();
                let is_over = now.wrapping_sub(started) >= WINDOW_NS;
                // Of several that find it over, one restarts it and reports.
                if !is_over || !maps::exchange(&raw mut (*window).started_ns, started, now) {
                    // In Audit the other layers see again what the first one let pass.
                    if kind != KIND_AUDIT || (*window).layer == layer {
                        maps::add(&raw mut (*window).attempts, 1);
                        maps::count(endpoint, reason);
                    }
                    return;
                }
                event.previous = maps::replace(&raw mut (*window).attempts, 1) as u32;
                event.previous_started = previous_started(started);
                (*window).layer = layer;
            }
        }
        None => {
            if !open_window(&event.key, now, layer) {
                // Another CPU opened it just now and reports.
                if let Some(window) = maps::report_window(&event.key) {
                    // SAFETY: as above.
                    unsafe { maps::add(&raw mut (*window).attempts, 1) };
                }
                maps::count(endpoint, reason);
                return;
            }
        }
    }
    maps::count(endpoint, reason);
    // SAFETY: null, or the storage of a live socket, or the caller's stack.
    if let Some(process) = unsafe { process.as_ref() } {
        event.process = *process;
    }
    // By reference: a copy would double the stack frame.
    maps::EVENTS.output(&Context(ctx), &event, 0);
}

#[inline(always)]
fn open_window(key: &ReportKey, started_ns: u64, layer: u8) -> bool {
    let window = ReportWindow {
        started_ns,
        attempts: 1,
        layer,
        reserved: [0; 7],
    };
    maps::open_report_window(key, &window)
}

/// A program's context, whatever its type.
struct Context(*mut c_void);

impl EbpfContext for Context {
    fn as_ptr(&self) -> *mut c_void {
        self.0
    }
}
