//! The two-way copy: plain reads and writes first, `splice(2)` through a pooled pipe once a
//! direction has proved bulk. Nothing is held for an idle tunnel but its sockets.

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::{Instant, sleep_until, timeout},
};

/// Bytes in one direction after which it is spliced.
const BULK_AFTER: u64 = 128 << 10;
/// One read of a copy; one buffer per worker.
const COPY: usize = 64 << 10;
/// 256 KiB pipes measured as good as 1 MiB, and 64 KiB ones not.
const PIPE: usize = 256 << 10;
/// Pipes of one worker. An unprivileged user has 64 MiB of them before the kernel shrinks them
/// (pipe-user-pages-soft): 256 of this size.
const PIPES_MAX: usize = 96;
/// A bulk direction that pauses this long gives its pipe back.
const PAUSE: Duration = Duration::from_millis(100);

/// Bytes that were written, kept current while the copy runs.
#[derive(Debug, Default)]
pub struct Bytes {
    /// To upstream.
    pub sent: Cell<u64>,
    /// To the endpoint.
    pub received: Cell<u64>,
}

/// How a copy ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides ended in order.
    Eof,
    /// The endpoint's side failed.
    Downstream,
    /// The outside failed.
    Upstream,
    /// Nothing moved for the idle time.
    Idle,
}

impl End {
    /// The stable name in close records.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Eof => "eof",
            Self::Downstream => "downstream_reset",
            Self::Upstream => "upstream_reset",
            Self::Idle => "idle_timeout",
        }
    }
}

/// Which end of a direction failed.
enum Failed {
    Reading,
    Writing,
}

/// Copies both ways until both have ended, one fails, or nothing moves for `idle`. The end of
/// one direction is passed on and the other goes on. Cancelling it loses nothing but bytes that
/// are under way.
pub async fn copy_both(
    downstream: &mut TcpStream,
    upstream: &mut TcpStream,
    bytes: &Bytes,
    idle: Duration,
) -> End {
    let moved = Cell::new(Instant::now());
    let (down_read, down_write) = downstream.split();
    let (up_read, up_write) = upstream.split();
    let send = pump(down_read, up_write, &bytes.sent, &moved);
    let receive = pump(up_read, down_write, &bytes.received, &moved);
    let both = async {
        tokio::try_join!(
            async {
                send.await.map_err(|failed| match failed {
                    Failed::Reading => End::Downstream,
                    Failed::Writing => End::Upstream,
                })
            },
            async {
                receive.await.map_err(|failed| match failed {
                    Failed::Reading => End::Upstream,
                    Failed::Writing => End::Downstream,
                })
            },
        )
    };
    tokio::select! {
        result = both => result.map_or_else(|end| end, |_| End::Eof),
        () = idle_for(&moved, idle) => End::Idle,
    }
}

/// Returns once nothing has moved for `idle`.
pub(super) async fn idle_for(moved: &Cell<Instant>, idle: Duration) {
    loop {
        let until = moved.get() + idle;
        if until <= Instant::now() {
            return;
        }
        sleep_until(until).await;
    }
}

async fn pump(
    from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    bytes: &Cell<u64>,
    moved: &Cell<Instant>,
) -> Result<(), Failed> {
    let mut direction = Direction {
        from: from.as_ref(),
        bytes,
        moved,
        bulk: 0,
    };
    loop {
        let ended = match direction.bulk >= BULK_AFTER {
            true => match Pipe::take() {
                Some(pipe) => direction.splice(to.as_ref(), pipe).await?,
                None => direction.copy(&mut to).await?,
            },
            false => direction.copy(&mut to).await?,
        };
        if ended {
            return to.shutdown().await.map_err(|_closed| Failed::Writing);
        }
    }
}

struct Direction<'a> {
    from: &'a TcpStream,
    bytes: &'a Cell<u64>,
    moved: &'a Cell<Instant>,
    /// Bytes since the direction last paused while it was bulk.
    bulk: u64,
}

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; COPY].into());
}

