//! PID 1 of a command: arranges what it sees, gives up its privileges, starts it, reaps whatever
//! becomes an orphan, passes signals on, and ends with the command's exit status. It has no
//! privilege that the command has not.

use std::{
    io::{self, BufReader, ErrorKind},
    os::{
        fd::AsFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    process::Command,
};

use nix::sys::signal::{SigSet, Signal};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, WaitOptions, WaitStatus, kill_process, wait},
};
use thiserror::Error;

use super::{
    protocol::{
        AGENT_FAILED, FromInit, NOT_EXECUTABLE, NOT_FOUND, Spec, read_message, write_message,
    },
    signals::Signals,
};

mod mounts;
mod privilege;
mod seccomp;
mod view;

/// Why there is no command.
#[derive(Debug, Error)]
pub enum InitError {
    /// The control stream.
    #[error("the command's PID 1 is started by `egress-agent exec` only: {0}")]
    Control(#[source] io::Error),
    /// Signals.
    #[error("cannot block signals: {0}")]
    Signals(#[source] io::Error),
    /// The view of the file system.
    #[error(transparent)]
    View(#[from] view::ViewError),
    /// The working directory.
    #[error("{0}: the command cannot start in this directory: {1}; change to another one")]
    Directory(String, #[source] io::Error),
    /// Privileges.
    #[error(transparent)]
    Privilege(#[from] privilege::PrivilegeError),
    /// System calls.
    #[error(transparent)]
    Seccomp(#[from] seccomp::SeccompError),
    /// The command itself.
    #[error("{0}: {1}")]
    Command(String, #[source] io::Error),
}

impl InitError {
    fn status(&self) -> u8 {
        match self {
            Self::Command(_, error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                NOT_FOUND
            }
            Self::Command(..) => NOT_EXECUTABLE,
            Self::Control(_)
            | Self::Signals(_)
            | Self::View(_)
            | Self::Directory(..)
            | Self::Privilege(_)
            | Self::Seccomp(_) => AGENT_FAILED,
        }
    }
}

/// Runs the command that the agent names on the other end, and returns the exit status for this
/// process.
///
/// # Errors
/// Whoever started this is no agent.
pub fn run(control: &UnixStream) -> Result<u8, InitError> {
    let spec = read_message(&mut BufReader::new(control)).map_err(InitError::Control)?;
    let Some(spec) = spec else {
        let closed = io::Error::from(ErrorKind::UnexpectedEof);
        return Err(InitError::Control(closed));
    };
    let (message, outcome) = match start(&spec) {
        Ok((signals, child)) => (FromInit::Started, Ok((signals, child))),
        Err(error) => {
            let (status, message) = (error.status(), error.to_string());
            (FromInit::Failed { status, message }, Err(status))
        }
    };
    write_message(&mut &*control, &message).map_err(InitError::Control)?;
    match outcome {
        Ok((signals, child)) => watch(control, &signals, child).map_err(InitError::Signals),
        Err(status) => Ok(status),
    }
}

fn start(spec: &Spec) -> Result<(Signals, Pid), InitError> {
    let signals = Signals::block(&[Signal::SIGCHLD]).map_err(InitError::Signals)?;
    view::arrange(&spec.view, &spec.credentials)?;
    // By its path once more, since the old one may lie under what was covered.
    let directory = || spec.directory.to_string_lossy().into_owned();
    rustix::process::chdir(&spec.directory)
        .map_err(|error| InitError::Directory(directory(), error.into()))?;
    privilege::give_up(&spec.credentials)?;
    seccomp::apply()?;
    let child = command(spec).spawn().map_err(|error| {
        let program = spec.command.first().map(|name| name.to_string_lossy());
        InitError::Command(program.unwrap_or_default().into_owned(), error)
    })?;
    Ok((signals, Pid::from_child(&child)))
}

/// std looks the program up in the new PATH, and leaves the signal mask as it is.
fn command(spec: &Spec) -> Command {
    let mut words = spec.command.iter();
    let mut command = Command::new(words.next().map_or("".as_ref(), |name| name.as_os_str()));
    command
        .args(words)
        .env_clear()
        .envs(spec.environment.iter().map(|(key, value)| (key, value)));
    // SAFETY: system calls alone, safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            privilege::may_be_traced()?;
            Ok(SigSet::empty().thread_set_mask()?)
        });
    }
    command
}

/// Until the command ends, or the agent does.
fn watch(control: &UnixStream, signals: &Signals, child: Pid) -> io::Result<u8> {
    loop {
        let mut ready = [
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(control.as_fd(), PollFlags::RDHUP),
        ];
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            polled => polled?,
        };
        let [signalled, gone] = ready.map(|fd| !fd.revents().is_empty());
        if gone {
            // The agent has died; with PID 1 all the rest does.
            return Ok(AGENT_FAILED);
        }
        if !signalled {
            continue;
        }
        let arrived = signals.next()?;
        if arrived.signal == Signal::SIGCHLD {
            if let Some(status) = reap(child)? {
                return Ok(status);
            }
        } else if let Some(signal) = rustix::process::Signal::from_named_raw(arrived.signal as i32)
            && arrived.sent
        {
            // It may have ended this moment.
            kill_process(child, signal).ok();
        }
    }
}

/// Waits for all that have ended; the command's exit status if it is among them.
fn reap(child: Pid) -> io::Result<Option<u8>> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == child => return Ok(Some(exit_status(status))),
            Ok(Some(_orphan)) => {}
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(None),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// As the shell says it: 128 and the number of the signal that ended it.
fn exit_status(status: WaitStatus) -> u8 {
    let by_signal = status.terminating_signal().map(|signal| 128 + signal);
    status
        .exit_status()
        .or(by_signal)
        .unwrap_or(AGENT_FAILED.into()) as u8
}
