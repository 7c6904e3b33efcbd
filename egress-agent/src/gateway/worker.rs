//! What the connections of one worker share.

use std::{
    convert::Infallible,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{mpsc, watch};

use super::{
    admit::Admission, answered::Answered, count::Counters, dns::log::RefusalLog, http::pool::Pool,
    identify::Identify, protocol::Limits, resolve::Resolver, shed::ShedLog, table::Table,
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
    /// Where it is a proxy for those who are set up for one.
    pub proxy: Arc<[SocketAddr]>,
    /// Who is let in.
    pub admission: Arc<Admission>,
    /// Whether no more are taken.
    pub drains: watch::Receiver<bool>,
    /// Which addresses endpoints were told, and for which names.
    pub answered: Answered,
    /// Refused look-ups, told once per key and window.
    pub refusals: Arc<Mutex<RefusalLog>>,
    /// Connections that were not let in, told in the same way.
    pub shed: Arc<Mutex<ShedLog>>,
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
