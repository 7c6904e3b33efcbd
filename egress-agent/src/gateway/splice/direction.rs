//! One direction of a tunnel.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWriteExt, Interest, ReadBuf},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    task,
    time::{Instant, timeout},
};

use super::{End, Relayed, Splice, pipe::Pipe};

/// Bytes in one direction after which it is spliced.
const BULK_AFTER: u64 = 128 << 10;
/// Bytes that are moved at once by a direction that is bulk; one that moves fewer is copied, since
/// two calls of `splice(2)` cost more than a read and a write of so few.
const SMALL: usize = 16 << 10;
/// One read of a copy; one buffer per worker.
const COPY: usize = 64 << 10;
/// One read while much is stuck.
const COPY_STUCK: usize = 4 << 10;
/// Who takes nothing for so long is written to without a pipe, which others can use.
const STALL: Duration = Duration::from_secs(1);
/// Bytes of one worker that were read and that the other side has not taken, beyond which reads are
/// short.
const STUCK_MAX: usize = 32 << 20;

/// What a direction's failures mean.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub(super) reading: End,
    pub(super) writing: End,
}

/// Copies, and splices while it is bulk, until its end; then passes that on.
pub(super) async fn pump(
    from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    bytes: &Cell<u64>,
    relayed: &Relayed,
    moved: &Cell<Instant>,
    ends: Ends,
) -> Result<(), End> {
    let mut direction = Direction {
        from,
        bytes,
        relayed,
        moved,
        bulk: 0,
        ends,
    };
    loop {
        let ended = match direction.is_bulk() {
            true => {
                let readable = direction.from.as_ref().readable().await;
                readable.map_err(|_gone| ends.reading)?;
                match direction.pipe() {
                    Some(pipe) => direction.splice(&mut to, pipe).await?,
                    None => direction.copy(&mut to).await?,
                }
            }
            false => direction.copy(&mut to).await?,
        };
        if ended {
            return to.shutdown().await.map_err(|_closed| ends.writing);
        }
        task::consume_budget().await;
    }
}

struct Direction<'a> {
    from: ReadHalf<'a>,
    bytes: &'a Cell<u64>,
    relayed: &'a Relayed,
    /// When something last moved, either way.
    moved: &'a Cell<Instant>,
    /// Bytes since fewer than [`SMALL`] were moved at once.
    bulk: u64,
    ends: Ends,
}

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; COPY].into());
    static STUCK: Cell<usize> = const { Cell::new(0) };
}

impl Direction<'_> {
    fn account(&mut self, count: usize) {
        self.bytes.set(self.bytes.get() + count as u64);
        self.bulk += count as u64;
        self.moved.set(Instant::now());
    }

    /// Whether it is to be spliced.
    fn is_bulk(&self) -> bool {
        let is_refused = self.relayed.splice.get() == Some(Splice::Refused);
        self.bulk >= BULK_AFTER && !is_refused && STUCK.get() < STUCK_MAX
    }

    /// A pipe, where one is to be had.
    fn pipe(&self) -> Option<Pipe> {
        let pipe = Pipe::take();
        self.relayed.note(match pipe {
            Some(_) => Splice::Used,
            None => Splice::NoPipe,
        });
        pipe
    }

    /// One read and its write; whether the direction has ended. Only what the socket did not take at
    /// once is kept beyond the worker's buffer.
    async fn copy(&mut self, to: &mut WriteHalf<'_>) -> Result<bool, End> {
        let step = poll_fn(|context| self.poll_copy(to.as_ref(), context)).await?;
        let Step::Wrote(wrote, rest) = step else {
            return Ok(true);
        };
        if wrote + rest.len() < SMALL {
            self.bulk = 0;
        }
        self.account(wrote);
        self.write(to, rest).await?;
        Ok(false)
    }

    /// A read of tokio's own, which knows of one that does not fill the buffer that there is no more.
    fn poll_copy(&mut self, to: &TcpStream, context: &mut Context<'_>) -> Poll<Result<Step, End>> {
        let most = match STUCK.get() {
            ..STUCK_MAX => COPY,
            _ => COPY_STUCK,
        };
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(&mut buffer[..most]);
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

    /// What is left of a read, counted piece by piece.
    async fn write(&mut self, to: &mut WriteHalf<'_>, rest: Vec<u8>) -> Result<(), End> {
        if rest.is_empty() {
            return Ok(());
        }
        let _stuck = Stuck::new(rest.len());
        let mut rest = &rest[..];
        while !rest.is_empty() {
            let wrote = to.write(rest).await.map_err(|_gone| self.ends.writing)?;
            self.account(wrote);
            rest = &rest[wrote..];
        }
        Ok(())
    }

    /// Through the pipe until there is no more to read, or only little; whether the direction has
    /// ended.
    async fn splice(&mut self, to: &mut WriteHalf<'_>, mut pipe: Pipe) -> Result<bool, End> {
        loop {
            // The pipe is empty here, so "again" can only mean that nothing is there to read.
            let from = self.from.as_ref();
            let filled = match from.try_io(Interest::READABLE, || pipe.fill(from)) {
                Ok(0) => return Ok(true),
                Ok(filled) => filled,
                Err(error) if is_again(&error) => return Ok(false),
                Err(error) if is_refused(&error) => {
                    self.relayed.note(Splice::Refused);
                    return Ok(false);
                }
                Err(_gone) => return Err(self.ends.reading),
            };
            match self.drain(to.as_ref(), &mut pipe).await? {
                Drained::All => {}
                Drained::Stalled => {
                    let rest = pipe.empty().map_err(|_gone| self.ends.reading)?;
                    // Others may have it meanwhile.
                    drop(pipe);
                    self.write(to, rest).await?;
                    return Ok(false);
                }
            }
            if filled < SMALL {
                self.bulk = 0;
                return Ok(false);
            }
            // Both sockets may be ready for ever: the worker's others get their turn.
            task::consume_budget().await;
        }
    }

    async fn drain(&mut self, to: &TcpStream, pipe: &mut Pipe) -> Result<Drained, End> {
        while pipe.held() > 0 {
            // It is tried before it is waited for: mostly there is room.
            match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
                Ok(wrote) => self.account(wrote),
                // Apart, so that it takes no room in tunnels that never wait for it.
                Err(error) if is_again(&error) => {
                    match Box::pin(timeout(STALL, to.writable())).await {
                        Ok(writable) => writable.map_err(|_gone| self.ends.writing)?,
                        Err(_elapsed) => return Ok(Drained::Stalled),
                    }
                }
                Err(error) if is_refused(&error) => {
                    self.relayed.note(Splice::Refused);
                    return Ok(Drained::Stalled);
                }
                Err(_gone) => return Err(self.ends.writing),
            }
        }
        Ok(Drained::All)
    }
}

enum Drained {
    All,
    /// The rest is not taken, or not from a pipe.
    Stalled,
}

enum Step {
    End,
    /// Written, and left over.
    Wrote(usize, Vec<u8>),
}

/// Bytes that are stuck, until it is dropped.
struct Stuck(usize);

impl Stuck {
    fn new(count: usize) -> Self {
        STUCK.set(STUCK.get() + count);
        Self(count)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        // A task may be dropped with its thread, after the count.
        let done = STUCK.try_with(|stuck| stuck.set(stuck.get() - self.0));
        done.unwrap_or_default();
    }
}

fn is_again(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Whether it is `splice(2)` itself that is not to be had, for these sockets or at all.
fn is_refused(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP)
    )
}
