//! The listening sockets of another gateway, for the next one: both have the same queues, so that
//! nothing that waits in one is lost. Not those of UDP: the origin of a datagram is asked for by the
//! socket that it came to, which two processes must not do at once.

use std::{
    fs, io,
    net::SocketAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde::{Deserialize, Serialize};
use socket2::{SockRef, Type};

use super::listen::Sockets;

/// Descriptors by their numbers, in the process that was started with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inherited {
    /// For connections.
    pub tcp: Vec<RawFd>,
    /// For DNS over TCP.
    pub dns_tcp: Vec<RawFd>,
}

impl Inherited {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.dns_tcp.is_empty()
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = RawFd> {
        let lists = [&self.tcp, &self.dns_tcp];
        lists.into_iter().flatten().copied()
    }

    /// Shares the sockets out among so many workers.
    ///
    /// # Errors
    /// One of them is no socket.
    ///
    /// # Safety
    /// The process was started with these descriptors, and nobody else in it has them.
    pub unsafe fn share(self, workers: usize) -> io::Result<Vec<Sockets>> {
        // SAFETY: the caller's.
        let own = |fd: RawFd| unsafe { OwnedFd::from_raw_fd(fd) };
        let mut sets: Vec<Sockets> = (0..workers.max(1)).map(|_| Sockets::default()).collect();
        let count = sets.len();
        for (at, fd) in self.tcp.into_iter().enumerate() {
            sets[at % count].tcp.push(own(fd).into());
        }
        for (at, fd) in self.dns_tcp.into_iter().enumerate() {
            sets[at % count].dns_tcp.push(own(fd).into());
        }
        Ok(sets)
    }
}

/// The sockets that a running gateway serves, as descriptors of this process. Where it has gone
/// there are none, or not all.
///
/// # Errors
/// Its descriptors are not to be had: that needs CAP_SYS_PTRACE.
pub fn of_gateway(
    pid: u32,
    listen: &[SocketAddr],
    dns: &[SocketAddr],
) -> io::Result<(Inherited, Vec<OwnedFd>)> {
    match sockets_of(pid, listen, dns) {
        Err(error) if has_gone(&error) => Ok(Default::default()),
        found => found,
    }
}

fn has_gone(error: &io::Error) -> bool {
    let gone = [Some(libc::ESRCH), Some(libc::ENOENT)];
    gone.contains(&error.raw_os_error())
}

fn sockets_of(
    pid: u32,
    listen: &[SocketAddr],
    dns: &[SocketAddr],
) -> io::Result<(Inherited, Vec<OwnedFd>)> {
    let raw = i32::try_from(pid).map_err(io::Error::other)?;
    let process = Pid::from_raw(raw).ok_or(io::ErrorKind::NotFound)?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    let (mut inherited, mut held) = (Inherited::default(), Vec::new());
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(fd) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else {
            // It was closed meanwhile.
            continue;
        };
        if let Some(list) = kind(&fd, listen, dns, &mut inherited) {
            list.push(fd.as_raw_fd());
            held.push(fd);
        }
    }
    Ok((inherited, held))
}

/// The list that a socket belongs to, if it is one that is served.
fn kind<'a>(
    fd: &OwnedFd,
    listen: &[SocketAddr],
    dns: &[SocketAddr],
    inherited: &'a mut Inherited,
) -> Option<&'a mut Vec<RawFd>> {
    let socket = SockRef::from(fd);
    let address = socket.local_addr().ok()?.as_socket()?;
    let is_stream = socket.r#type().ok()? == Type::STREAM;
    let is_listener = is_stream && socket.is_listener().ok()?;
    if !is_listener {
        return None;
    }
    match (listen.contains(&address), dns.contains(&address)) {
        (true, _) => Some(&mut inherited.tcp),
        (false, true) => Some(&mut inherited.dns_tcp),
        (false, false) => None,
    }
}
