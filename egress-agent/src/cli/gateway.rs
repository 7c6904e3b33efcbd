//! `egress-agent gateway`: the unprivileged side, started by the enforcer.

use std::{
    io,
    os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::Arc,
};

use anyhow::Context;
use clap::Args;
use tokio::net::UnixStream;

use crate::gateway::{identify::Kernel, serve, spawn::confine};

/// Arguments of `egress-agent gateway`.
#[derive(Debug, Args)]
pub struct GatewayArgs {
    /// The descriptor of the control stream.
    #[arg(long)]
    pub control_fd: RawFd,
}

/// Runs until the control stream ends.
///
/// # Errors
/// A privilege is left, the descriptor is no socket, or the gateway cannot work.
pub fn run(args: &GatewayArgs) -> anyhow::Result<()> {
    confine::verify()?;
    let control = control_stream(args.control_fd)
        .with_context(|| format!("--control-fd {}: no socket of an enforcer", args.control_fd))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the gateway's control runtime")?;
    runtime.block_on(async {
        let control = UnixStream::from_std(control)?;
        match serve::serve(control, Arc::new(Kernel)).await {
            // The enforcer says it, once.
            Err(error) if error.was_told() => std::process::exit(1),
            served => Ok(served?),
        }
    })
}

fn control_stream(fd: RawFd) -> io::Result<std::os::unix::net::UnixStream> {
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
    // SAFETY: open, and handed to this process by the enforcer for this alone.
    let control = unsafe { OwnedFd::from_raw_fd(fd) };
    let stream = std::os::unix::net::UnixStream::from(control);
    stream.set_nonblocking(true)?;
    Ok(stream)
}
