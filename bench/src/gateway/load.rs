//! The client, a program of its own in a pod: one thread, edge-triggered, as few calls as it needs. It
//! takes an order a line, and answers each with a line of JSON.

use std::{
    io::{BufRead as _, Write as _},
    net::SocketAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde::{Deserialize, Serialize};

use super::{
    poll::{Happened, Poll},
    upstream::discard,
    wire::{self, DOWN, EXCHANGE, FRAME, UP},
};

/// Bytes that one send takes.
const CHUNK: usize = 256 << 10;
/// Connections on their way at once while tunnels are opened.
const AT_ONCE: usize = 32;
/// How long nothing may come before it is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What it is told to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// So many connections, so many at a time: a hello, its answer, the end.
    Connect { count: usize, at_once: usize },
    /// The same with a name that is not allowed: a hello, and the end.
    Deny { count: usize, at_once: usize },
    /// Opens tunnels until there are so many.
    Open { tunnels: usize },
    /// Closes all tunnels.
    Close,
    /// So many bytes to the server, in equal parts through all tunnels.
    Up { bytes: u64 },
    /// The same from the server.
    Down { bytes: u64 },
    /// So many frames and their answers, one after the other in each tunnel.
    Exchange { count: usize },
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// How long it took.
    pub(super) seconds: f64,
    /// Microseconds of one in two of what was timed.
    pub(super) p50: f64,
    /// Microseconds that one in a hundred took longer than.
    pub(super) p99: f64,
    /// Why nothing came of it.
    pub(super) error: Option<String>,
}

/// Follows orders on standard input until it ends.
///
/// # Errors
/// An order cannot be read, or an answer not be written.
pub(crate) fn run(target: SocketAddr, names: &[String], denied: &str) -> Result<()> {
    let mut load = Load::new(target, names, denied)?;
    for line in std::io::stdin().lock().lines() {
        let order = serde_json::from_str(&line?)?;
        let begun = Instant::now();
        let outcome = match load.follow(&order) {
            Ok(times) => Outcome::new(begun.elapsed(), times),
            Err(error) => Outcome {
                error: Some(format!("{error:#}")),
                ..Outcome::default()
            },
        };
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, &outcome)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}

impl Outcome {
    fn new(took: Duration, mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: f64| {
            let last = times.len().saturating_sub(1);
            let time = times.get((share * last as f64) as usize);
            time.map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        Self {
            seconds: took.as_secs_f64(),
            p50: at(0.5),
            p99: at(0.99),
            error: None,
        }
    }
}

struct Load {
    target: SocketAddr,
    hellos: Vec<Vec<u8>>,
    denied: Vec<u8>,
    poll: Poll,
    happened: Vec<Happened>,
    tunnels: Vec<Tunnel>,
    chunk: Vec<u8>,
}

struct Tunnel {
    number: u64,
    socket: OwnedFd,
    begun: Instant,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Its hello is to be sent.
    Connecting,
    /// So many bytes of an answer are still to come.
    Answer(usize),
    /// The end is to come.
    End,
    /// So many bytes are still to be sent, then the answer is to come.
    Sending(u64),
    /// So many bytes are still to come.
    Receiving(u64),
    Idle,
}

impl Load {
    fn new(target: SocketAddr, names: &[String], denied: &str) -> Result<Self> {
        let hellos = names.iter().map(|name| wire::hello(name));
        Ok(Self {
            target,
            hellos: hellos.collect::<Result<_>>()?,
            denied: wire::hello(denied)?,
            poll: Poll::new()?,
            happened: Vec::new(),
            tunnels: Vec::new(),
            chunk: vec![0; CHUNK],
        })
    }

    fn follow(&mut self, order: &Order) -> Result<Vec<Duration>> {
        match *order {
            Order::Connect { count, at_once } => self.connect(count, at_once, State::Answer(FRAME)),
            Order::Deny { count, at_once } => self.connect(count, at_once, State::End),
            Order::Open { tunnels } => self.open(tunnels),
            Order::Close => {
                self.tunnels.clear();
                Ok(Vec::new())
            }
            Order::Up { bytes } => {
                let part = bytes / self.tunnels.len().max(1) as u64;
                self.all(&wire::frame(UP, part), State::Sending(part))
            }
            Order::Down { bytes } => {
                let part = bytes / self.tunnels.len().max(1) as u64;
                self.all(&wire::frame(DOWN, part), State::Receiving(part))
            }
            Order::Exchange { count } => self.exchange(count),
        }
    }

