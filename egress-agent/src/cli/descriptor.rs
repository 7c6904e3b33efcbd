//! Descriptors that a parent process hands over by number.

use std::{
    io,
    os::{
        fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};

/// Takes a connected Unix stream over; it does not go on to children.
///
/// # Errors
/// The number is a standard stream's, or there is no such socket.
pub(super) fn unix_stream(fd: RawFd) -> io::Result<UnixStream> {
    if fd < 3 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: only looked at, and fcntl says EBADF where it is not open.
    let open = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    if open != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: open, as was just seen, and nothing is opened or closed in between.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    if rustix::net::sockopt::socket_domain(borrowed)? != rustix::net::AddressFamily::UNIX {
        return Err(io::Error::from_raw_os_error(libc::ENOTSOCK));
    }
    // SAFETY: open, and handed to this process for this alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}
