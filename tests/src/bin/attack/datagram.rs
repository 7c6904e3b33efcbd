//! UDP.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

/// `sendto` on a fresh socket.
pub(crate) fn send(to: SocketAddr, text: &str) -> io::Result<()> {
    socket(to)?.send_to(text.as_bytes(), to).map(|_sent| ())
}

/// `connect` alone, which sends nothing.
pub(crate) fn connect(to: SocketAddr) -> io::Result<()> {
    socket(to)?.connect(to)
}

/// `connect`, then `send`.
pub(crate) fn send_connected(to: SocketAddr, text: &str) -> io::Result<()> {
    let socket = socket(to)?;
    socket.connect(to)?;
    socket.send(text.as_bytes()).map(|_sent| ())
}

/// `connect` to one, then `sendto` another.
pub(crate) fn elsewhere(first: SocketAddr, to: SocketAddr) -> io::Result<()> {
    let socket = socket(to)?;
    socket.connect(first)?;
    socket.send_to(b"elsewhere", to).map(|_sent| ())
}

/// `connect`, wait, then `send`: for a socket that is older than the policy.
pub(crate) fn held(to: SocketAddr, wait: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let socket = socket(to)?;
    socket.connect(to)?;
    wait()?;
    socket.send(b"held").map(|_sent| ())
}

/// One `sendmmsg` with this many datagrams.
pub(crate) fn send_many(to: SocketAddr, count: u32) -> io::Result<()> {
    let socket = socket(to)?;
    // Connected, so that the messages need no name.
    socket.connect(to)?;
    let mut text = *b"many";
    let mut part = libc::iovec {
        iov_base: text.as_mut_ptr().cast(),
        iov_len: text.len(),
    };
    let mut messages: Vec<libc::mmsghdr> = (0..count)
        .map(|_| {
            // SAFETY: an mmsghdr of zeros is valid: no name, no parts, no control.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = &raw mut part;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    // SAFETY: `count` headers, each of one part that outlives the call.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn socket(to: SocketAddr) -> io::Result<UdpSocket> {
    if to.is_ipv4() {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
    } else {
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
    }
}

/// As many as go in that time, whatever becomes of them; returns how many were tried.
pub(crate) fn flood(to: SocketAddr, time: Duration) -> io::Result<u64> {
    let socket = socket(to)?;
    let begun = Instant::now();
    let mut tried = 0;
    while begun.elapsed() < time {
        match socket.send_to(b"x", to) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            Err(error) => return Err(error),
        }
        tried += 1;
    }
    Ok(tried)
}