    /// Connections that end after `last`.
    fn connect(&mut self, count: usize, at_once: usize, last: State) -> Result<Vec<Duration>> {
        ensure!(self.tunnels.is_empty(), "tunnels are open");
        let mut slots: Vec<Option<Tunnel>> = Vec::new();
        let mut times = Vec::with_capacity(count);
        let mut begun = 0;
        while begun < at_once.min(count) {
            slots.push(Some(self.begin(begun as u64)?));
            begun += 1;
        }
        while times.len() < count {
            let happened = self.wait()?;
            for it in &happened {
                let slot = it.number as usize % at_once;
                let Some(tunnel) = slots[slot].as_mut() else {
                    continue;
                };
                // Of a connection that was in this slot before.
                if tunnel.number != it.number {
                    continue;
                }
                if !tunnel.advance(it, &self.hello(it.number, last), last, &self.chunk)? {
                    continue;
                }
                times.push(tunnel.begun.elapsed());
                // The one before is closed first.
                slots[slot] = None;
                if begun < count {
                    slots[slot] = Some(self.begin(it.number + at_once as u64)?);
                    begun += 1;
                }
            }
            self.happened = happened;
        }
        Ok(times)
    }

    fn open(&mut self, wanted: usize) -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        let (mut open, first) = (self.tunnels.len(), self.tunnels.len());
        while open < wanted {
            while self.tunnels.len() < wanted.min(open + AT_ONCE) {
                let tunnel = self.begin(self.tunnels.len() as u64)?;
                self.tunnels.push(tunnel);
            }
            let happened = self.wait()?;
            for it in &happened {
                let hello = self.hello(it.number, State::Idle);
                let tunnel = &mut self.tunnels[it.number as usize];
                if (it.number as usize) < first || tunnel.state == State::Idle {
                    ensure!(!it.ended, "a tunnel has ended");
                    continue;
                }
                if tunnel.advance(it, &hello, State::Answer(FRAME), &self.chunk)? {
                    times.push(tunnel.begun.elapsed());
                    open += 1;
                }
            }
            self.happened = happened;
        }
        Ok(times)
    }

    /// The same in all tunnels at once.
    fn all(&mut self, frame: &[u8; FRAME], state: State) -> Result<Vec<Duration>> {
        for tunnel in &mut self.tunnels {
            tunnel.ask(frame, state)?;
        }
        // What there is room for goes at once; of the rest there will be events.
        let mut open = self.tunnels.len();
        for tunnel in &mut self.tunnels {
            tunnel.push(&self.chunk)?;
        }
        let mut times = Vec::with_capacity(open);
        while open > 0 {
            let happened = self.wait()?;
            for it in &happened {
                let tunnel = &mut self.tunnels[it.number as usize];
                if tunnel.state != State::Idle
                    && tunnel.advance(it, &[], State::Idle, &self.chunk)?
                {
                    times.push(tunnel.begun.elapsed());
                    open -= 1;
                }
            }
            self.happened = happened;
        }
        Ok(times)
    }

    fn exchange(&mut self, count: usize) -> Result<Vec<Duration>> {
        let frame = wire::frame(EXCHANGE, 0);
        let mut begun = 0;
        for tunnel in self.tunnels.iter_mut().take(count) {
            tunnel.ask(&frame, State::Answer(FRAME))?;
            begun += 1;
        }
        let mut times = Vec::with_capacity(count);
        while times.len() < count {
            let happened = self.wait()?;
            for it in &happened {
                let tunnel = &mut self.tunnels[it.number as usize];
                if tunnel.state == State::Idle
                    || !tunnel.advance(it, &[], State::Idle, &self.chunk)?
                {
                    continue;
                }
                times.push(tunnel.begun.elapsed());
                if begun < count {
                    tunnel.ask(&frame, State::Answer(FRAME))?;
                    begun += 1;
                }
            }
            self.happened = happened;
        }
        Ok(times)
    }

    fn begin(&mut self, number: u64) -> Result<Tunnel> {
        let begun = Instant::now();
        let socket = wire::dial(self.target)
            .with_context(|| format!("could not connect to {}", self.target))?;
        self.poll.add(&socket, number)?;
        Ok(Tunnel {
            number,
            socket,
            begun,
            state: State::Connecting,
        })
    }

    /// The hello of a connection, by its number: names go round.
    fn hello(&self, number: u64, last: State) -> Vec<u8> {
        match last == State::End {
            true => self.denied.clone(),
            false => self.hellos[number as usize % self.hellos.len()].clone(),
        }
    }

    fn wait(&mut self) -> Result<Vec<Happened>> {
        let mut happened = std::mem::take(&mut self.happened);
        self.poll.wait(Some(PATIENCE), &mut happened)?;
        ensure!(!happened.is_empty(), "nothing has come for {PATIENCE:?}");
        Ok(happened)
    }
}

