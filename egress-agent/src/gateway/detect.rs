//! What a connection begins with, under a deadline.

use std::{io, time::Duration};

use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout_at},
};

pub mod client_hello;

use client_hello::{Detected, HELLO_MAX, Parser};

/// Bytes read before an answer: the hello in records of the least size that a client would
/// use, and what came behind it in the same read.
const PREFIX_MAX: usize = 2 * HELLO_MAX;
/// Room for one read: most hellos at once.
const READ: usize = 4 << 10;

/// What was seen, and the bytes to replay.
#[derive(Debug)]
pub struct Prefix {
    /// What the client began with.
    pub outcome: Outcome,
    /// Everything that was read.
    pub bytes: Vec<u8>,
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
    /// The client ended within its hello.
    Truncated,
    /// The client ended, or went, without a byte.
    Nothing,
}

/// Reads until it is clear what the client speaks. `silence` and `hello` count from now.
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
    let mut parser = Parser::default();
    if let Some(outcome) = step(Ok(bytes.len()), bytes.is_empty(), &bytes, &mut parser)
        && !bytes.is_empty()
    {
        return Prefix { outcome, bytes };
    }
    let outcome = loop {
        let deadline = start + if bytes.is_empty() { silence } else { hello };
        let empty = bytes.is_empty();
        bytes.reserve(READ);
        match timeout_at(deadline, stream.read_buf(&mut bytes)).await {
            Err(_elapsed) if empty => break Outcome::Silent,
            Err(_elapsed) => break Outcome::Timeout,
            Ok(read) => {
                if let Some(outcome) = step(read, empty, &bytes, &mut parser) {
                    break outcome;
                }
            }
        }
    };
    Prefix { outcome, bytes }
}

fn step(
    read: io::Result<usize>,
    empty: bool,
    bytes: &[u8],
    parser: &mut Parser,
) -> Option<Outcome> {
    match read {
        Ok(0) | Err(_) if empty => Some(Outcome::Nothing),
        Ok(0) | Err(_) => Some(Outcome::Truncated),
        Ok(_) => {
            let detected = parser.advance(bytes);
            match (detected == Detected::NeedMore, bytes.len() < PREFIX_MAX) {
                (false, _) => Some(Outcome::Decided(detected)),
                (true, true) => None,
                (true, false) => {
                    let long = client_hello::Malformed::LongHello;
                    Some(Outcome::Decided(Detected::Malformed(long)))
                }
            }
        }
    }
}
