//! The agent's side of a command: starts PID 1 in the command's namespaces, and waits for it.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::{
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use thiserror::Error;
use tokio::sync::oneshot;

use super::protocol::{AGENT_FAILED, FromInit, Spec, read_message, write_message};

/// Where the command runs.
#[derive(Debug)]
pub struct Place {
    /// Its cgroup v2 directory; it is in there before it does anything.
    pub cgroup: PathBuf,
    /// Its network namespace; the node's own where there is none.
    pub namespace: Option<File>,
}

/// It did not start.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// The cgroup.
    #[error("{0}: cannot put the command into this cgroup: {1}")]
    Cgroup(PathBuf, #[source] io::Error),
    /// The process, or a thread.
    #[error("cannot start the command's PID 1: {0}")]
    Spawn(#[source] io::Error),
    /// It died, or said what is none.
    #[error("the command's PID 1 did not say that it started: {0}")]
    Init(#[source] io::Error),
    /// A signal came before it could be started.
    #[error("{0} before the command was started")]
    Interrupted(nix::sys::signal::Signal),
    /// It said why there is no command.
    #[error("{message}")]
    Failed {
        /// As in [`FromInit::Failed`].
        status: u8,
        /// One line.
        message: String,
    },
}

impl LaunchError {
    /// The exit status that goes with it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Failed { status, .. } => *status,
            Self::Interrupted(signal) => 128 + *signal as u8,
            Self::Cgroup(..) | Self::Spawn(_) | Self::Init(_) => AGENT_FAILED,
        }
    }
}

/// A command that runs.
#[derive(Debug)]
pub struct Launched {
    /// A pidfd of its PID 1.
    init: OwnedFd,
    /// Its exit status, or 128 and the number of the signal that ended PID 1.
    pub ended: oneshot::Receiver<u8>,
}

impl Launched {
    /// For the command; PID 1 passes it on. It may have ended meanwhile.
    pub fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.init, signal).ok();
    }
}

/// Starts it, from a thread that lasts as long as the command: PID 1 dies with it.
///
/// # Errors
/// It does not run, and there is nothing left of it.
pub async fn launch(spec: Spec, place: Place) -> Result<Launched, LaunchError> {
    let (starting, started) = oneshot::channel();
    let (ending, ended) = oneshot::channel();
    let thread = thread::Builder::new().name("command".to_owned());
    let spawned = thread.spawn(move || match start(&spec, &place) {
        Ok((mut init, pidfd, _lifeline)) => {
            // Who no longer listens is ending, and PID 1 with it.
            starting.send(Ok(pidfd)).ok();
            if let Ok(status) = init.wait() {
                ending.send(exit_status(status)).ok();
            }
        }
        Err(error) => {
            starting.send(Err(error)).ok();
        }
    });
    spawned.map_err(LaunchError::Spawn)?;
    let died = |_closed| LaunchError::Spawn(io::Error::other("its thread ended"));
    let init = started.await.map_err(died)??;
    Ok(Launched { init, ended })
}

fn exit_status(status: ExitStatus) -> u8 {
    let by_signal = status.signal().map(|signal| 128 + signal);
    status.code().or(by_signal).unwrap_or(AGENT_FAILED.into()) as u8
}

/// PID 1, a pidfd of it, and the stream whose end would end it.
fn start(spec: &Spec, place: &Place) -> Result<(Child, OwnedFd, UnixStream), LaunchError> {
    let (control, theirs) = UnixStream::pair().map_err(LaunchError::Spawn)?;
    let mut init = spawn(place, theirs.into())?;
    let pidfd = pidfd_open(Pid::from_child(&init), PidfdFlags::empty());
    let told = write_message(&mut &control, spec)
        .and_then(|()| read_message(&mut BufReader::new(&control)));
    let error = match (told, pidfd) {
        (Ok(Some(FromInit::Started)), Ok(pidfd)) => return Ok((init, pidfd, control)),
        (Ok(Some(FromInit::Failed { status, message })), _) => {
            LaunchError::Failed { status, message }
        }
        (Ok(Some(FromInit::Started)), Err(error)) => LaunchError::Init(error.into()),
        (Ok(None), _) => LaunchError::Init(io::ErrorKind::UnexpectedEof.into()),
        (Err(error), _) => LaunchError::Init(error),
    };
    // It may live still; it must not any more.
    init.kill()
        .and_then(|()| init.wait())
        .map_err(LaunchError::Init)?;
    Err(error)
}

fn spawn(place: &Place, control: OwnedFd) -> Result<Child, LaunchError> {
    let procs = place.cgroup.join("cgroup.procs");
    let open = OpenOptions::new().write(true).open(&procs);
    let open = open.map_err(|error| LaunchError::Cgroup(procs, error))?;
    // Of this thread's children: the first one is PID 1.
    unshare(CloneFlags::CLONE_NEWPID).map_err(|error| LaunchError::Spawn(error.into()))?;
    let fd: RawFd = control.as_raw_fd();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("egress-agent")
        .args(["init", "--control-fd", &fd.to_string()])
        .env_clear();
    let namespace = place.namespace.as_ref().map(AsRawFd::as_raw_fd);
    // SAFETY: between fork and exec `enter` makes only system calls, allocates nothing and takes
    // no lock; the descriptors it uses are open in the parent until spawn has returned.
    unsafe { command.pre_exec(move || enter(open.as_raw_fd(), namespace, fd)) };
    command.spawn().map_err(LaunchError::Spawn)
}

/// In the child, before it is PID 1's program: cgroup first, so that the cgroup namespace begins
/// there, and all else; nothing but the control stream stays open for it.
fn enter(procs: RawFd, namespace: Option<RawFd>, control: RawFd) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // SAFETY: the caller holds these descriptors open.
    let (procs, control) = unsafe {
        use std::os::fd::BorrowedFd;
        (
            BorrowedFd::borrow_raw(procs),
            BorrowedFd::borrow_raw(control),
        )
    };
    // 0 stands for the writer itself (cgroup-v2.rst).
    rustix::io::write(procs, b"0")?;
    if let Some(namespace) = namespace {
        // SAFETY: the caller holds the descriptor open.
        let namespace = unsafe { std::os::fd::BorrowedFd::borrow_raw(namespace) };
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
    }
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWIPC)?;
    // SAFETY: takes no pointer, and closes nothing before exec.
    let closed =
        unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
    if closed != 0 {
        return Err(io::Error::last_os_error());
    }
    rustix::io::fcntl_setfd(control.as_fd(), rustix::io::FdFlags::empty())?;
    Ok(())
}
