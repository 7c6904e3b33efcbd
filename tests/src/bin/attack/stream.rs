//! TCP.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    time::Duration,
};

use crate::{ring, socket};

/// How long a connect may take: a test does not wait for the kernel's two minutes.
const PATIENCE: Duration = Duration::from_secs(3);

/// `connect`, and a byte to see whether somebody is there who stays.
pub(crate) fn connect(to: SocketAddr) -> io::Result<()> {
    speak(&mut TcpStream::connect_timeout(&to, PATIENCE)?)
}

/// The same from a source port of our choice.
pub(crate) fn connect_from(port: u16, to: SocketAddr) -> io::Result<()> {
    let socket = socket(to, 0)?;
    let any: IpAddr = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    socket::set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1_i32)?;
    socket::bind(&socket, SocketAddr::new(any, port))?;
    socket::connect(&socket, to)?;
    speak(&mut TcpStream::from(socket))
}

/// `sendto` with MSG_FASTOPEN: a SYN without `connect`.
pub(crate) fn fast_open(to: SocketAddr) -> io::Result<()> {
    let socket = socket(to, 0)?;
    socket::send_to(&socket, to, b"fast open", libc::MSG_FASTOPEN)
}

/// An MPTCP socket (RFC 8684).
pub(crate) fn multipath(to: SocketAddr) -> io::Result<()> {
    let socket = socket(to, libc::IPPROTO_MPTCP)?;
    socket::connect(&socket, to)?;
    speak(&mut TcpStream::from(socket))
}

/// A connection by io_uring.
pub(crate) fn by_ring(to: SocketAddr) -> io::Result<()> {
    let socket = socket(to, 0)?;
    ring::connect(&socket, to)?;
    speak(&mut TcpStream::from(socket))
}

/// A connection that is open without a handshake, for the restoring of processes, and data on it.
pub(crate) fn repaired(to: SocketAddr) -> io::Result<()> {
    // TCP_REPAIR_ON, TCP_REPAIR_OFF_NO_WP and TCP_REPAIR_WINDOW (linux/tcp.h).
    const ON: i32 = 1;
    const OFF: i32 = -1;
    const WINDOW: i32 = 29;
    // `struct tcp_repair_window`: what the other end would have taken, had it been asked.
    const WINDOWS: [u32; 5] = [0, 65_535, 65_535, 65_535, 0];
    let socket = socket(to, 0)?;
    socket::set(&socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, ON)?;
    socket::connect(&socket, to)?;
    socket::set(&socket, libc::IPPROTO_TCP, WINDOW, WINDOWS)?;
    socket::set(&socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, OFF)?;
    TcpStream::from(socket).write_all(b"without a handshake")?;
    // It goes out by itself; the socket's end must not come first.
    std::thread::sleep(Duration::from_millis(50));
    Ok(())
}

/// From an address that nobody has: IP_TRANSPARENT.
pub(crate) fn transparent(from: IpAddr, to: SocketAddr) -> io::Result<()> {
    let socket = socket(to, 0)?;
    socket::be_transparent(&socket, to)?;
    socket::bind(&socket, SocketAddr::new(from, 0))?;
    socket::connect(&socket, to)
}

/// `connect`, wait, then speak: for a connection that is older than the policy.
pub(crate) fn held(to: SocketAddr, wait: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    wait()?;
    speak(&mut stream)
}

/// Sends to an echo and waits for the answer.
fn speak(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"echo?\n")?;
    let mut answer = [0; 6];
    match stream.read(&mut answer)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _length => Ok(()),
    }
}

fn socket(to: SocketAddr, protocol: i32) -> io::Result<OwnedFd> {
    let socket = socket::open(to.ip(), libc::SOCK_STREAM, protocol)?;
    // SYNs are sent at 0, 1 and 3 s; a blocking connect then ends with ETIMEDOUT. An MPTCP socket
    // has no such option on older kernels.
    socket::set(&socket, libc::IPPROTO_TCP, libc::TCP_SYNCNT, 1_i32).ok();
    Ok(socket)
}
