//! The two-way copy: plain reads and writes first, `splice(2)` through a pooled pipe once a
//! direction has proved bulk. Nothing is held for an idle tunnel but its sockets.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::{
    io::{AsyncRead, AsyncWriteExt, Interest, ReadBuf},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::{Instant, sleep_until},
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
/// Bytes that are moved at once by a direction that is bulk; one that moves fewer is copied, since
/// two calls of `splice(2)` cost more than a read and a write of so few.
const SMALL: usize = 16 << 10;

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

/// What a direction's failures mean.
#[derive(Clone, Copy)]
struct Ends {
    reading: End,
    writing: End,
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
    let sending = Ends {
        reading: End::Downstream,
        writing: End::Upstream,
    };
    let receiving = Ends {
        reading: End::Upstream,
        writing: End::Downstream,
    };
    // Each future once and nowhere else: whatever holds one before it is polled is room in every
    // tunnel.
    tokio::select! {
        result = async {
            tokio::try_join!(
                pump(down_read, up_write, &bytes.sent, &moved, sending),
                pump(up_read, down_write, &bytes.received, &moved, receiving),
            )
        } => result.map_or_else(|end| end, |_| End::Eof),
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
    ends: Ends,
) -> Result<(), End> {
    let mut direction = Direction {
        from,
        bytes,
        moved,
        bulk: 0,
        ends,
    };
    loop {
        let ended = match direction.bulk >= BULK_AFTER {
            true => {
                let readable = direction.from.as_ref().readable().await;
                readable.map_err(|_gone| ends.reading)?;
                match Pipe::take() {
                    Some(pipe) => direction.splice(to.as_ref(), pipe).await?,
                    None => direction.copy(&mut to).await?,
                }
            }
            false => direction.copy(&mut to).await?,
        };
        if ended {
            return to.shutdown().await.map_err(|_closed| ends.writing);
        }
    }
}

struct Direction<'a> {
    from: ReadHalf<'a>,
    bytes: &'a Cell<u64>,
    moved: &'a Cell<Instant>,
    /// Bytes since fewer than [`SMALL`] were moved at once.
    bulk: u64,
    ends: Ends,
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
    async fn copy(&mut self, to: &mut WriteHalf<'_>) -> Result<bool, End> {
        let step = poll_fn(|context| self.poll_copy(to.as_ref(), context)).await?;
        let Step::Wrote(wrote, rest) = step else {
            return Ok(true);
        };
        if wrote + rest.len() < SMALL {
            self.bulk = 0;
        }
        self.account(wrote);
        self.write(to, &rest).await?;
        Ok(false)
    }

    /// A read of tokio's own, which knows of one that does not fill the buffer that there is no more.
    fn poll_copy(&mut self, to: &TcpStream, context: &mut Context<'_>) -> Poll<Result<Step, End>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            let read = Pin::new(&mut self.from).poll_read(context, &mut buffer);
            if ready!(read).is_err() {
                return Poll::Ready(Err(self.ends.reading));
            }
            let data = buffer.filled();
            if data.is_empty() {
                return Poll::Ready(Ok(Step::End));
            }
            Poll::Ready(match to.try_write(data) {
                Ok(wrote) => Ok(Step::Wrote(wrote, data[wrote..].to_vec())),
                Err(error) if is_again(&error) => Ok(Step::Wrote(0, data.to_vec())),
                Err(_gone) => Err(self.ends.writing),
            })
        })
    }

    /// The rest of a read, counted piece by piece.
    async fn write(&mut self, to: &mut WriteHalf<'_>, mut rest: &[u8]) -> Result<(), End> {
        while !rest.is_empty() {
            let wrote = to.write(rest).await.map_err(|_gone| self.ends.writing)?;
            self.account(wrote);
            rest = &rest[wrote..];
        }
        Ok(())
    }

    /// Through the pipe until there is no more to read, or only little; whether the direction has
    /// ended.
    async fn splice(&mut self, to: &TcpStream, mut pipe: Pipe) -> Result<bool, End> {
        loop {
            // The pipe is empty here, so "again" can only mean that nothing is there to read.
            let from = self.from.as_ref();
            let filled = match from.try_io(Interest::READABLE, || pipe.fill(from)) {
                Ok(0) => return Ok(true),
                Ok(filled) => filled,
                Err(error) if is_again(&error) => return Ok(false),
                Err(_gone) => return Err(self.ends.reading),
            };
            while pipe.held > 0 {
                to.writable().await.map_err(|_gone| self.ends.writing)?;
                match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
                    Ok(wrote) => self.account(wrote),
                    Err(error) if is_again(&error) => {}
                    Err(_gone) => return Err(self.ends.writing),
                }
            }
            if filled < SMALL {
                self.bulk = 0;
                return Ok(false);
            }
        }
    }
}

enum Step {
    End,
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
