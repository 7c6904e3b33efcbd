//! What the connections of one worker share.

use std::{
    collections::HashMap,
    convert::Infallible,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::{mpsc, watch};

use super::{
    answered::Answered, count::Counters, dns::log::RefusalLog, http::pool::Pool,
    identify::Identify, protocol::Limits, reason::Reason, resolve::Resolver, table::Table,
};
use crate::telemetry::record::{Event, Record};

/// What all workers share.
#[derive(Clone)]
pub struct Shared {
    /// Where origins come from.
    pub identify: Arc<dyn Identify>,
    /// The endpoints and policies in force.
    pub table: watch::Receiver<Arc<Table>>,
    /// Where records go.
    pub records: Records,
    /// What is counted.
    pub counters: Counters,
    /// Bounds.
    pub limits: Arc<Limits>,
    /// Open connections.
    pub open: Open,
    /// Whether no more are taken.
    pub drains: watch::Receiver<bool>,
    /// Which addresses endpoints were told, and for which names.
    pub answered: Answered,
    /// Refused look-ups, told once per key and window.
    pub refusals: Arc<Mutex<RefusalLog>>,
}

/// One worker; everything that it serves has it, from the moment on which it is taken.
pub struct Worker {
    /// What it shares.
    pub shared: Shared,
    /// Its own resolver, with the cache that all share.
    pub resolver: Resolver,
    /// What TLS to servers is started with.
    pub tls: Arc<rustls::ClientConfig>,
    /// Connections to servers that requests may use again.
    pub pool: Rc<Pool>,
    /// Dropped by all workers, nothing is being served any more.
    pub under_way: mpsc::Sender<Infallible>,
}

/// Records on their way out. Full, they are counted as lost and told later.
#[derive(Clone, Debug)]
pub struct Records {
    queue: mpsc::Sender<Record>,
    lost: Arc<AtomicU64>,
}

impl Records {
    /// Records go to `queue`.
    pub fn new(queue: mpsc::Sender<Record>) -> Self {
        Self {
            queue,
            lost: Arc::default(),
        }
    }

    /// Hands a record on, or counts it.
    pub fn tell(&self, event: Event) {
        if self.queue.try_send(Record::now(event)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many were lost since the last call.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

/// The bounds on open connections.
#[derive(Clone, Debug, Default)]
pub struct Open {
    all: Arc<AtomicUsize>,
    of_endpoint: Arc<Mutex<HashMap<u32, usize>>>,
    numbers: Arc<AtomicU64>,
}

/// One open connection; counted until it is dropped.
#[derive(Debug)]
pub struct Ticket {
    open: Open,
    endpoint: u32,
    /// The connection's number.
    pub number: u64,
}

impl Open {
    /// A number for a connection that is not let in.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Lets one more connection of the endpoint in.
    ///
    /// # Errors
    /// There are as many as may be.
    pub fn enter(&self, endpoint: u32, limits: &Limits) -> Result<Ticket, Reason> {
        let mut of_endpoint = self
            .of_endpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.all.load(Ordering::Relaxed) >= limits.connections {
            return Err(Reason::TooManyConnections);
        }
        let count = of_endpoint.entry(endpoint).or_default();
        if *count >= limits.connections_per_endpoint {
            return Err(Reason::TooManyOfEndpoint);
        }
        *count += 1;
        self.all.fetch_add(1, Ordering::Relaxed);
        Ok(Ticket {
            open: self.clone(),
            endpoint,
            number: self.number(),
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut counts = self
            .open
            .of_endpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.open.all.fetch_sub(1, Ordering::Relaxed);
        if let Some(count) = counts.get_mut(&self.endpoint) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.endpoint);
            }
        }
    }
}
