//! io_uring: system calls that another thread of the kernel may make.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
};

use crate::socket::{done, page, sockaddr};

/// IORING_OP_CONNECT and IORING_OP_SEND (linux/io_uring.h).
const CONNECT: u64 = 16;
const SEND: u64 = 26;
/// IORING_OFF_SQES: where the submissions are mapped; the rings are at 0.
const SUBMISSIONS: i64 = 0x1000_0000;
/// IORING_ENTER_GETEVENTS.
const WAIT: u32 = 1;

/// Words of `struct io_uring_params` that are read: where in the rings what is.
const SUBMISSION_TAIL: usize = 11;
const SUBMISSION_ARRAY: usize = 16;
const COMPLETIONS: usize = 25;

/// `connect`.
pub(crate) fn connect(socket: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    let (address, length) = sockaddr(to);
    let address = (&raw const address).addr() as u64;
    submit([fd(CONNECT, socket), length.into(), address, 0, 0, 0, 0, 0])
}

/// `sendto`.
pub(crate) fn send_to(socket: &OwnedFd, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    let (address, length) = sockaddr(to);
    let address = (&raw const address).addr() as u64;
    let (bytes, count) = (bytes.as_ptr().addr() as u64, bytes.len() as u64);
    let length = u64::from(length) << 32;
    submit([fd(SEND, socket), address, bytes, count, 0, length, 0, 0])
}

fn fd(operation: u64, socket: &OwnedFd) -> u64 {
    operation | (socket.as_raw_fd() as u64) << 32
}

/// One submission, as the words of `struct io_uring_sqe`, and its completion.
fn submit(submission: [u64; 8]) -> io::Result<()> {
    let mut parameters = [0_u32; 30];
    // SAFETY: the parameters are as long as the kernel's; the descriptor is nobody else's.
    let ring = unsafe {
        let fd = libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr());
        done(fd as isize)?;
        OwnedFd::from_raw_fd(fd as i32)
    };
    let rings = page(Some(&ring), 0)?;
    let at = |word: usize| parameters[word] as usize;
    // SAFETY: one entry's rings and submission are each within a page, where the kernel says.
    unsafe {
        let entry = page(Some(&ring), SUBMISSIONS)?;
        entry.cast::<[u64; 8]>().write_volatile(submission);
        rings
            .add(at(SUBMISSION_ARRAY))
            .cast::<u32>()
            .write_volatile(0);
        rings
            .add(at(SUBMISSION_TAIL))
            .cast::<u32>()
            .write_volatile(1);
        let none = ptr::null::<u8>();
        let entered = libc::syscall(
            libc::SYS_io_uring_enter,
            ring.as_raw_fd(),
            1,
            1,
            WAIT,
            none,
            0,
        );
        done(entered as isize)?;
        // `struct io_uring_cqe`: eight bytes of ours, then the result.
        let result = rings.add(at(COMPLETIONS) + 8).cast::<i32>().read_volatile();
        match result {
            0.. => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }
}
