//! What client and server say to each other through a proxy: a real ClientHello, and after its answer
//! frames of 64 bytes. No byte of it is encrypted.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, listen, socket_with,
        sockopt::{set_socket_reuseaddr, set_socket_reuseport, set_tcp_nodelay},
    },
};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Bytes of a frame, and of the answer to a hello or a frame.
pub(super) const FRAME: usize = 64;

/// A frame that asks for nothing but its answer.
pub(super) const EXCHANGE: u8 = b'e';
/// So many bytes follow, and then the answer comes.
pub(super) const UP: u8 = b'u';
/// So many bytes come back, and nothing else.
pub(super) const DOWN: u8 = b'd';

/// Bytes of a TLS record's header (RFC 8446 section 5.1).
pub(super) const RECORD_HEADER: usize = 5;

/// A frame with its number of bytes.
pub(super) fn frame(kind: u8, bytes: u64) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[0] = kind;
    frame[8..16].copy_from_slice(&bytes.to_be_bytes());
    frame
}

/// What [`frame`] was made of.
pub(super) fn frame_of(bytes: &[u8; FRAME]) -> (u8, u64) {
    let number = bytes[8..16].try_into().expect("eight bytes");
    (bytes[0], u64::from_be_bytes(number))
}

/// The length of the record that `bytes` begin with, with its header; `None` where more is needed.
pub(super) fn record(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..RECORD_HEADER)?;
    let length = RECORD_HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]));
    (bytes.len() >= length).then_some(length)
}

/// What a common TLS library says first to a server of this name, in one record.
pub(super) fn hello(name: &str) -> Result<Vec<u8>> {
    let config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_owned().try_into().context("a host name")?;
    let mut client = ClientConnection::new(Arc::new(config), name)?;
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes)?;
    Ok(bytes)
}

/// A listening socket that others may share the port of.
pub(super) fn listener(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = stream_socket(at)?;
    set_socket_reuseaddr(&socket, true)?;
    set_socket_reuseport(&socket, true)?;
    bind(&socket, &at)?;
    listen(&socket, 4_096)?;
    // What is accepted inherits it.
    set_tcp_nodelay(&socket, true)?;
    Ok(socket.into())
}

/// A socket on its way to be connected.
pub(super) fn dial(to: SocketAddr) -> io::Result<OwnedFd> {
    let socket = stream_socket(to)?;
    set_tcp_nodelay(&socket, true)?;
    match connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

fn stream_socket(of: SocketAddr) -> io::Result<OwnedFd> {
    let family = match of {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(
        family,
        SocketType::STREAM,
        flags,
        Some(ipproto::TCP),
    )?)
}

/// Connections count as there when they have said something, or after so many seconds.
pub(super) fn defer_accept(listener: &TcpListener, seconds: i32) -> io::Result<()> {
    // SAFETY: an int of its size, for a socket of ours.
    let set = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as libc::socklen_t,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether trying again later is all that is to be done.
pub(super) fn is_again(error: Errno) -> bool {
    matches!(error, Errno::AGAIN | Errno::INTR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_one_record_with_its_name() {
        let hello = hello("host-1.bench.test").unwrap();
        assert_eq!(record(&hello), Some(hello.len()));
        assert_eq!(record(&hello[..hello.len() - 1]), None);
        let name = b"host-1.bench.test";
        assert!(hello.windows(name.len()).any(|it| it == name));
    }

    #[test]
    fn a_frame_is_read_back() {
        assert_eq!(frame_of(&frame(UP, 1 << 40)), (UP, 1 << 40));
    }
}