impl Direction<'_> {
    fn account(&mut self, count: usize) {
        self.bytes.set(self.bytes.get() + count as u64);
        self.bulk += count as u64;
        self.moved.set(Instant::now());
    }

    /// One read and its write; whether the direction has ended. Only what the socket did not
    /// take at once is kept beyond the worker's buffer.
    async fn copy(&mut self, to: &mut WriteHalf<'_>) -> Result<bool, Failed> {
        self.from
            .readable()
            .await
            .map_err(|_gone| Failed::Reading)?;
        let step = BUFFER.with_borrow_mut(|buffer| {
            let read = match self.from.try_read(buffer) {
                Ok(read) => read,
                Err(error) if is_again(&error) => return Ok(Step::Again),
                Err(_gone) => return Err(Failed::Reading),
            };
            let data = &buffer[..read];
            match to.try_write(data) {
                _ if read == 0 => Ok(Step::End),
                Ok(wrote) => Ok(Step::Wrote(wrote, data[wrote..].to_vec())),
                Err(error) if is_again(&error) => Ok(Step::Wrote(0, data.to_vec())),
                Err(_gone) => Err(Failed::Writing),
            }
        })?;
        match step {
            Step::End => return Ok(true),
            Step::Again => {}
            Step::Wrote(wrote, rest) => {
                self.account(wrote);
                self.write(to, &rest).await?;
            }
        }
        Ok(false)
    }

    /// The rest of a read, counted piece by piece.
    async fn write(&mut self, to: &mut WriteHalf<'_>, mut rest: &[u8]) -> Result<(), Failed> {
        while !rest.is_empty() {
            let wrote = to.write(rest).await.map_err(|_gone| Failed::Writing)?;
            self.account(wrote);
            rest = &rest[wrote..];
        }
        Ok(())
    }

    /// Through the pipe until the direction pauses or ends; whether it has ended.
    async fn splice(&mut self, to: &TcpStream, mut pipe: Pipe) -> Result<bool, Failed> {
        loop {
            // The pipe is empty here, so "again" can only mean that nothing is there to read.
            match timeout(PAUSE, self.from.readable()).await {
                Ok(ready) => ready.map_err(|_gone| Failed::Reading)?,
                Err(_elapsed) => {
                    self.bulk = 0;
                    return Ok(false);
                }
            }
            match self
                .from
                .try_io(Interest::READABLE, || pipe.fill(self.from))
            {
                Ok(0) => return Ok(true),
                Ok(_) => {}
                Err(error) if is_again(&error) => continue,
                Err(_gone) => return Err(Failed::Reading),
            }
            while pipe.held > 0 {
                to.writable().await.map_err(|_gone| Failed::Writing)?;
                match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
                    Ok(wrote) => self.account(wrote),
                    Err(error) if is_again(&error) => {}
                    Err(_gone) => return Err(Failed::Writing),
                }
            }
        }
    }
}

enum Step {
    End,
    Again,
    /// Written, and left over.
    Wrote(usize, Vec<u8>),
}

fn is_again(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// A pipe of the worker's pool; goes back when it is dropped empty.
struct Pipe {
    read: Option<OwnedFd>,
    write: Option<OwnedFd>,
    held: usize,
}

#[derive(Default)]
struct Pool {
    free: Vec<(OwnedFd, OwnedFd)>,
    made: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

impl Pipe {
    /// `None` where the worker has as many as it may, or the kernel gives none of this size:
    /// then a copy does as well.
    fn take() -> Option<Self> {
        POOL.with_borrow_mut(|pool| {
            let ends = pool.free.pop();
            let (read, write) = match ends {
                Some(ends) => ends,
                None if pool.made < PIPES_MAX => {
                    let ends = new_pipe()?;
                    pool.made += 1;
                    ends
                }
                None => return None,
            };
            Some(Self {
                read: Some(read),
                write: Some(write),
                held: 0,
            })
        })
    }

    fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        let write = self.write.as_ref().expect("both ends are there until drop");
        let count = splice(from.as_fd(), None, write, None, PIPE, flags())?;
        self.held += count;
        Ok(count)
    }

    fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let read = self.read.as_ref().expect("both ends are there until drop");
        let count = splice(read, None, to.as_fd(), None, self.held, flags())?;
        self.held -= count;
        Ok(count)
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}

fn new_pipe() -> Option<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
    fcntl_setpipe_size(&write, PIPE).ok()?;
    Some((read, write))
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let ends = self.read.take().zip(self.write.take());
        // Not `with_borrow_mut`: a task may be dropped with its thread, after the pool. Then the
        // ends close by themselves.
        let done = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            match ends {
                Some(ends) if self.held == 0 => pool.free.push(ends),
                Some(_) | None => pool.made -= 1,
            }
        });
        done.unwrap_or_default();
    }
}

#[cfg(test)]
mod tests;
