//! The decision's look-ups, in the maps.

use crate::{flows, gateway::publishes, maps};
use aya_ebpf::{
    bindings::{
        bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::{bpf_sk_lookup_tcp, bpf_sk_release},
};
use core::{cell::Cell, ffi::c_void, mem::zeroed};
use egress_common::{
    address::Address,
    attempt::Attempt,
    decide::{Tables, decide},
    endpoint::{Endpoint, Gateway},
    maps::Class,
    verdict::{DropReason, Service, Verdict},
};

/// What came of a decision, as a number: the verifier follows one of those without taking each for
/// a way of its own.
#[derive(Clone, Copy)]
pub(crate) struct Outcome(u8);

// Beside the numbers of reasons.
const ALLOW: u8 = 128;
const ALLOW_ONCE: u8 = 129;
const TO_PROXY: u8 = 130;
const TO_RESOLVER: u8 = 131;

impl Outcome {
    /// Allowed, this time.
    pub(crate) const ONCE: Self = Self(ALLOW_ONCE);

    /// Denied, by a reason's number; or what [`numbered`](Self::numbered) has made.
    #[inline(always)]
    pub(crate) const fn of_number(reason: u8) -> Self {
        Self(reason)
    }

    /// What is not sent elsewhere, as a number; `lasts` where the next one like it is allowed, too.
    #[inline(always)]
    pub(crate) fn numbered(verdict: Verdict, lasts: bool) -> u8 {
        forgotten(match verdict {
            Verdict::Allow if lasts => ALLOW,
            Verdict::Allow => ALLOW_ONCE,
            Verdict::Redirect(_) => DropReason::Internal as u8,
            Verdict::Deny(reason) => reason as u8,
        })
    }

    /// Whether the next attempt like this one is allowed, too.
    #[inline(always)]
    pub(crate) const fn lasts(self) -> bool {
        self.0 == ALLOW
    }

    #[inline(always)]
    pub(crate) fn verdict(self) -> Verdict {
        match self.0 {
            ALLOW | ALLOW_ONCE => Verdict::Allow,
            TO_PROXY => Verdict::Redirect(Service::Proxy),
            TO_RESOLVER => Verdict::Redirect(Service::Resolver),
            denied => {
                Verdict::Deny(DropReason::from_number(denied).unwrap_or(DropReason::Internal))
            }
        }
    }
}

/// Asks [`decide`]. The attempt's context is needed where it is a call; null for packets.
#[inline(always)]
pub(crate) fn judge(
    ctx: *mut c_void,
    attempt: &Attempt,
    endpoint: &Endpoint,
    gateway: &Gateway,
) -> Outcome {
    Outcome(decide_apart(ctx, attempt, endpoint, gateway))
}

/// A function of its own, so that its keys lie in a stack frame of their own.
#[inline(never)]
fn decide_apart(ctx: *mut c_void, attempt: &Attempt, endpoint: &Endpoint, gateway: &Gateway) -> u8 {
    let maps = Maps::new(ctx);
    let outcome = match decide(attempt, endpoint, gateway, &maps) {
        // An answer is one only while its flow is known, and what opens something is published.
        Verdict::Allow if maps.answered.get() || publishes(attempt, gateway) => ALLOW_ONCE,
        Verdict::Allow => ALLOW,
        Verdict::Redirect(Service::Proxy) => TO_PROXY,
        Verdict::Redirect(Service::Resolver) => TO_RESOLVER,
        Verdict::Deny(reason) => reason as u8,
    };
    forgotten(outcome)
}

/// The same value, by way of a byte on the stack, of which the verifier keeps no value. Else each
/// outcome would be a state of its own from here on, and a million steps would not suffice.
#[inline(always)]
fn forgotten(value: u8) -> u8 {
    let mut byte = core::mem::MaybeUninit::<u8>::uninit();
    // SAFETY: written before it is read.
    unsafe {
        byte.as_mut_ptr().write_volatile(value);
        byte.as_ptr().read_volatile()
    }
}

/// The maps, and the context for the one look-up that needs it.
pub(crate) struct Maps {
    ctx: *mut c_void,
    /// Whether an answer was found to be one.
    answered: Cell<bool>,
}

impl Maps {
    /// With the context of a call.
    #[inline(always)]
    pub(crate) const fn new(ctx: *mut c_void) -> Self {
        Self {
            ctx,
            answered: Cell::new(false),
        }
    }

    /// Where no calls are judged.
    #[inline(always)]
    pub(crate) const fn of_packets() -> Self {
        Self::new(core::ptr::null_mut())
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn is_direct(&self, set: u32, attempt: &Attempt) -> bool {
        maps::has_direct(set, attempt)
    }

    #[inline(always)]
    fn role_of(&self, endpoint: u32, address: &Address) -> u8 {
        maps::role(endpoint, address)
    }

    #[inline(always)]
    fn class_of(&self, address: &Address) -> Class {
        Class::from_number(maps::network(address).unwrap_or(Class::Outside as u8))
    }

    #[inline(always)]
    fn is_reply(&self, endpoint: u32, attempt: &Attempt) -> bool {
        let answers = flows::answers(endpoint, attempt);
        self.answered.set(answers);
        answers
    }

    #[inline(always)]
    fn is_listening(&self, attempt: &Attempt) -> bool {
        /// BPF_F_CURRENT_NETNS: the namespace of the socket that connects.
        const CURRENT_NETNS: u64 = u64::MAX;
        if self.ctx.is_null() {
            return false;
        }
        // SAFETY: all zeroes is a valid tuple.
        let mut tuple: bpf_sock_tuple = unsafe { zeroed() };
        let port = attempt.destination_port.to_be();
        let [.., last] = attempt.destination.words();
        let size = if attempt.destination.is_v4() {
            tuple.__bindgen_anon_1.ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
                saddr: last,
                daddr: last,
                sport: 0,
                dport: port,
            };
            size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>()
        } else {
            tuple.__bindgen_anon_1.ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
                saddr: attempt.destination.words(),
                daddr: attempt.destination.words(),
                sport: 0,
                dport: port,
            };
            size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>()
        };
        // SAFETY: the context is this program's own, and what was found is released.
        unsafe {
            let found = bpf_sk_lookup_tcp(self.ctx, &mut tuple, size as u32, CURRENT_NETNS, 0);
            if found.is_null() {
                return false;
            }
            bpf_sk_release(found.cast());
        }
        true
    }
}
