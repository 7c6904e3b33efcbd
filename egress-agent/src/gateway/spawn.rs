//! The enforcer's side: starts the gateway as an unprivileged child and talks to it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    os::unix::net::UnixStream as StdUnixStream,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{ExitStatus, Stdio},
};

use thiserror::Error;
use tokio::{
    io::BufReader,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, Command},
};

use super::protocol::{
    ControlError, FROM_GATEWAY_MAX, FromGateway, ToGateway, read_message, write_message,
};

pub mod confine;

/// How to start the gateway.
#[derive(Clone, Debug)]
pub struct SpawnOptions {
    /// The binary: `/proc/self/exe`. Others must be allowed to execute it.
    pub executable: PathBuf,
    /// An existing cgroup v2 directory; the child is in it before it makes a socket.
    pub cgroup: PathBuf,
    /// Not 0.
    pub uid: u32,
    /// Not 0.
    pub gid: u32,
    /// How many descriptors it is to be able to have; it gets what there are where that is less.
    pub descriptors: u64,
    /// Descriptors that it keeps, under the same numbers, beside its control stream.
    pub inherited: Vec<RawFd>,
}

/// Why the gateway was not started.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// It would have been root.
    #[error("the gateway must not run as root; configure a user and group id other than 0")]
    Root,
    /// The cgroup.
    #[error(
        "{path}: cannot put the gateway into this cgroup: {error}; check that it is a cgroup v2 directory"
    )]
    Cgroup {
        /// Its cgroup.procs.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The control stream.
    #[error("cannot make the gateway's control stream: {0}")]
    Control(#[source] io::Error),
    /// The process, or one of the steps that take its privileges away.
    #[error(
        "{path}: cannot start the gateway: {error}; it needs root, and a binary that others may execute"
    )]
    Process {
        /// The binary.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// A running gateway. Dropped, it is killed.
#[derive(Debug)]
pub struct GatewayProcess {
    /// Messages to it.
    pub sender: ControlSender,
    /// Messages from it.
    pub receiver: ControlReceiver,
    /// The process.
    pub process: GatewayChild,
}

/// The way to the gateway.
#[derive(Debug)]
pub struct ControlSender(OwnedWriteHalf);

/// The way from the gateway.
#[derive(Debug)]
pub struct ControlReceiver(BufReader<OwnedReadHalf>);

/// The gateway's process.
#[derive(Debug)]
pub struct GatewayChild(Child);

/// Starts the gateway, confined: see [`confine`]. It says nothing until `Configure` was sent.
/// The child dies with the thread that calls this: call it on one that lasts, the main thread
/// for instance.
///
/// # Errors
/// The process cannot be started or not be confined; then there is none.
pub fn spawn(options: &SpawnOptions) -> Result<GatewayProcess, SpawnError> {
    if options.uid == 0 || options.gid == 0 {
        return Err(SpawnError::Root);
    }
    let procs = open_procs(options)?;
    let (ours, theirs) = StdUnixStream::pair().map_err(SpawnError::Control)?;
    ours.set_nonblocking(true).map_err(SpawnError::Control)?;
    let theirs = OwnedFd::from(theirs);
    let stream = UnixStream::from_std(ours).map_err(SpawnError::Control)?;
    let child = command(options, &theirs, &procs)
        .spawn()
        .map_err(|error| SpawnError::Process {
            path: options.executable.clone(),
            error,
        })?;
    let (read, write) = stream.into_split();
    Ok(GatewayProcess {
        sender: ControlSender(write),
        receiver: ControlReceiver(BufReader::new(read)),
        process: GatewayChild(child),
    })
}

fn open_procs(options: &SpawnOptions) -> Result<File, SpawnError> {
    let path = options.cgroup.join("cgroup.procs");
    let open = OpenOptions::new().write(true).open(&path);
    open.map_err(|error| SpawnError::Cgroup { path, error })
}

fn command(options: &SpawnOptions, control: &OwnedFd, procs: &File) -> Command {
    let control: RawFd = control.as_raw_fd();
    let mut command = std::process::Command::new(&options.executable);
    command
        .arg0("egress-agent")
        .args(["gateway", "--control-fd", &control.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .current_dir("/")
        .env_clear()
        .envs(
            std::env::vars_os().filter(|(name, _)| name == "RUST_LOG" || name == "RUST_BACKTRACE"),
        );
    let confinement = confine::Confinement {
        parent: std::process::id(),
        procs: procs.as_raw_fd(),
        control,
        uid: options.uid,
        gid: options.gid,
        descriptors: options.descriptors,
    };
    let inherited = options.inherited.clone();
    // SAFETY: between fork and exec `apply` makes only system calls, allocates nothing and takes
    // no lock; the descriptors it uses are open in the parent until spawn has returned.
    unsafe { command.pre_exec(move || confinement.apply(&inherited)) };
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    command
}

impl ControlSender {
    /// Sends one message.
    ///
    /// # Errors
    /// The gateway has gone.
    pub async fn send(&mut self, message: &ToGateway) -> Result<(), ControlError> {
        write_message(&mut self.0, message).await
    }
}

impl ControlReceiver {
    /// The next message; `None` when the gateway has gone. Not to be cancelled half-way: give
    /// it a task of its own.
    ///
    /// # Errors
    /// The gateway sent what is no message: it is not to be trusted any more.
    pub async fn receive(&mut self) -> Result<Option<FromGateway>, ControlError> {
        read_message(&mut self.0, FROM_GATEWAY_MAX).await
    }
}

impl GatewayChild {
    /// Its process id; `None` once it was waited for.
    pub fn id(&self) -> Option<u32> {
        self.0.id()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait().await
    }

    /// Kills it and waits for its end.
    ///
    /// # Errors
    /// It cannot be killed.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.0.kill().await
    }
}
