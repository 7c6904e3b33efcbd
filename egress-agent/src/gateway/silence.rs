//! Who speaks first, where a client that has sent nothing may be let through because its
//! destination was answered for an allowed name.
//!
//! Such a client waits for a greeting, or it delays its ClientHello until nobody looks for one any
//! more. So the server is dialled soon, and what the client says before the server has said
//! anything is still judged as what a connection begins with.

use std::time::Duration;

use tokio::{net::TcpStream, time::timeout};

use super::{
    detect::{self, Detected, Outcome, Prefix},
    protocol::Limits,
};

/// Why a connection ends on which a hello, or what was meant as one, came too late to be judged.
pub const LATE_HELLO: &str = "late_hello";

/// Whose word was the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// The client's, or its end.
    Client,
    /// The server's, or its end.
    Server,
    /// Neither's, for as long as was waited.
    Nobody,
}

/// Waits for the first word, and leaves it where it is.
pub async fn first_word(client: &TcpStream, server: &TcpStream, limit: Duration) -> First {
    let (mut of_client, mut of_server) = ([0], [0]);
    let word = async {
        tokio::select! {
            biased;
            _ = client.peek(&mut of_client) => First::Client,
            _ = server.peek(&mut of_server) => First::Server,
        }
    };
    timeout(limit, word).await.unwrap_or(First::Nobody)
}

/// What the client begins with where its word is the first within the time for a hello; `None`
/// where it is not.
pub async fn late(client: &mut TcpStream, server: &TcpStream, limits: &Limits) -> Option<Prefix> {
    match first_word(client, server, limits.hello).await {
        First::Client => Some(detect::detect(client, limits.hello, limits.hello).await),
        First::Server | First::Nobody => None,
    }
}

/// What the client says first after that time, to be replayed: nothing where the server was first.
///
/// # Errors
/// The close reason, where that is anything but the protocol that it was let through as.
pub async fn later(
    client: &mut TcpStream,
    server: &TcpStream,
    limits: &Limits,
) -> Result<Vec<u8>, &'static str> {
    match first_word(client, server, limits.idle).await {
        First::Server => return Ok(Vec::new()),
        First::Nobody => return Err(super::splice::End::Idle.reason()),
        First::Client => {}
    }
    let prefix = detect::detect(client, limits.hello, limits.hello).await;
    match prefix.outcome {
        Outcome::Decided(
            Detected::Http1(_) | Detected::Connect | Detected::Http2 | Detected::Opaque,
        )
        | Outcome::RequestTimeout
        | Outcome::Nothing => Ok(prefix.bytes),
        Outcome::Decided(
            Detected::Tls(_)
            | Detected::TlsWithoutName(_)
            | Detected::BadName(..)
            | Detected::Malformed(_)
            | Detected::Sslv2
            | Detected::NeedMore,
        )
        | Outcome::Silent
        | Outcome::Timeout
        | Outcome::Truncated
        | Outcome::NoRoom => Err(LATE_HELLO),
    }
}
