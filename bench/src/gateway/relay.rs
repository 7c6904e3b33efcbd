//! The bare relay, a program of its own: reads the server name and asks nobody, then copies or, once a
//! direction is bulk, splices. It is what a relay costs at least, and decides nothing but that names
//! that begin with `denied` are closed.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    thread,
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown, SocketFlags, accept_with, recv, send, shutdown},
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};

use super::{
    poll::{Happened, Poll},
    server_name::server_name,
    wire,
};

/// Bytes in one direction after which it is spliced.
const BULK_AFTER: u64 = 128 << 10;
/// Bytes of one read.
const COPY: usize = 64 << 10;
/// Bytes of a pipe.
const PIPE: usize = 1 << 20;
/// Seconds after which a silent connection is accepted all the same.
const DEFER: i32 = 1;
/// Of the listener among events.
const LISTENER: u64 = u64::MAX;

/// What it is told.
#[derive(Args)]
pub(crate) struct Relay {
    /// Where it listens
    listen: SocketAddr,
    /// Where everything goes
    upstream: SocketAddr,
    /// How
    #[arg(value_enum)]
    way: Way,
    /// Threads
    workers: usize,
}

#[cfg(test)]
impl Relay {
    /// With one thread.
    pub(super) fn new(listen: SocketAddr, upstream: SocketAddr, way: Way) -> Self {
        Self {
            listen,
            upstream,
            way,
            workers: 1,
        }
    }
}

/// How bytes are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// Read and written.
    Copy,
    /// The same, and spliced once a direction is bulk.
    Splice,
}

/// Relays until it is killed.
///
/// # Errors
/// It cannot listen.
pub(crate) fn run(relay: &Relay) -> Result<()> {
    let workers = (0..relay.workers.max(1)).map(|_| Worker::new(relay));
    let workers: Vec<Worker> = workers.collect::<Result<_>>()?;
    thread::scope(|scope| {
        for mut worker in workers {
            scope.spawn(move || {
                if let Err(error) = worker.serve() {
                    eprintln!("a worker ended: {error}");
                    std::process::exit(1);
                }
            });
        }
    });
    Ok(())
}

struct Worker {
    listener: TcpListener,
    upstream: SocketAddr,
    way: Way,
    poll: Poll,
    relayed: HashMap<u64, Relayed>,
    next: u64,
    means: Means,
}

/// What all directions of a worker share.
struct Means {
    buffer: Vec<u8>,
    pipes: Vec<(OwnedFd, OwnedFd)>,
}

/// One connection; its ends are among events as twice its number, the upstream's one more.
struct Relayed {
    down: OwnedFd,
    up: Option<OwnedFd>,
    /// Of a hello that is not complete.
    hello: Vec<u8>,
    sent: Flow,
    received: Flow,
}

/// One direction.
#[derive(Default)]
struct Flow {
    readable: bool,
    writable: bool,
    /// The reader's peer has ended, so what is there must be read to its end.
    ending: bool,
    /// There is no more to read.
    ended: bool,
    /// The end was passed on.
    over: bool,
    bytes: u64,
    rest: Vec<u8>,
    pipe: Option<(OwnedFd, OwnedFd)>,
    in_pipe: usize,
}

impl Worker {
    fn new(relay: &Relay) -> Result<Self> {
        let listener = wire::listener(relay.listen)?;
        wire::defer_accept(&listener, DEFER)?;
        let poll = Poll::new()?;
        poll.add_listener(&listener, LISTENER)?;
        Ok(Self {
            listener,
            upstream: relay.upstream,
            way: relay.way,
            poll,
            relayed: HashMap::new(),
            next: 0,
            means: Means {
                buffer: vec![0; COPY],
                pipes: Vec::new(),
            },
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut happened = Vec::new();
        loop {
            self.poll.wait(None, &mut happened)?;
            for it in &happened {
                match it.number {
                    LISTENER => self.accept(),
                    _ => self.advance(it),
                }
            }
        }
    }

    fn accept(&mut self) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        while let Ok(down) = accept_with(&self.listener, flags) {
            let number = self.next;
            self.next += 1;
            let mut relayed = Relayed {
                down,
                up: None,
                hello: Vec::new(),
                sent: Flow::default(),
                received: Flow::default(),
            };
            // What waits to be accepted has said something.
            let goes_on = self.begin(&mut relayed, number);
            let added = goes_on && self.poll.add(&relayed.down, number << 1).is_ok();
            if added {
                self.relayed.insert(number, relayed);
            }
        }
    }

    /// Reads the hello and dials once it is complete; whether the connection goes on.
    fn begin(&mut self, relayed: &mut Relayed, number: u64) -> bool {
        match recv(&relayed.down, &mut self.means.buffer, RecvFlags::empty()) {
            Ok((0, _)) => return false,
            Ok((count, _)) => relayed.hello.extend(&self.means.buffer[..count]),
            Err(error) => return wire::is_again(error),
        }
        if wire::record(&relayed.hello).is_none() {
            return true;
        }
        match server_name(&relayed.hello) {
            Some(name) if !name.starts_with(b"denied") => {}
            Some(_) | None => return false,
        }
        let Ok(up) = wire::dial(self.upstream) else {
            return false;
        };
        if self.poll.add(&up, number << 1 | 1).is_err() {
            return false;
        }
        relayed.up = Some(up);
        relayed.sent.rest = std::mem::take(&mut relayed.hello);
        true
    }

    fn advance(&mut self, it: &Happened) {
        let number = it.number >> 1;
        let Some(mut relayed) = self.relayed.remove(&number) else {
            return;
        };
        relayed.note(it);
        let goes_on = match relayed.up {
            None => !it.readable || self.begin(&mut relayed, number),
            Some(_) => matches!(relayed.advance(self.way, &mut self.means), Ok(true)),
        };
        if goes_on {
            self.relayed.insert(number, relayed);
        }
    }
}

impl Relayed {
    fn note(&mut self, it: &Happened) {
        let (from, to) = match it.number & 1 {
            0 => (&mut self.sent, &mut self.received),
            _ => (&mut self.received, &mut self.sent),
        };
        from.readable |= it.readable;
        from.ending |= it.ended;
        to.writable |= it.writable;
    }

