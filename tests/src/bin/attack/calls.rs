//! Datagrams by other calls and options than those of every day.

use std::{
    fs::File,
    io::{self, Seek as _, Write as _},
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
};

use crate::{
    ring,
    socket::{self, done, set},
};

const TEXT: &[u8] = b"egress-tests datagram";

/// UDP-Lite (RFC 3828).
pub(crate) fn lite(to: SocketAddr) -> io::Result<()> {
    let socket = socket::open(to.ip(), libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)?;
    socket::send_to(&socket, to, TEXT, 0)
}

/// The same of a connected socket.
pub(crate) fn lite_connected(to: SocketAddr) -> io::Result<()> {
    let socket = socket::open(to.ip(), libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)?;
    socket::connect(&socket, to)?;
    send(&socket, TEXT, 0)
}

/// By io_uring.
pub(crate) fn by_ring(to: SocketAddr) -> io::Result<()> {
    let socket = socket::open(to.ip(), libc::SOCK_DGRAM, 0)?;
    ring::send_to(&socket, to, TEXT)
}

/// From an address that nobody has, of a connected socket: IP_TRANSPARENT.
pub(crate) fn transparent(from: IpAddr, to: SocketAddr) -> io::Result<()> {
    let socket = socket::open(to.ip(), libc::SOCK_DGRAM, 0)?;
    socket::be_transparent(&socket, to)?;
    socket::bind(&socket, SocketAddr::new(from, 0))?;
    socket::connect(&socket, to)?;
    send(&socket, TEXT, 0)
}

/// Several datagrams that the kernel or the device cuts from one (UDP_SEGMENT), of a connected
/// socket.
pub(crate) fn segments(to: SocketAddr) -> io::Result<()> {
    let socket = connected(to)?;
    let each = TEXT.len() as i32;
    set(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, each)?;
    send(&socket, &TEXT.repeat(3), 0)
}

/// From our own memory, without a copy: MSG_ZEROCOPY.
pub(crate) fn zero_copy(to: SocketAddr) -> io::Result<()> {
    let socket = connected(to)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1_i32)?;
    send(&socket, TEXT, libc::MSG_ZEROCOPY)
}

/// From a file.
pub(crate) fn send_file(to: SocketAddr) -> io::Result<()> {
    let socket = connected(to)?;
    // SAFETY: a C string; the descriptor is nobody else's.
    let mut file = unsafe {
        let fd = libc::memfd_create(c"datagram".as_ptr(), libc::MFD_CLOEXEC);
        done(fd as isize)?;
        File::from_raw_fd(fd)
    };
    file.write_all(TEXT)?;
    file.rewind()?;
    let (socket, file) = (socket.as_raw_fd(), file.as_raw_fd());
    // SAFETY: descriptors that outlive the call, and no offset.
    done(unsafe { libc::sendfile(socket, file, ptr::null_mut(), TEXT.len()) })
}

/// From a pipe.
pub(crate) fn splice(to: SocketAddr) -> io::Result<()> {
    let socket = connected(to)?;
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(TEXT)?;
    let (reader, socket) = (reader.as_raw_fd(), socket.as_raw_fd());
    let (none, length) = (ptr::null_mut(), TEXT.len());
    // SAFETY: descriptors that outlive the call, and no offsets.
    done(unsafe { libc::splice(reader, none, socket, none, length, 0) })
}

fn connected(to: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket::open(to.ip(), libc::SOCK_DGRAM, 0)?;
    socket::connect(&socket, to)?;
    Ok(socket)
}

fn send(socket: &OwnedFd, bytes: &[u8], flags: i32) -> io::Result<()> {
    // SAFETY: the bytes outlive the call and are as long as is said.
    done(unsafe {
        libc::send(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags,
        )
    })
}
