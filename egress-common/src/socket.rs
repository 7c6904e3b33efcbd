//! What the programs keep with an endpoint's socket.

use crate::{address::Address, process::Process};

/// [`Socket::redirected`]: it goes where it was sent.
pub const NOT_REDIRECTED: u8 = 0;
/// [`Socket::redirected`]: to the gateway's proxy.
pub const TO_PROXY: u8 = 1;
/// [`Socket::redirected`]: to the gateway's resolver.
pub const TO_RESOLVER: u8 = 2;

/// The storage of an endpoint's socket.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Socket {
    /// Its creator. The first field, so that it has the address of the whole.
    pub process: Process,
    /// What its packets and their frames were allowed last, see [`AT_EGRESS`] and [`AT_LINK`]. Not
    /// the last field: whoever reads it may read a word too far.
    pub decided: [Decided; 2],
    /// The last destination that the application named.
    pub destination: Address,
    /// The cgroup of its endpoint. Not the endpoint's id: the socket may outlive the agent that
    /// gave that.
    pub cgroup: u64,
    /// The cookie of its network namespace.
    pub namespace: u64,
    /// Host byte order.
    pub port: u16,
    /// [`NOT_REDIRECTED`], [`TO_PROXY`] or [`TO_RESOLVER`].
    pub redirected: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

/// The place in [`Socket::decided`] of `skb egress`.
pub const AT_EGRESS: usize = 0;
/// The place in [`Socket::decided`] of the link.
pub const AT_LINK: usize = 1;

/// What was allowed last. It is written and read without a lock: `sequence` is odd while somebody
/// writes, and another after each write.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Decided {
    /// Of writes.
    pub sequence: u64,
    /// What was allowed.
    pub what: What,
    /// The endpoint for which it is counted; 0 where another hook counts.
    pub endpoint: u32,
    /// A digest of what was allowed, but not written, last: a socket that sends here and there in
    /// turn shall not pay for being remembered.
    pub missed: u32,
}

/// All that a verdict depends on. What a hook does not see is zero.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct What {
    /// [`Config::generation`](crate::maps::Config::generation); 0 where nothing was decided.
    pub generation: u64,
    /// Where from.
    pub source: Address,
    /// Where to.
    pub destination: Address,
    /// The frame's addresses: destination, source.
    pub macs: [u32; 3],
    /// The interface that it was on.
    pub interface: u32,
    /// Those of source and destination.
    pub ports: [u16; 2],
    /// The IP protocol number.
    pub protocol: u32,
}

impl Socket {
    /// Fills in what is known of a new socket, of which all is zero.
    #[inline(always)]
    pub const fn begin(&mut self, cgroup: u64, namespace: u64, process: Process) {
        self.process = process;
        self.cgroup = cgroup;
        self.namespace = namespace;
    }
}

const _: () = assert!(size_of::<What>() == 64 && size_of::<Decided>() == 80);
const _: () = assert!(size_of::<Socket>() == 240);
