//! Pipes for `splice(2)`. A direction has one only from the read to the write, so that a few serve
//! any number of them; it keeps it while the other side takes nothing.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// 256 KiB pipes measured as good as 1 MiB, and 64 KiB ones not.
pub(crate) const PIPE: usize = 256 << 10;
/// Pipes of one worker. An unprivileged user has 64 MiB of them before the kernel shrinks them
/// (pipe-user-pages-soft): 256 of this size, for all of its workers.
pub(crate) const PIPES_MAX: usize = 96;
/// After the kernel refused one, how long nobody asks again.
const PAUSE: Duration = Duration::from_secs(1);

/// A pipe of the worker's; goes back when it is dropped empty.
pub(super) struct Pipe {
    ends: Option<(OwnedFd, OwnedFd)>,
    held: usize,
}

/// The pipes of one worker.
#[derive(Default)]
pub(super) struct Pool {
    pub(super) free: Vec<(OwnedFd, OwnedFd)>,
    pub(super) made: usize,
    refused: Option<Instant>,
}

thread_local! {
    pub(super) static POOL: RefCell<Pool> = RefCell::default();
}

impl Pipe {
    /// `None` where the worker has as many as it may, or the kernel gives none of this size: then a
    /// copy does as well.
    pub(super) fn take() -> Option<Self> {
        POOL.with_borrow_mut(Pool::take).map(|ends| Self {
            ends: Some(ends),
            held: 0,
        })
    }

    /// Bytes in it.
    pub(super) const fn held(&self) -> usize {
        self.held
    }

    /// Moves what a socket has, as far as there is room; how many bytes.
    pub(super) fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let (_, write) = self.ends.as_ref().expect("both ends are there until drop");
        let count = splice(from, None, write, None, PIPE, flags())?;
        self.held += count;
        Ok(count)
    }

    /// Moves what a socket takes; how many bytes.
    pub(super) fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let (read, _) = self.ends.as_ref().expect("both ends are there until drop");
        let count = splice(read, None, to, None, self.held, flags())?;
        self.held -= count;
        Ok(count)
    }

    /// Takes out what it holds, where it cannot be moved on.
    pub(super) fn empty(&mut self) -> io::Result<Vec<u8>> {
        let (read, _) = self.ends.as_ref().expect("both ends are there until drop");
        let mut bytes = vec![0; self.held];
        while self.held > 0 {
            let at = bytes.len() - self.held;
            match rustix::io::read(read, &mut bytes[at..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.held -= count,
            }
        }
        Ok(bytes)
    }
}

impl Pool {
    fn take(&mut self) -> Option<(OwnedFd, OwnedFd)> {
        if let Some(ends) = self.free.pop() {
            return Some(ends);
        }
        let waits = self.refused.is_some_and(|at| at.elapsed() < PAUSE);
        if waits || self.made >= PIPES_MAX {
            return None;
        }
        let ends = new_pipe();
        match ends {
            Some(_) => self.made += 1,
            None => self.refused = Some(Instant::now()),
        }
        ends
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
        let ends = self.ends.take();
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
