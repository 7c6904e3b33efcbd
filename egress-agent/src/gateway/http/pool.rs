//! Connections to servers that may be used again: by the same endpoint, for the same host and
//! port, in the same way. Never another's.

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use hyper::client::conn::http1::SendRequest;
use tokio::time::{Instant, sleep};

use super::body::Passing;
use crate::policy::host::HostName;

/// Idle connections under one key.
const OF_KEY: usize = 4;
/// Idle connections of one worker.
const OF_WORKER: usize = 64;
/// How long one may be idle: less than servers wait, so that few are found closed.
const IDLE: Duration = Duration::from_secs(15);
/// How long one may be used: then the name is looked up again.
const AGE: Duration = Duration::from_secs(300);

/// Who may use a connection, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) endpoint: u32,
    pub(super) target: Target,
    pub(super) port: u16,
    pub(super) tls: bool,
}

/// What was dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A name.
    Name(HostName),
    /// An original destination.
    Address(IpAddr),
}

/// A connection to a server.
pub(super) struct Upstream {
    pub(super) sender: SendRequest<Passing>,
    /// Where it leads.
    pub(super) address: SocketAddr,
    /// All addresses that the name had.
    pub(super) addresses: Vec<IpAddr>,
    /// Of the policy under which it was dialled.
    pub(super) generation: u64,
    made: Instant,
}

impl Upstream {
    pub(super) fn new(
        sender: SendRequest<Passing>,
        address: SocketAddr,
        addresses: Vec<IpAddr>,
        generation: u64,
    ) -> Self {
        Self {
            sender,
            address,
            addresses,
            generation,
            made: Instant::now(),
        }
    }
}

/// The idle connections of one worker.
#[derive(Default)]
pub struct Pool(RefCell<Idle>);

#[derive(Default)]
struct Idle {
    /// The longest idle first.
    all: Vec<(u64, Key, Upstream)>,
    numbers: u64,
}

impl Pool {
    /// One that is idle, if there is.
    pub(super) fn take(&self, key: &Key, generation: u64) -> Option<Upstream> {
        let mut idle = self.0.borrow_mut();
        loop {
            let at = idle.all.iter().rposition(|(_, of, _)| of == key)?;
            let (_, _, upstream) = idle.all.remove(at);
            let is_fresh = upstream.made.elapsed() < AGE && upstream.generation == generation;
            if is_fresh && upstream.sender.is_ready() {
                return Some(upstream);
            }
        }
    }

    /// Keeps one once it has nothing to do, for a while.
    pub(super) async fn give(self: Rc<Self>, key: Key, mut upstream: Upstream) {
        if upstream.sender.ready().await.is_err() {
            return;
        }
        let number = {
            let mut idle = self.0.borrow_mut();
            let of_key = idle.all.iter().filter(|(_, of, _)| *of == key).count();
            if of_key >= OF_KEY {
                return;
            }
            if idle.all.len() >= OF_WORKER {
                idle.all.remove(0);
            }
            idle.numbers += 1;
            let number = idle.numbers;
            idle.all.push((number, key, upstream));
            number
        };
        sleep(IDLE).await;
        self.0.borrow_mut().all.retain(|(of, ..)| *of != number);
    }
}
