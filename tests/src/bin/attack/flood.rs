//! Very many of something.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
};

use crate::{packet::checksum, raw};

/// The first port that is taken; the others follow.
const FIRST: u16 = 1_025;

/// A datagram to each of so many ports; returns how many were tried.
pub(crate) fn sweep(to: IpAddr, count: u16) -> io::Result<u64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    for port in FIRST..FIRST + count {
        match socket.send_to(b"x", SocketAddr::new(to, port)) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count.into())
}

/// A SYN from each of so many ports, by a raw socket.
pub(crate) fn syns(from: Ipv4Addr, to: SocketAddrV4, count: u16) -> io::Result<()> {
    let socket = raw::header_socket()?;
    for port in FIRST..FIRST + count {
        let packet = syn(SocketAddrV4::new(from, port), to);
        match raw::send_to(&socket, (*to.ip()).into(), &packet) {
            // The device's queue is full, or it is not allowed: the next one.
            Err(error)
                if [libc::ENOBUFS, libc::EPERM]
                    .map(Some)
                    .contains(&error.raw_os_error()) => {}
            other => other?,
        }
    }
    Ok(())
}

/// An IPv4 packet (RFC 791) with a TCP segment (RFC 9293) of its header alone.
fn syn(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    const SYN: u8 = 2;
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    let mut tcp = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    tcp.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 0xff, 0xff, 0, 0, 0, 0]);
    let sum = checksum(&[&addresses, &[0, libc::IPPROTO_TCP as u8, 0, 20], &tcp]);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![
        0x45,
        0,
        0,
        40,
        0,
        1,
        0,
        0,
        64,
        libc::IPPROTO_TCP as u8,
        0,
        0,
    ];
    packet.extend(addresses);
    // The kernel fills the header's own checksum in.
    packet.extend(tcp);
    packet
}
