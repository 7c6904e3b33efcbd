//! The bytes of a tunnel: plain reads and writes first, `splice(2)` through a pooled pipe once a
//! direction has proved bulk. Nothing is held for an idle tunnel but its sockets.

use std::{cell::Cell, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until},
};

use crate::telemetry::record::Splice;
use direction::{Ends, pump};

mod direction;
pub(crate) mod pipe;

/// Bytes that were written, kept current while the copy runs.
#[derive(Debug, Default)]
pub struct Bytes {
    /// To upstream.
    pub sent: Cell<u64>,
    /// To the endpoint.
    pub received: Cell<u64>,
}

/// What was relayed, and how, kept current as well.
#[derive(Debug, Default)]
pub struct Relayed {
    /// How much.
    pub bytes: Bytes,
    /// What became of `splice(2)`; none where neither direction has been bulk.
    pub splice: Cell<Option<Splice>>,
}

impl Relayed {
    /// Of both directions and all the time, the worst stays.
    fn note(&self, splice: Splice) {
        self.splice.set(self.splice.get().max(Some(splice)));
    }
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

/// Copies both ways until both have ended, one fails, or nothing moves for `idle`. The end of
/// one direction is passed on and the other goes on. Cancelling it loses nothing but bytes that
/// are under way.
pub async fn copy_both(
    downstream: &mut TcpStream,
    upstream: &mut TcpStream,
    relayed: &Relayed,
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
    let Bytes { sent, received } = &relayed.bytes;
    // Each future once and nowhere else: whatever holds one before it is polled is room in every
    // tunnel.
    tokio::select! {
        result = async {
            tokio::try_join!(
                pump(down_read, up_write, sent, relayed, &moved, sending),
                pump(up_read, down_write, received, relayed, &moved, receiving),
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

/// The stable name of [`lifetime_over`] in close records.
pub(super) const LIFETIME: &str = "lifetime_over";

/// Returns once a connection that was accepted then has lasted as long as it may.
pub(super) async fn lifetime_over(accepted: std::time::Instant, lifetime: Option<Duration>) {
    match lifetime {
        // Apart, so that it takes no room where there is none.
        Some(lifetime) => Box::pin(sleep_until(Instant::from_std(accepted) + lifetime)).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
