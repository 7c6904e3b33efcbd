//! What a connection begins with, under a deadline.

use std::time::Duration;

use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout_at},
};

#[cfg(test)]
mod captured;
pub mod client_hello;
pub mod detector;
mod held;
pub mod http1;
mod tell;
mod work;

use client_hello::{HELLO_MAX, MESSAGE_HEADER, Malformed, RECORD_HEADER};
use detector::{Detector, may_be_tls};
use held::{Held, POOL};

pub use detector::Detected;

/// Bytes read before an answer: the longest hello, in records of one byte.
const PREFIX_MAX: usize = (RECORD_HEADER + 1) * (MESSAGE_HEADER + HELLO_MAX);
/// Room for one read: most hellos at once.
const READ: usize = 4 << 10;

/// What was seen, and the bytes to replay.
#[derive(Debug)]
pub struct Prefix {
    /// What the client began with.
    pub outcome: Outcome,
    /// Everything that was read.
    pub bytes: Vec<u8>,
    /// What these take of what there is for all connections.
    _held: Held,
}

impl Prefix {
    /// For another to hold.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Of a client that has gone.
    pub fn nothing() -> Self {
        Self {
            outcome: Outcome::Nothing,
            bytes: Vec::new(),
            _held: Held::of(&POOL),
        }
    }
}

/// What the client began with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The bytes decided; never `NeedMore`.
    Decided(Detected),
    /// Nothing, for as long as silence is waited for.
    Silent,
    /// Part of a hello, until the deadline.
    Timeout,
    /// Part of what may be a request line, for as long as silence is waited for.
    RequestTimeout,
    /// The client ended within its hello.
    Truncated,
    /// There are too many long hellos at once.
    NoRoom,
    /// The client ended, or went, without a byte.
    Nothing,
}

/// Reads until it is clear what the client speaks. `silence` and `hello` count from now: a client
/// that has sent nothing within `silence`, or something that is neither a hello nor a whole line,
/// waits for the server.
pub async fn detect(stream: &mut TcpStream, silence: Duration, hello: Duration) -> Prefix {
    detect_after(Vec::new(), stream, silence, hello).await
}

/// The same behind bytes that were read already.
pub async fn detect_after(
    mut bytes: Vec<u8>,
    stream: &mut TcpStream,
    silence: Duration,
    hello: Duration,
) -> Prefix {
    let start = Instant::now();
    let mut detector = Detector::default();
    let mut held = Held::of(&POOL);
    let early = match bytes.is_empty() {
        true => None,
        false => decided(detector.advance(&bytes), bytes.len()),
    };
    if let Some(outcome) = early {
        return Prefix {
            outcome,
            bytes,
            _held: held,
        };
    }
    let outcome = loop {
        let limit = match may_be_tls(&bytes) {
            true => hello,
            false => silence,
        };
        bytes.reserve(READ);
        let read = timeout_at(start + limit, stream.read_buf(&mut bytes)).await;
        let outcome = match read {
            Err(_elapsed) => Some(too_late(&bytes)),
            Ok(Ok(0) | Err(_)) => Some(ended(&bytes)),
            Ok(Ok(_)) => decided(detector.advance(&bytes), bytes.len())
                .or_else(|| (!held.grow_to(bytes.len())).then_some(Outcome::NoRoom)),
        };
        if let Some(outcome) = outcome {
            break outcome;
        }
    };
    Prefix {
        outcome,
        bytes,
        _held: held,
    }
}

fn too_late(bytes: &[u8]) -> Outcome {
    match (bytes, may_be_tls(bytes)) {
        ([], _) => Outcome::Silent,
        (_, true) => Outcome::Timeout,
        (_, false) => Outcome::RequestTimeout,
    }
}

/// What does not become a request is opaque.
fn ended(bytes: &[u8]) -> Outcome {
    match (bytes, may_be_tls(bytes)) {
        ([], _) => Outcome::Nothing,
        (_, true) => Outcome::Truncated,
        (_, false) => Outcome::Decided(Detected::Opaque),
    }
}

fn decided(detected: Detected, length: usize) -> Option<Outcome> {
    match (detected == Detected::NeedMore, length < PREFIX_MAX) {
        (false, _) => Some(Outcome::Decided(detected)),
        (true, true) => None,
        (true, false) => Some(Outcome::Decided(Detected::Malformed(Malformed::LongHello))),
    }
}
