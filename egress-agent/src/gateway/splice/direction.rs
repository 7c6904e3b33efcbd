//! One direction of a tunnel.

use std::{
    cell::{Cell, RefCell},
    io,
    time::Duration,
};

use tokio::{
    io::{AsyncWriteExt, Interest},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    task,
    time::{Instant, timeout},
};

use super::{Relayed, Splice, pipe::Pipe};

/// Bytes in one direction after which it is spliced.
const BULK_AFTER: u64 = 128 << 10;
/// A direction that pauses this long is no bulk any more.
const PAUSE: Duration = Duration::from_millis(100);
/// One read of a copy; one buffer per worker.
const COPY: usize = 64 << 10;
/// One read while much is stuck.
const COPY_STUCK: usize = 4 << 10;
/// Who takes nothing for so long is written to without a pipe, which others can use.
const STALL: Duration = Duration::from_secs(1);
/// Bytes of one worker that were read and that the other side has not taken, beyond which reads are
/// short.
const STUCK_MAX: usize = 32 << 20;

/// Which end of a direction failed.
pub(super) enum Failed {
    Reading,
    Writing,
}

/// Copies, and splices while it is bulk, until its end; then passes that on.
pub(super) async fn pump(
    from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    bytes: &Cell<u64>,
    relayed: &Relayed,
    moved: &Cell<Instant>,
) -> Result<(), Failed> {
    let mut direction = Direction {
        from: from.as_ref(),
        bytes,
        relayed,
        moved,
        bulk: 0,
        last: Instant::now(),
    };
    loop {
        from.readable().await.map_err(|_gone| Failed::Reading)?;
        let ended = match direction.pipe() {
            Some(pipe) => direction.splice(&mut to, pipe).await?,
            None => direction.copy(&mut to).await?,
        };
        if ended {
            return to.shutdown().await.map_err(|_closed| Failed::Writing);
        }
        // Both sockets may be ready for ever: the worker's others get their turn.
        task::consume_budget().await;
    }
}

struct Direction<'a> {
    from: &'a TcpStream,
    bytes: &'a Cell<u64>,
    relayed: &'a Relayed,
    /// When something last moved, either way.
    moved: &'a Cell<Instant>,
    /// Bytes since the direction last paused.
    bulk: u64,
    /// When it last moved something.
    last: Instant,
}

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; COPY].into());
    static STUCK: Cell<usize> = const { Cell::new(0) };
}

impl Direction<'_> {
    fn account(&mut self, count: usize) {
        let now = Instant::now();
        if now - self.last > PAUSE {
            self.bulk = 0;
        }
        self.bytes.set(self.bytes.get() + count as u64);
        self.bulk += count as u64;
        self.last = now;
        self.moved.set(now);
    }

    /// A pipe, where the direction is bulk and one is to be had.
    fn pipe(&self) -> Option<Pipe> {
        let is_refused = self.relayed.splice.get() == Some(Splice::Refused);
        if self.bulk < BULK_AFTER || is_refused || STUCK.get() >= STUCK_MAX {
            return None;
        }
        let pipe = Pipe::take();
        self.relayed.note(match pipe {
            Some(_) => Splice::Used,
            None => Splice::NoPipe,
        });
        pipe
    }

    /// One read and its write; whether the direction has ended. Only what the socket did not take at
    /// once is kept beyond the worker's buffer.
    async fn copy(&mut self, to: &mut WriteHalf<'_>) -> Result<bool, Failed> {
        let most = match STUCK.get() {
            ..STUCK_MAX => COPY,
            _ => COPY_STUCK,
        };
        let step = BUFFER.with_borrow_mut(|buffer| {
            let read = match self.from.try_read(&mut buffer[..most]) {
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
                self.write(to, rest).await?;
            }
        }
        Ok(false)
    }

    /// What is left of a read, counted piece by piece.
    async fn write(&mut self, to: &mut WriteHalf<'_>, rest: Vec<u8>) -> Result<(), Failed> {
        if rest.is_empty() {
            return Ok(());
        }
        let _stuck = Stuck::new(rest.len());
        let mut rest = &rest[..];
        while !rest.is_empty() {
            let wrote = to.write(rest).await.map_err(|_gone| Failed::Writing)?;
            self.account(wrote);
            rest = &rest[wrote..];
        }
        Ok(())
    }

    /// One read through the pipe and its writes; whether the direction has ended.
    async fn splice(&mut self, to: &mut WriteHalf<'_>, mut pipe: Pipe) -> Result<bool, Failed> {
        let filled = self
            .from
            .try_io(Interest::READABLE, || pipe.fill(self.from));
        match filled {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if is_again(&error) => return Ok(false),
            Err(error) if is_refused(&error) => {
                self.relayed.note(Splice::Refused);
                return Ok(false);
            }
            Err(_gone) => return Err(Failed::Reading),
        }
        match self.drain(to.as_ref(), &mut pipe).await? {
            Drained::All => {}
            Drained::Stalled => {
                let rest = pipe.empty().map_err(|_gone| Failed::Reading)?;
                // Others may have it meanwhile.
                drop(pipe);
                self.write(to, rest).await?;
            }
        }
        Ok(false)
    }

    async fn drain(&mut self, to: &TcpStream, pipe: &mut Pipe) -> Result<Drained, Failed> {
        while pipe.held() > 0 {
            // It is tried before it is waited for: mostly there is room.
            match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
                Ok(wrote) => self.account(wrote),
                Err(error) if is_again(&error) => match timeout(STALL, to.writable()).await {
                    Ok(writable) => writable.map_err(|_gone| Failed::Writing)?,
                    Err(_elapsed) => return Ok(Drained::Stalled),
                },
                Err(error) if is_refused(&error) => {
                    self.relayed.note(Splice::Refused);
                    return Ok(Drained::Stalled);
                }
                Err(_gone) => return Err(Failed::Writing),
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
    Again,
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
