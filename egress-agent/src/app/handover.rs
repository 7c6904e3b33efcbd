//! One agent takes an instance over from another: what they say to each other, over a Unix stream
//! that only root can reach, one JSON message a line.

use std::{fs, io, os::fd::OwnedFd, path::PathBuf, time::Duration};

use egress_common::ABI_VERSION;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use crate::app::lock;

/// How long either may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the one that takes over may get ready; its predecessor works as ever meanwhile.
const LOADING: Duration = Duration::from_secs(60);
/// How long accepting pauses when descriptors are short.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);
/// A message is shorter: a number for each reason of each endpoint.
const LONGEST: usize = 8 << 20;

/// The agent that takes over, to the one that runs.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum FromNew {
    /// May I?
    Asks {
        /// [`ABI_VERSION`].
        abi: u32,
    },
    /// The programs are loaded; whatever comes now changes something.
    TakesOver,
    /// All is attached, and the new gateway serves.
    Ready,
}

/// The agent that runs, to the one that takes over.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum FromOld {
    /// It will hand over, and works as ever until it does.
    Agrees,
    /// From now on it writes nothing, and mends nothing.
    HandsOver(Handed),
    /// It goes on by itself.
    Refuses {
        /// [`ABI_VERSION`].
        abi: u32,
    },
    /// It has told what there was to tell, and let go of the lock.
    Left,
}

/// What the one that takes over has to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Handed {
    /// The generation of the policy.
    pub generation: u32,
    /// The process id of its gateway.
    pub gateway: u32,
    /// By endpoint and reason, how many attempts to many destinations it has told of.
    pub told: Vec<(u32, u8, u64)>,
}

/// There is no hand-over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The socket.
    #[error("{path}: {source}")]
    Socket {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is pinned cannot be adopted.
    #[error(
        "the running agent has ABI {theirs}, this one {ABI_VERSION}: what it has pinned cannot be taken over; stop it, which leaves its pins enforcing, start this one, and then remove the folder v{theirs} of its pins"
    )]
    Abi {
        /// The other's.
        theirs: u32,
    },
    /// The other does not answer, or not so.
    #[error("the other agent {0}; it goes on as before")]
    Broken(String),
}

fn path(instance: &str) -> PathBuf {
    lock::folder().join(format!("{instance}.sock"))
}

/// A stream of messages.
#[derive(Debug)]
struct Messages {
    stream: BufReader<UnixStream>,
    /// What has come of the next one: waiting for it may be broken off.
    begun: Vec<u8>,
}

impl Messages {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream: BufReader::new(stream),
            begun: Vec::new(),
        }
    }

    async fn send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let stream = self.stream.get_mut();
        timeout(ANSWER, stream.write_all(&line)).await?
    }

    /// The next one; an error where the other has gone.
    async fn receive<T: for<'a> Deserialize<'a>>(&mut self) -> io::Result<T> {
        loop {
            let chunk = self.stream.fill_buf().await?;
            if chunk.is_empty() || self.begun.len() > LONGEST {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let take = end.map_or(chunk.len(), |end| end + 1);
            self.begun.extend_from_slice(&chunk[..take]);
            self.stream.consume(take);
            if end.is_some() {
                let line = std::mem::take(&mut self.begun);
                return Ok(serde_json::from_slice(&line)?);
            }
        }
    }

    async fn soon<T: for<'a> Deserialize<'a>>(&mut self) -> io::Result<T> {
        timeout(ANSWER, self.receive()).await?
    }
}

/// Where the running agent can be asked.
#[derive(Debug)]
pub struct Door {
    asked: mpsc::Receiver<Successor>,
    task: JoinHandle<()>,
    path: PathBuf,
}

/// Somebody who takes over.
#[derive(Debug)]
pub struct Successor {
    messages: Messages,
    process: OwnedFd,
}

impl Door {
    /// Opens it; there is one, since its agent has the instance's lock.
    ///
    /// # Errors
    /// There can be no socket.
    pub fn open(instance: &str) -> Result<Self, HandoverError> {
        let path = path(instance);
        let failed = |source| HandoverError::Socket {
            path: path.clone(),
            source,
        };
        drop(fs::remove_file(&path));
        // Nobody else may reach it, from its first moment.
        let before = rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(&path);
        rustix::process::umask(before);
        let (ask, asked) = mpsc::channel(1);
        let task = tokio::spawn(listen(listener.map_err(failed)?, ask));
        Ok(Self { asked, task, path })
    }

    /// Waits for somebody who may take over and can.
    pub async fn next(&mut self) -> Successor {
        match self.asked.recv().await {
            Some(successor) => successor,
            None => std::future::pending().await,
        }
    }

    /// Closes it for good.
    pub fn close(self) {
        self.task.abort();
        drop(fs::remove_file(&self.path));
    }
}

/// Removes what an agent that was killed has left of its own.
pub fn forget(instance: &str) {
    drop(fs::remove_file(path(instance)));
}

