//! What the kernel reports.

use crate::{address::Address, process::Process};

/// How long attempts of one key are reported once: 10 s, in nanoseconds.
pub const WINDOW_NS: u64 = 10_000_000_000;

/// [`Event::kind`]: it was dropped.
pub const KIND_DROPPED: u8 = 1;
/// [`Event::kind`]: it would have been dropped, but the endpoint is in Audit.
pub const KIND_AUDIT: u8 = 2;

/// One denied attempt, the first of its key and window.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Event {
    /// When: nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// The socket's creator, if there was a socket.
    pub process: Process,
    /// Where from; unspecified at `connect` and `sendmsg`.
    pub source: Address,
    /// Whose, where to and why.
    pub key: ReportKey,
    /// Attempts of the same key in the window before, if it has not been reported yet.
    pub previous: u32,
    /// The interface, as the layer saw it; 0 at calls.
    pub interface: u32,
    /// Host byte order.
    pub source_port: u16,
    /// The number of a [`Layer`](crate::verdict::Layer).
    pub layer: u8,
    /// [`KIND_DROPPED`] or [`KIND_AUDIT`].
    pub kind: u8,
    /// When that window began, see [`previous_started`].
    pub previous_started: u32,
}

/// A window's beginning, short: in milliseconds or so, and cut off after 52 days. Tells windows of
/// one key apart, of which none is shorter than [`WINDOW_NS`].
#[inline(always)]
pub const fn previous_started(started_ns: u64) -> u32 {
    (started_ns >> 20) as u32
}

/// What attempts have in common that are reported once.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct ReportKey {
    /// The endpoint's id; 0 where it is unknown.
    pub endpoint: u32,
    /// Where to.
    pub destination: Address,
    /// Host byte order; for ICMP its type, for other frames the ethertype.
    pub port: u16,
    /// The IP protocol number.
    pub protocol: u8,
    /// The number of a reason.
    pub reason: u8,
}

impl ReportKey {
    /// What stands for the attempts of a reason that found no window of their own any more, so many
    /// others there were. No packet has this protocol with a port.
    #[inline(always)]
    pub const fn others(endpoint: u32, reason: u8) -> Self {
        Self {
            endpoint,
            destination: Address::UNSPECIFIED,
            port: u16::MAX,
            protocol: u8::MAX,
            reason,
        }
    }

    /// Whether it is one of [`others`](Self::others).
    #[inline(always)]
    pub const fn is_others(&self) -> bool {
        self.port == u16::MAX && self.protocol == u8::MAX
    }
}

/// A window of one key.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct ReportWindow {
    /// When its first attempt was reported: nanoseconds of `CLOCK_BOOTTIME`.
    pub started_ns: u64,
    /// How many attempts there were, the first included. Of [`ReportKey::others`] those that were
    /// not reported, ever since.
    pub attempts: u64,
    /// 1 while none of its attempts has been reported, since the buffer was full.
    pub is_untold: u32,
    /// The layer that saw the first one; in Audit the others see the same packet again.
    pub layer: u8,
    /// 1 where it is that of [`ReportKey::others`].
    pub is_others: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

impl ReportWindow {
    /// Not begun.
    pub const EMPTY: Self = Self {
        started_ns: 0,
        attempts: 0,
        is_untold: 0,
        layer: 0,
        is_others: 0,
        reserved: [0; 2],
    };
}

const _: () = assert!(size_of::<Event>() == 104);
const _: () = assert!(size_of::<ReportKey>() == 24);
const _: () = assert!(size_of::<ReportWindow>() == 24);
