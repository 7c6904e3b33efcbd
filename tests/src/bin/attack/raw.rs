//! Raw sockets and ping sockets.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
};

use crate::{packet, socket};

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
    send_to(&socket::open(to, kind, protocol)?, to, &message)
}

/// A packet of any protocol, with the kernel's IP header.
pub(crate) fn send(to: IpAddr, protocol: u8) -> io::Result<()> {
    let socket = socket::open(to, libc::SOCK_RAW, protocol.into())?;
    send_to(&socket, to, b"a raw packet's payload")
}

/// A datagram with an IP header of our own: IPPROTO_RAW.
pub(crate) fn send_with_header(from: IpAddr, to: IpAddr, port: u16) -> io::Result<()> {
    let socket = socket::open(to, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    send_to(&socket, to, &packet::udp(from, to, port))
}

/// For IPv4 packets with their headers.
pub(crate) fn header_socket() -> io::Result<OwnedFd> {
    socket::open(
        Ipv4Addr::UNSPECIFIED.into(),
        libc::SOCK_RAW,
        libc::IPPROTO_RAW,
    )
}

/// A raw IPv6 socket refuses a port other than its protocol or 0.
pub(crate) fn send_to(socket: &OwnedFd, to: IpAddr, bytes: &[u8]) -> io::Result<()> {
    socket::send_to(socket, SocketAddr::new(to, 0), bytes, 0)
}
