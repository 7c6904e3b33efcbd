//! Whose connection or datagram this is: what the kernel attached to the gateway's socket.

use std::{
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use egress_common::{
    address::Address,
    origin::{ORIGIN_LEVEL, ORIGIN_OF_CONNECTION, ORIGIN_OF_DATAGRAM, Origin, OriginQuery},
};

/// Where origins come from. There is one implementation; tests bring their own.
pub trait Identify: Send + Sync {
    /// The origin of an accepted connection.
    ///
    /// # Errors
    /// There is none, or the kernel does not answer.
    fn connection(&self, socket: BorrowedFd<'_>) -> io::Result<Origin>;

    /// The origin of a datagram that `socket` received from `source`.
    ///
    /// # Errors
    /// There is none (ENOENT), or the kernel does not answer.
    fn datagram(&self, socket: BorrowedFd<'_>, source: SocketAddr) -> io::Result<Origin>;
}

/// The programs on the gateway's cgroup, asked through socket options.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Identify for Kernel {
    fn connection(&self, socket: BorrowedFd<'_>) -> io::Result<Origin> {
        read_origin(socket, ORIGIN_OF_CONNECTION)
    }

    fn datagram(&self, socket: BorrowedFd<'_>, source: SocketAddr) -> io::Result<Origin> {
        let query = OriginQuery {
            address: Address::from(source.ip()),
            port: source.port(),
            protocol: libc::IPPROTO_UDP as u8,
            reserved: 0,
        };
        // SAFETY: the pointer and length are those of `query`, which lives across the call and
        // has no padding (size asserted in egress-common).
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                ORIGIN_LEVEL,
                ORIGIN_OF_DATAGRAM,
                (&raw const query).cast(),
                size_of::<OriginQuery>() as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        read_origin(socket, ORIGIN_OF_DATAGRAM)
    }
}

fn read_origin(socket: BorrowedFd<'_>, option: i32) -> io::Result<Origin> {
    let mut origin = MaybeUninit::<Origin>::zeroed();
    let mut length = size_of::<Origin>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `origin`, which is that large.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            ORIGIN_LEVEL,
            option,
            origin.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if length as usize != size_of::<Origin>() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "the kernel answered an origin of {length} bytes, not {}",
                size_of::<Origin>()
            ),
        ));
    }
    // SAFETY: zeroed and then wholly written; every bit pattern is an Origin.
    Ok(unsafe { origin.assume_init() })
}