/// A task of its own, and one for whoever asks, since a question is read over several steps.
async fn listen(listener: UnixListener, ask: mpsc::Sender<Successor>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(SHORTAGE_PAUSE).await;
            continue;
        };
        let ask = ask.clone();
        tokio::spawn(async move {
            match asked(stream).await {
                // Where nobody listens any more, another one has taken over.
                Ok(successor) => drop(ask.send(successor).await),
                Err(error) => tracing::debug!("somebody asked, and took nothing over: {error}"),
            }
        });
    }
}

/// Somebody who may take over, once all is ready for that. Whoever cannot is told why not.
async fn asked(stream: UnixStream) -> io::Result<Successor> {
    let process = of_root(&stream)?;
    let mut messages = Messages::new(stream);
    match messages.soon().await? {
        FromNew::Asks { abi: ABI_VERSION } => messages.send(&FromOld::Agrees).await?,
        FromNew::Asks { .. } => {
            let refusal = FromOld::Refuses { abi: ABI_VERSION };
            messages.send(&refusal).await?;
            return Err(io::ErrorKind::Unsupported.into());
        }
        FromNew::TakesOver | FromNew::Ready => return Err(io::ErrorKind::InvalidData.into()),
    }
    match timeout(LOADING, messages.receive()).await?? {
        FromNew::TakesOver => Ok(Successor { messages, process }),
        FromNew::Asks { .. } | FromNew::Ready => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The process at the other end, which must be root's.
fn of_root(stream: &UnixStream) -> io::Result<OwnedFd> {
    let peer = stream.peer_cred()?;
    if peer.uid() != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let pid = peer.pid().and_then(Pid::from_raw);
    Ok(pidfd_open(
        pid.ok_or(io::ErrorKind::NotFound)?,
        PidfdFlags::empty(),
    )?)
}

impl Successor {
    /// Says what it has to know.
    ///
    /// # Errors
    /// It has gone.
    pub async fn hand(&mut self, handed: Handed) -> io::Result<()> {
        self.messages.send(&FromOld::HandsOver(handed)).await
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// It has gone, or speaks nonsense.
    pub async fn is_ready(&mut self) -> io::Result<()> {
        match self.messages.receive().await? {
            FromNew::Ready => Ok(()),
            FromNew::Asks { .. } | FromNew::TakesOver => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Whether it still waits for this agent to leave.
    pub async fn waits(&mut self) -> bool {
        let said = timeout(Duration::ZERO, self.messages.receive::<FromNew>());
        said.await.is_err()
    }

    /// Says that this agent has left.
    pub async fn left(&mut self) {
        // Gone or not, it is its instance now.
        drop(self.messages.send(&FromOld::Left).await);
    }

    /// Ends it, stopped or not, and waits until it writes nothing any more.
    pub async fn end(mut self) {
        if let Err(error) = pidfd_send_signal(&self.process, Signal::KILL) {
            tracing::debug!("the other agent has ended already: {error}");
        }
        // The stream closes with it.
        let closed = async { while self.messages.receive::<FromNew>().await.is_ok() {} };
        drop(timeout(ANSWER, closed).await);
    }
}

/// The agent that runs.
#[derive(Debug)]
pub struct Predecessor(Messages);

impl Predecessor {
    /// Asks the agent that runs an instance whether it would hand over; `None` where there is none.
    ///
    /// # Errors
    /// It refuses, or does not answer.
    pub async fn ask(instance: &str) -> Result<Option<Self>, HandoverError> {
        let Ok(stream) = UnixStream::connect(path(instance)).await else {
            return Ok(None);
        };
        of_root(&stream).map_err(unanswered)?;
        let mut other = Self(Messages::new(stream));
        match other.tell(&FromNew::Asks { abi: ABI_VERSION }).await? {
            FromOld::Agrees => Ok(Some(other)),
            FromOld::Refuses { abi } => Err(HandoverError::Abi { theirs: abi }),
            FromOld::HandsOver(_) | FromOld::Left => Err(unexpected()),
        }
    }

    /// Has it hand over: from now on only this agent writes.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn take_over(&mut self) -> Result<Handed, HandoverError> {
        match self.tell(&FromNew::TakesOver).await? {
            FromOld::HandsOver(handed) => Ok(handed),
            FromOld::Agrees | FromOld::Refuses { .. } | FromOld::Left => Err(unexpected()),
        }
    }

    async fn tell(&mut self, message: &FromNew) -> Result<FromOld, HandoverError> {
        self.0.send(message).await.map_err(unanswered)?;
        self.0.soon().await.map_err(unanswered)
    }

    /// Has it leave, now that its successor serves. That it has died is as good.
    ///
    /// # Errors
    /// It does not leave.
    pub async fn relieve(mut self) -> Result<(), HandoverError> {
        if self.0.send(&FromNew::Ready).await.is_err() {
            return Ok(());
        }
        match self.0.soon::<FromOld>().await {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(HandoverError::Broken("does not leave".into()))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

fn unanswered(error: io::Error) -> HandoverError {
    HandoverError::Broken(format!("does not answer ({error})"))
}

fn unexpected() -> HandoverError {
    HandoverError::Broken("answers something else".into())
}
