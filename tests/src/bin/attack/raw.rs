//! Raw sockets and ping sockets.

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use crate::packet;

/// An echo request by a ping socket (`SOCK_DGRAM`) or a raw one.
pub(crate) fn ping(to: IpAddr, kind: i32) -> io::Result<()> {
    let request = if to.is_ipv4() { 8 } else { 128 };
    icmp(to, kind, request, b"egress-tests ping")
}

/// "Destination unreachable" by a raw socket: kernels send such by themselves, with up to 400 bytes
/// of what they are about.
pub(crate) fn icmp_error(to: IpAddr) -> io::Result<()> {
    let unreachable = if to.is_ipv4() { 3 } else { 1 };
    icmp(to, libc::SOCK_RAW, unreachable, &[b'x'; 400])
}

fn icmp(to: IpAddr, kind: i32, message_type: u8, content: &[u8]) -> io::Result<()> {
    let protocol = match to {
        IpAddr::V4(_) => libc::IPPROTO_ICMP,
        IpAddr::V6(_) => libc::IPPROTO_ICMPV6,
    };
    let mut message = vec![message_type, 0, 0, 0, 0x12, 0x34, 0, 1];
    message.extend_from_slice(content);
    let sum = packet::checksum(&[&message]).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    send_to(&socket(to, kind, protocol)?, to, &message)
}

/// A packet of any protocol, with the kernel's IP header.
pub(crate) fn send(to: IpAddr, protocol: u8) -> io::Result<()> {
    let socket = socket(to, libc::SOCK_RAW, protocol.into())?;
    send_to(&socket, to, b"a raw packet's payload")
}

/// A datagram with an IP header of our own: IPPROTO_RAW.
pub(crate) fn send_with_header(from: IpAddr, to: IpAddr, port: u16) -> io::Result<()> {
    let socket = socket(to, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    send_to(&socket, to, &packet::udp(from, to, port))
}

fn socket(to: IpAddr, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: socket(2) takes no pointer, and the descriptor it returns is nobody else's.
    unsafe {
        let fd = libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// For IPv4 packets with their headers.
pub(crate) fn header_socket() -> io::Result<OwnedFd> {
    socket(
        Ipv4Addr::UNSPECIFIED.into(),
        libc::SOCK_RAW,
        libc::IPPROTO_RAW,
    )
}

pub(crate) fn send_to(socket: &OwnedFd, to: IpAddr, bytes: &[u8]) -> io::Result<()> {
    // A raw IPv6 socket refuses a port other than its protocol or 0.
    let (address, length) = sockaddr(SocketAddr::new(to, 0));
    // SAFETY: bytes and address outlive the call and are as long as is said.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            (&raw const address).cast(),
            length,
        )
    };
    if sent < 0 {
        return last_error();
    }
    Ok(())
}

/// The error of the system call that has just failed.
pub(crate) fn last_error<T>() -> io::Result<T> {
    Err(io::Error::last_os_error())
}

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
