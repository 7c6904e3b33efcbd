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
    /// Its creator.
    pub process: Process,
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

impl Socket {
    /// A socket of which only the endpoint is known.
    pub const fn of(cgroup: u64, namespace: u64, process: Process) -> Self {
        Self {
            process,
            destination: Address::UNSPECIFIED,
            cgroup,
            namespace,
            port: 0,
            redirected: NOT_REDIRECTED,
            reserved: [0; 5],
        }
    }
}

const _: () = assert!(size_of::<Socket>() == 80);
