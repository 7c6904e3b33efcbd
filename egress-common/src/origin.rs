//! Whose connection this is and where it was going: what the kernel attaches to a socket that
//! the gateway accepted, and the socket options by which the gateway reads it.

use crate::{address::Address, process::Process};

/// The socket-option level that the BPF programs on the gateway's cgroup answer. No kernel
/// protocol uses it (include/linux/socket.h ends at 288), so without the programs the call
/// fails and the gateway closes the connection.
pub const ORIGIN_LEVEL: i32 = 0x0e67;

/// `getsockopt` on an accepted TCP socket: its [`Origin`].
pub const ORIGIN_OF_CONNECTION: i32 = 1;

/// For UDP: `setsockopt` with an [`OriginQuery`] names a datagram's source, and `getsockopt` on
/// the same socket then returns its [`Origin`]. Both fail with ENOENT where there is none.
pub const ORIGIN_OF_DATAGRAM: i32 = 2;

/// Where a connection or datagram came from and was going. `repr(C)`, 72 bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Origin {
    /// The creator of the socket.
    pub process: Process,
    /// What the endpoint dialled; the gateway's own address where it dialled that.
    pub destination: Address,
    /// The port that it dialled, host byte order.
    pub port: u16,
    /// 6 for TCP, 17 for UDP.
    pub protocol: u8,
    /// Reserved, zero.
    pub flags: u8,
    /// The endpoint's id.
    pub endpoint: u32,
    /// When it was published: nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub published_ns: u64,
}

/// The source of a datagram, as `recvmsg` gave it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct OriginQuery {
    /// The source address.
    pub address: Address,
    /// The source port, host byte order.
    pub port: u16,
    /// 17 for UDP.
    pub protocol: u8,
    /// Reserved, zero.
    pub reserved: u8,
}

/// An origin on its way from the endpoint's hook to the gateway's. The key comes first, so that who
/// reads it after the rest sees whether the entry was given to another source meanwhile.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Published {
    /// The source, as in the entry's key.
    pub source: OriginQuery,
    /// Zero.
    pub reserved: u32,
    /// Whose it is.
    pub origin: Origin,
}

const _: () = assert!(size_of::<Published>() == 96 && align_of::<Published>() == 8);
const _: () = assert!(size_of::<Origin>() == 72 && align_of::<Origin>() == 8);
const _: () = assert!(size_of::<OriginQuery>() == 20 && align_of::<OriginQuery>() == 4);
