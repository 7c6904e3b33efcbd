//! One request and its answer: what is told of them, once, when they are over.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Instant,
};

use hyper::{HeaderMap, upgrade::OnUpgrade};

use super::{framing::Framing, judge::Judged, link::Link};
use crate::{
    gateway::{reason::Reason, splice::Bytes},
    policy::host::HostName,
    telemetry::record::{Connection, Event, HttpRequest, Verdict},
};

/// Bytes of a path in a record.
const PATH_MAX: usize = 1_024;

/// A request that was judged.
pub(super) struct Exchange {
    pub(super) link: Rc<Link>,
    /// Of this request.
    pub(super) record: RefCell<Connection>,
    pub(super) bytes: Bytes,
    pub(super) status: Cell<Option<u16>>,
    /// Whether something of its body is still to come.
    pub(super) is_sending: Cell<bool>,
    judged: Rc<Judged>,
    started: Instant,
    is_told: Cell<bool>,
}

/// A WebSocket that the server has agreed to.
pub(super) struct Tunnel {
    pub(super) upstream: OnUpgrade,
    pub(super) exchange: Rc<Exchange>,
}

impl Exchange {
    pub(super) fn new(link: Rc<Link>, record: Connection, judged: Rc<Judged>) -> Self {
        let has_body = judged.head.framing != Framing::Empty;
        Self {
            link,
            record: RefCell::new(record),
            bytes: Bytes::default(),
            status: Cell::default(),
            is_sending: Cell::new(has_body),
            judged,
            started: Instant::now(),
            is_told: Cell::default(),
        }
    }

    /// It goes nowhere.
    pub(super) fn deny(&self, reason: Reason) {
        self.link.shared().counters.add(reason.as_str());
        let mut record = self.record.borrow_mut();
        record.attempt.verdict = Verdict::Deny;
        record.attempt.reason = Some(reason.as_str().to_owned());
    }

    /// Once both bodies are over, a new policy has nothing to end.
    pub(super) fn rest(&self) {
        let mut running = self.link.running.borrow_mut();
        let is_own = running
            .as_ref()
            .is_some_and(|it| Rc::ptr_eq(it, &self.judged));
        if is_own && self.is_told.get() && !self.is_sending.get() {
            *running = None;
        }
    }

    /// Leaves out of the fields behind a body those that its head has, which were judged there: a
    /// server might take these for the same.
    pub(super) fn keep_new(&self, trailers: &mut HeaderMap) {
        for (name, _) in &self.judged.head.request.fields {
            trailers.remove(name.as_str());
        }
    }

    /// The host that the request names.
    pub(super) fn host(&self) -> &HostName {
        &self.judged.head.request.host
    }

    /// Whether the request asks for a WebSocket.
    pub(super) fn is_websocket(&self) -> bool {
        self.judged.head.request.websocket
    }

    /// Tells of it; the first reason stands.
    pub(super) fn end(&self, reason: &str) {
        if self.is_told.replace(true) {
            return;
        }
        self.rest();
        let reason = self.link.cut.get().unwrap_or(reason);
        let (sent, received) = (self.bytes.sent.get(), self.bytes.received.get());
        let all = &self.link.bytes;
        all.sent.set(all.sent.get() + sent);
        all.received.set(all.received.get() + received);
        let elapsed = self.started.elapsed().as_millis();
        let request = &self.judged.head.request;
        // A path in its normal form is ASCII.
        let path = request.path.as_str();
        let path = path.get(..PATH_MAX).unwrap_or(path);
        tell(
            &self.link,
            HttpRequest {
                of: self.record.borrow().clone(),
                method: Some(request.method.clone()),
                path: Some(path.to_owned()),
                status: self.status.get(),
                originated_tls: self.judged.route.originates_tls(),
                websocket: request.websocket,
                bytes_sent: sent,
                bytes_received: received,
                duration_ms: u64::try_from(elapsed).unwrap_or(u64::MAX),
                close_reason: reason.to_owned(),
            },
        );
    }
}

/// Tells of a request, of the connection if that was not told of, and counts both.
pub(super) fn tell(link: &Link, request: HttpRequest) {
    link.open(&request.of);
    let shared = link.shared();
    shared.counters.add(match request.of.attempt.verdict {
        Verdict::Allow => "requests_allowed",
        Verdict::Audit => "requests_audited",
        Verdict::Deny => "requests_denied",
    });
    shared.records.tell(Event::HttpRequest(request));
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.end("downstream_reset");
    }
}
