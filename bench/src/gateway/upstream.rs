//! The server behind the proxies: answers hellos and frames, takes and gives bytes, on one thread.

use std::{
    collections::HashMap,
    io,
    net::TcpListener,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send},
};

use super::{
    poll::{Happened, Poll},
    wire::{self, DOWN, EXCHANGE, FRAME, UP},
};

/// Bytes that one send takes.
const CHUNK: usize = 256 << 10;
/// Bytes that one receive discards at most.
const DISCARD: usize = 1 << 20;
/// How long it may take to see that it is to end.
const TICK: Duration = Duration::from_millis(50);

/// Serves until it is dropped.
pub(super) struct Upstream {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// On a thread of its own.
    pub(super) fn start(listener: TcpListener) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut server = Server::new(listener)?;
        let stops = stop.clone();
        let thread = thread::Builder::new()
            .name("upstream".into())
            .spawn(move || {
                if let Err(error) = server.serve(&stops) {
                    eprintln!("the upstream server ended: {error}");
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the upstream server panicked");
        }
    }
}

/// The number of the listener among events.
const LISTENER: u64 = u64::MAX;

struct Server {
    listener: TcpListener,
    poll: Poll,
    connections: HashMap<u64, Served>,
    next: u64,
    buffer: Vec<u8>,
}

struct Served {
    socket: OwnedFd,
    expects: Expects,
    /// Of what is not complete.
    input: Vec<u8>,
    /// Bytes that are to be sent.
    owed: u64,
}

enum Expects {
    Hello,
    Frame,
    /// So many bytes that mean nothing.
    Bytes(u64),
}

impl Server {
    fn new(listener: TcpListener) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.add_listener(&listener, LISTENER)?;
        Ok(Self {
            listener,
            poll,
            connections: HashMap::new(),
            next: 0,
            buffer: vec![0; CHUNK],
        })
    }

    fn serve(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut happened = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            self.poll.wait(Some(TICK), &mut happened)?;
            for it in &happened {
                match it.number {
                    LISTENER => self.accept()?,
                    _ => self.advance(it),
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        // Whatever makes one fail, the next may be well.
        while let Ok(socket) = accept_with(&self.listener, flags) {
            self.poll.add(&socket, self.next)?;
            let served = Served {
                socket,
                expects: Expects::Hello,
                input: Vec::new(),
                owed: 0,
            };
            self.connections.insert(self.next, served);
            self.next += 1;
        }
        Ok(())
    }

    fn advance(&mut self, it: &Happened) {
        let Some(served) = self.connections.get_mut(&it.number) else {
            return;
        };
        let goes_on = served
            .read(&mut self.buffer)
            .and_then(|open| served.pay(&self.buffer).map(|()| open));
        // Gone or ended, there is nothing left to do for it.
        if !matches!(goes_on, Ok(true)) {
            self.connections.remove(&it.number);
        }
    }
}

impl Served {
    /// Reads what there is; whether more may come.
    fn read(&mut self, buffer: &mut [u8]) -> Result<bool, Errno> {
        loop {
            if let Expects::Bytes(left) = &mut self.expects {
                let most = DISCARD.min(*left as usize);
                match discard(&self.socket, most) {
                    Ok(0) => return Ok(false),
                    Ok(count) => *left -= count as u64,
                    Err(error) if wire::is_again(error) => return Ok(true),
                    Err(error) => return Err(error),
                }
                if *left == 0 {
                    self.expects = Expects::Frame;
                    self.answer()?;
                }
                continue;
            }
            match recv(
                self.socket.as_fd(),
                &mut buffer[..4_096],
                RecvFlags::empty(),
            ) {
                Ok((0, _)) => return Ok(false),
                Ok((count, _)) => self.take(&buffer[..count])?,
                Err(error) if wire::is_again(error) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        self.input.extend(bytes);
        loop {
            match &mut self.expects {
                Expects::Hello => {
                    let Some(length) = wire::record(&self.input) else {
                        return Ok(());
                    };
                    self.input.drain(..length);
                    self.expects = Expects::Frame;
                    self.answer()?;
                }
                Expects::Frame => {
                    let Some(frame) = self.input.first_chunk::<FRAME>() else {
                        return Ok(());
                    };
                    let (kind, bytes) = wire::frame_of(frame);
                    self.input.drain(..FRAME);
                    match kind {
                        EXCHANGE => self.answer()?,
                        UP => self.expects = Expects::Bytes(bytes),
                        DOWN => self.owed += bytes,
                        _ => return Err(Errno::PROTO),
                    }
                }
                Expects::Bytes(left) => {
                    let some = self.input.len().min(*left as usize);
                    *left -= some as u64;
                    self.input.drain(..some);
                    if *left > 0 {
                        // An idle tunnel is to hold nothing here, either.
                        self.input = Vec::new();
                        return Ok(());
                    }
                    self.expects = Expects::Frame;
                    self.answer()?;
                }
            }
        }
    }

    /// Small as it is, there is room for it.
    fn answer(&self) -> Result<(), Errno> {
        let answer = wire::frame(EXCHANGE, 0);
        match send(&self.socket, &answer, SendFlags::NOSIGNAL)? {
            FRAME => Ok(()),
            _ => Err(Errno::NOBUFS),
        }
    }

    fn pay(&mut self, chunk: &[u8]) -> Result<(), Errno> {
        while self.owed > 0 {
            let some = chunk.len().min(self.owed as usize);
            match send(&self.socket, &chunk[..some], SendFlags::NOSIGNAL) {
                Ok(sent) => self.owed -= sent as u64,
                Err(error) if wire::is_again(error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Takes bytes from a stream without copying them (tcp(7), MSG_TRUNC).
pub(super) fn discard(socket: &OwnedFd, most: usize) -> Result<usize, Errno> {
    use std::os::fd::AsRawFd as _;
    let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
    // SAFETY: with MSG_TRUNC a stream's bytes are discarded, and nothing is written to the buffer,
    // for which the kernel takes none.
    let count = unsafe { libc::recv(socket.as_raw_fd(), std::ptr::null_mut(), most, flags) };
    usize::try_from(count).map_err(|_negative| {
        let error = io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}
