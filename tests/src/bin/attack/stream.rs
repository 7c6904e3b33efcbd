//! TCP.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use crate::raw::{last_error, sockaddr};

/// How long a connect may take: a test does not wait for the kernel's two minutes.
const PATIENCE: Duration = Duration::from_secs(3);

/// `connect`, and a byte to see whether somebody is there who stays.
pub(crate) fn connect(to: SocketAddr) -> io::Result<()> {
    speak(&mut TcpStream::connect_timeout(&to, PATIENCE)?)
}

/// The same from a source port of our choice.
pub(crate) fn connect_from(port: u16, to: SocketAddr) -> io::Result<()> {
    let socket = socket(to)?;
    let mut from = SocketAddr::new(to.ip(), port);
    from.set_ip(if to.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    });
    let one: i32 = 1;
    let (from, length) = sockaddr(from);
    // SAFETY: each pointer is of a value that outlives the call, with its own length.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_REUSEADDR,
            (&raw const one).cast(),
            4,
        );
        if libc::bind(socket.as_raw_fd(), (&raw const from).cast(), length) != 0 {
            return last_error();
        }
    }
    let (to, length) = sockaddr(to);
    // SAFETY: the address outlives the call and is as long as is said.
    if unsafe { libc::connect(socket.as_raw_fd(), (&raw const to).cast(), length) } != 0 {
        return last_error();
    }
    speak(&mut TcpStream::from(socket))
}

/// `sendto` with MSG_FASTOPEN: a SYN without `connect`.
pub(crate) fn fast_open(to: SocketAddr) -> io::Result<()> {
    let socket = socket(to)?;
    let (to, length) = sockaddr(to);
    let text = b"fast open";
    // SAFETY: text and address outlive the call and are as long as is said.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            text.as_ptr().cast(),
            text.len(),
            libc::MSG_FASTOPEN,
            (&raw const to).cast(),
            length,
        )
    };
    if sent < 0 {
        return last_error();
    }
    Ok(())
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

fn socket(to: SocketAddr) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: socket(2) takes no pointer, and the descriptor it returns is nobody else's.
    unsafe {
        let fd = libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(fd);
        // SYNs are sent at 0, 1 and 3 s; a blocking connect then ends with ETIMEDOUT.
        let retries: i32 = 1;
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_SYNCNT,
            (&raw const retries).cast(),
            4,
        );
        Ok(socket)
    }
}