    /// Moves what can be moved; whether there may be more.
    fn advance(&mut self, way: Way, means: &mut Means) -> Result<bool, Errno> {
        let Some(up) = &self.up else {
            return Ok(true);
        };
        self.sent.advance(&self.down, up, way, means)?;
        self.received.advance(up, &self.down, way, means)?;
        Ok(!(self.sent.over && self.received.over))
    }
}

impl Flow {
    fn advance(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        way: Way,
        means: &mut Means,
    ) -> Result<(), Errno> {
        loop {
            let moved = if !self.rest.is_empty() {
                self.writable && self.write_rest(to)?
            } else if self.in_pipe > 0 {
                self.writable && self.drain(to)?
            } else if self.ended {
                if !self.over {
                    self.over = true;
                    shutdown(to, Shutdown::Write)?;
                }
                return Ok(());
            } else if !self.readable {
                false
            } else if way == Way::Splice && self.bytes >= BULK_AFTER {
                self.fill(from, means)?
            } else {
                self.copy(from, to, &mut means.buffer)?
            };
            if !moved {
                if self.in_pipe == 0 {
                    means.pipes.extend(self.pipe.take());
                }
                return Ok(());
            }
        }
    }

    /// Each of these returns whether to go on.
    fn write_rest(&mut self, to: &OwnedFd) -> Result<bool, Errno> {
        match send(to, &self.rest, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == self.rest.len() => self.rest = Vec::new(),
            Ok(sent) => drop(self.rest.drain(..sent)),
            Err(error) if wire::is_again(error) => {
                self.writable = false;
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    fn copy(&mut self, from: &OwnedFd, to: &OwnedFd, buffer: &mut [u8]) -> Result<bool, Errno> {
        let count = match recv(from, &mut *buffer, RecvFlags::empty()) {
            Ok((0, _)) => {
                self.ended = true;
                return Ok(true);
            }
            Ok((count, _)) => count,
            Err(error) if wire::is_again(error) => {
                self.readable = false;
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        self.bytes += count as u64;
        // Whatever comes from now on is another event.
        self.readable = count == buffer.len() || self.ending;
        match send(to, &buffer[..count], SendFlags::NOSIGNAL) {
            Ok(sent) if sent == count => {}
            Ok(sent) => self.rest = buffer[sent..count].to_vec(),
            Err(error) if wire::is_again(error) => {
                self.writable = false;
                self.rest = buffer[..count].to_vec();
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    fn fill(&mut self, from: &OwnedFd, means: &mut Means) -> Result<bool, Errno> {
        if self.pipe.is_none() {
            self.pipe = Some(match means.pipes.pop() {
                Some(pipe) => pipe,
                None => new_pipe()?,
            });
        }
        let (_, write) = self.pipe.as_ref().expect("there is one by now");
        match splice(from, None, write, None, PIPE, flags()) {
            Ok(0) => self.ended = true,
            Ok(count) => self.in_pipe = count,
            // The pipe is empty, so nothing is there to read.
            Err(error) if wire::is_again(error) => {
                self.readable = false;
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    fn drain(&mut self, to: &OwnedFd) -> Result<bool, Errno> {
        let (read, _) = self.pipe.as_ref().expect("what is in it is in one");
        match splice(read, None, to, None, self.in_pipe, flags()) {
            Ok(count) => self.in_pipe -= count,
            Err(error) if wire::is_again(error) => {
                self.writable = false;
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}

fn new_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    fcntl_setpipe_size(&write, PIPE)?;
    Ok((read, write))
}