impl Tunnel {
    /// Sends a frame, after which the tunnel is in `state`.
    fn ask(&mut self, frame: &[u8; FRAME], state: State) -> Result<()> {
        self.begun = Instant::now();
        self.state = state;
        let sent = send(&self.socket, frame, SendFlags::NOSIGNAL)?;
        ensure!(sent == FRAME, "a frame did not fit");
        Ok(())
    }

    /// Goes on as far as it can; whether what was asked for is done.
    fn advance(&mut self, it: &Happened, hello: &[u8], last: State, chunk: &[u8]) -> Result<bool> {
        if self.state == State::Connecting && it.writable {
            let sent = send(&self.socket, hello, SendFlags::NOSIGNAL);
            match sent {
                Ok(sent) => ensure!(sent == hello.len(), "a hello did not fit"),
                Err(error) if wire::is_again(error) => return Ok(false),
                Err(error) => bail!("could not connect: {error}"),
            }
            self.state = last;
            // Nothing can have come in answer yet.
            return Ok(false);
        }
        if it.writable {
            self.push(chunk)?;
        }
        if it.readable {
            return self.pull();
        }
        Ok(false)
    }

    fn push(&mut self, chunk: &[u8]) -> Result<()> {
        while let State::Sending(left) = self.state {
            if left == 0 {
                self.state = State::Answer(FRAME);
                break;
            }
            let some = chunk.len().min(left as usize);
            match send(&self.socket, &chunk[..some], SendFlags::NOSIGNAL) {
                Ok(sent) => self.state = State::Sending(left - sent as u64),
                Err(error) if wire::is_again(error) => break,
                Err(error) => bail!("while sending: {error}"),
            }
        }
        Ok(())
    }

    fn pull(&mut self) -> Result<bool> {
        loop {
            match self.state {
                State::Answer(left) => {
                    let mut buffer = [0; FRAME];
                    match recv(&self.socket, &mut buffer[..left], RecvFlags::empty()) {
                        Ok((0, _)) => bail!("the tunnel has ended instead of an answer"),
                        Ok((count, _)) if count == left => {
                            self.state = State::Idle;
                            return Ok(true);
                        }
                        Ok((count, _)) => self.state = State::Answer(left - count),
                        Err(error) if wire::is_again(error) => return Ok(false),
                        Err(error) => bail!("instead of an answer: {error}"),
                    }
                }
                State::End => match recv(&self.socket, &mut [0; FRAME], RecvFlags::empty()) {
                    Ok((0, _)) => return Ok(true),
                    // An alert.
                    Ok(_) => {}
                    Err(error) if wire::is_again(error) => return Ok(false),
                    Err(_reset) => return Ok(true),
                },
                State::Receiving(left) => match discard(&self.socket, left as usize) {
                    Ok(0) => bail!("the tunnel has ended under way"),
                    Ok(count) if count as u64 == left => {
                        self.state = State::Idle;
                        return Ok(true);
                    }
                    Ok(count) => self.state = State::Receiving(left - count as u64),
                    Err(error) if wire::is_again(error) => return Ok(false),
                    Err(error) => bail!("while receiving: {error}"),
                },
                State::Connecting | State::Sending(_) | State::Idle => return Ok(false),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;
    use crate::gateway::{
        relay::{self, Relay, Way},
        upstream::Upstream,
    };

    /// Everything that can be ordered, through a relay.
    fn all_of_it(way: Way) {
        let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let server = wire::listener(local).unwrap();
        let upstream = server.local_addr().unwrap();
        let _server = Upstream::start(server).unwrap();
        let free = TcpListener::bind(local).unwrap().local_addr().unwrap();
        // It ends with the process.
        thread::spawn(move || relay::run(&Relay::new(free, upstream, way)).unwrap());
        let names = ["host-1.bench.test".to_owned()];
        let mut load = Load::new(free, &names, "denied.bench.example").unwrap();
        let (count, at_once) = (200, 8);
        let one = Order::Connect {
            count: 1,
            at_once: 1,
        };
        while load.follow(&one).is_err() {
            thread::sleep(Duration::from_millis(5));
        }
        let bytes = 4 << 20;
        for (order, times) in [
            (Order::Connect { count, at_once }, count),
            (Order::Deny { count, at_once }, count),
            (Order::Open { tunnels: 4 }, 4),
            (Order::Up { bytes }, 4),
            (Order::Down { bytes }, 4),
            (Order::Exchange { count }, count),
            (Order::Close, 0),
        ] {
            let done = load.follow(&order);
            assert_eq!(done.unwrap().len(), times, "{order:?}");
        }
    }

    #[test]
    fn orders_are_followed_through_a_relay_that_copies() {
        all_of_it(Way::Copy);
    }

    #[test]
    fn orders_are_followed_through_a_relay_that_splices() {
        all_of_it(Way::Splice);
    }
}
