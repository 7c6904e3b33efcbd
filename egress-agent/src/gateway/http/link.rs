//! What the parts of one HTTP connection share.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::Instant,
};

use tokio::time::Instant as Moment;

use super::{connect::Connect, exchange::Tunnel, judge::Judged};
use crate::{
    gateway::{
        authorise::Ask,
        reason::Reason,
        splice::Bytes,
        table::EndpointState,
        worker::{Shared, Worker},
    },
    telemetry::record::{Connection, Event, Verdict},
};

/// One connection.
pub(super) struct Link {
    pub(super) worker: Rc<Worker>,
    /// Whose it is, and what was dialled.
    pub(super) ask: Ask,
    /// What all its records have.
    pub(super) record: Connection,
    pub(super) accepted: Instant,
    /// Body bytes of all requests.
    pub(super) bytes: Bytes,
    /// When something was last moved.
    pub(super) moved: Cell<Moment>,
    /// The request whose head was handed on last.
    pub(super) next: RefCell<Option<Rc<Judged>>>,
    /// The one that is being served.
    pub(super) running: RefCell<Option<Rc<Judged>>>,
    /// Whether its answer has begun.
    pub(super) answered: Cell<bool>,
    /// The tunnel that was asked for last.
    pub(super) connect: RefCell<Option<Connect>>,
    /// Why no more requests are read.
    pub(super) stopped: Cell<Option<Stop>>,
    /// Why everything is cut off.
    pub(super) cut: Cell<Option<&'static str>>,
    /// What has become of a request that asked for a WebSocket.
    pub(super) tunnel: RefCell<Option<Tunnel>>,
    /// What was told of the connection's opening.
    opened: RefCell<Option<Connection>>,
}

/// Why no more requests are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// What comes is refused.
    Refuse(Reason),
    /// What comes behind the head is a tunnel.
    Connect,
    /// What comes is relayed to the original destination, whatever it is.
    Opaque(Reason),
}

impl Link {
    pub(super) fn new(worker: Rc<Worker>, ask: Ask, record: Connection, accepted: Instant) -> Self {
        Self {
            worker,
            ask,
            record,
            accepted,
            bytes: Bytes::default(),
            moved: Cell::new(Moment::now()),
            next: RefCell::default(),
            running: RefCell::default(),
            answered: Cell::default(),
            connect: RefCell::default(),
            stopped: Cell::default(),
            cut: Cell::default(),
            tunnel: RefCell::default(),
            opened: RefCell::default(),
        }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.worker.shared
    }

    /// The endpoint, in the policy of now.
    pub(super) fn endpoint(&self) -> Option<EndpointState> {
        let table = self.shared().table.borrow();
        table.endpoint(self.ask.endpoint).cloned()
    }

    /// Whether the gateway itself was dialled, as a proxy is: it is left to the gateway where a
    /// request goes.
    pub(super) fn is_proxy(&self) -> bool {
        let to = SocketAddr::new(self.ask.destination, self.ask.port);
        self.shared().proxy.contains(&to)
    }

    /// Whether the gateway itself was dialled, where it is no proxy.
    pub(super) fn is_astray(&self) -> bool {
        let is_own = self.worker.resolver.refused().is_own(self.ask.destination);
        is_own && !self.is_proxy()
    }

    pub(super) fn is_open(&self) -> bool {
        self.opened.borrow().is_some()
    }

    /// Tells of the connection, with what became of its first request.
    pub(super) fn open(&self, record: &Connection) {
        if self.is_open() {
            return;
        }
        *self.opened.borrow_mut() = Some(record.clone());
        let counters = &self.shared().counters;
        counters.add(match record.attempt.verdict {
            Verdict::Allow => "connections_allowed",
            Verdict::Audit => "connections_audited",
            Verdict::Deny => "connections_denied",
        });
        let records = &self.shared().records;
        records.tell(Event::ConnectionOpen(record.clone()));
    }

    /// Tells of its end; nothing where its first request was denied.
    pub(super) fn close(&self, reason: &str) {
        let Some(open) = self.opened.take() else {
            return;
        };
        if open.attempt.verdict != Verdict::Deny {
            crate::gateway::connection::tell_close(
                self.shared(),
                open,
                &self.bytes,
                None,
                self.accepted,
                reason,
            );
        }
    }
}
