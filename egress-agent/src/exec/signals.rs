//! Signals as messages, for who passes them on: the agent and PID 1 of its command.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::sys::signal::{SigSet, Signal};

/// What is passed on to the command. A terminal's own signals it gets by itself, since it is in
/// the terminal's foreground process group, too.
const FORWARDED: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
];

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// Which.
    pub signal: Signal,
    /// Whether a process sent it, and not the kernel, on a terminal's behalf for instance.
    pub sent: bool,
}

/// The signals, blocked and read from a descriptor instead.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// For the calling thread and those that it starts from now on. `also` comes beside what is
    /// passed on. SIGTTOU is blocked too, so that the terminal can be taken back (tcsetpgrp(3)).
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn block(also: &[Signal]) -> io::Result<Self> {
        let mut wanted = SigSet::empty();
        for signal in FORWARDED.iter().chain(also) {
            wanted.add(*signal);
        }
        let mut blocked = wanted;
        blocked.add(Signal::SIGTTOU);
        blocked.thread_block()?;
        // SAFETY: the set outlives the call, and the descriptor that is returned is ours.
        unsafe {
            match libc::signalfd(-1, wanted.as_ref(), libc::SFD_CLOEXEC) {
                fd if fd >= 0 => Ok(Self(OwnedFd::from_raw_fd(fd))),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// Reading fails.
    pub fn next(&self) -> io::Result<Arrived> {
        loop {
            // SAFETY: all zeroes is a valid value, and read(2) writes at most its size.
            let (read, info) = unsafe {
                let mut info: libc::signalfd_siginfo = std::mem::zeroed();
                let size = size_of_val(&info);
                let read = libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size);
                (read, info)
            };
            if read < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            let signal = Signal::try_from(info.ssi_signo as i32)?;
            // SI_USER, SI_TKILL and SI_QUEUE are 0 and less (include/uapi/asm-generic/siginfo.h).
            let sent = info.ssi_code <= 0;
            return Ok(Arrived { signal, sent });
        }
    }
}

impl std::os::fd::AsFd for Signals {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
