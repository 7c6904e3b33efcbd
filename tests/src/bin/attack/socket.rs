//! Sockets by system calls, for what the standard library neither opens nor sets.

use std::{
    io, mem,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
};

/// A socket of the family of `to`.
pub(crate) fn open(to: IpAddr, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    open_of(family, kind, protocol)
}

/// A socket of any family.
pub(crate) fn open_of(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes no pointer, and the descriptor it returns is nobody else's.
    unsafe {
        let fd = libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol);
        done(fd as isize)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Sets an option to a value of plain numbers.
pub(crate) fn set<T: Copy>(
    socket: &impl AsRawFd,
    level: i32,
    name: i32,
    value: T,
) -> io::Result<()> {
    let length = mem::size_of::<T>() as libc::socklen_t;
    let pointer = (&raw const value).cast();
    // SAFETY: the pointer and the length are those of `value`, which outlives the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, length) };
    done(result as isize)
}

/// Lets it be bound to any address: IP_TRANSPARENT and IPV6_TRANSPARENT.
pub(crate) fn be_transparent(socket: &impl AsRawFd, to: SocketAddr) -> io::Result<()> {
    match to {
        SocketAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1_i32),
        SocketAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT, 1_i32),
    }
}

pub(crate) fn bind(socket: &impl AsRawFd, from: SocketAddr) -> io::Result<()> {
    let (address, length) = sockaddr(from);
    // SAFETY: the address outlives the call and is as long as is said.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    done(result as isize)
}

pub(crate) fn connect(socket: &impl AsRawFd, to: SocketAddr) -> io::Result<()> {
    let (address, length) = sockaddr(to);
    // SAFETY: the address outlives the call and is as long as is said.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) };
    done(result as isize)
}

pub(crate) fn send_to(
    socket: &impl AsRawFd,
    to: SocketAddr,
    bytes: &[u8],
    flags: i32,
) -> io::Result<()> {
    let (address, length) = sockaddr(to);
    // SAFETY: bytes and address outlive the call and are as long as is said.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags,
            (&raw const address).cast(),
            length,
        )
    };
    done(sent)
}

/// The error of the system call that has just returned this, if it is negative.
pub(crate) fn done(result: isize) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A page of memory of our own or, with a descriptor, of what it offers at `offset`; never unmapped.
pub(crate) fn page(of: Option<&OwnedFd>, offset: i64) -> io::Result<*mut u8> {
    let flags = match of {
        Some(_) => libc::MAP_SHARED | libc::MAP_POPULATE,
        None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    };
    let fd = of.map_or(-1, AsRawFd::as_raw_fd);
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, wherever the kernel puts it.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, access, flags, fd, offset) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(page.cast())
}

/// Bytes of a page.
pub(crate) const PAGE: usize = 4_096;

/// An address as the kernel takes it, and its length in bytes.
pub(crate) fn sockaddr(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: a sockaddr_storage of zeros is valid, and large enough and aligned for each family.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let pointer = &raw mut storage;
    let length = match address {
        SocketAddr::V4(address) => {
            let value = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(address.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: see above.
            unsafe { pointer.cast::<libc::sockaddr_in>().write(value) };
            mem::size_of_val(&value)
        }
        SocketAddr::V6(address) => {
            let value = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: address.ip().octets(),
                },
                sin6_scope_id: address.scope_id(),
            };
            // SAFETY: see above.
            unsafe { pointer.cast::<libc::sockaddr_in6>().write(value) };
            mem::size_of_val(&value)
        }
    };
    (storage, length as libc::socklen_t)
}
