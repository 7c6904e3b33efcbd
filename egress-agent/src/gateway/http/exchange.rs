//! One request and its answer: what is told of them, once, when they are over.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Instant,
};

use hyper::upgrade::OnUpgrade;

use super::{head::Head, link::Link};
use crate::{
    gateway::{reason::Reason, splice::Bytes},
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
    pub(super) originate_tls: bool,
    pub(super) websocket: bool,
    method: String,
    path: String,
    started: Instant,
    is_told: Cell<bool>,
}

/// A WebSocket that the server has agreed to.
pub(super) struct Tunnel {
    pub(super) upstream: OnUpgrade,
    pub(super) exchange: Rc<Exchange>,
}

impl Exchange {
    pub(super) fn new(
        link: Rc<Link>,
        record: Connection,
        head: &Head,
        originate_tls: bool,
    ) -> Self {
        let request = &head.request;
        // A path in its normal form is ASCII.
        let path = request.path.as_str();
        let path = path.get(..PATH_MAX).unwrap_or(path);
        Self {
            link,
            record: RefCell::new(record),
            bytes: Bytes::default(),
            status: Cell::default(),
            originate_tls,
            websocket: request.websocket,
            method: request.method.clone(),
            path: path.to_owned(),
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

    /// Tells of it; the first reason stands.
    pub(super) fn end(&self, reason: &str) {
        if self.is_told.replace(true) {
            return;
        }
        let reason = self.link.cut.get().unwrap_or(reason);
        self.link.running.take();
        let (sent, received) = (self.bytes.sent.get(), self.bytes.received.get());
        let all = &self.link.bytes;
        all.sent.set(all.sent.get() + sent);
        all.received.set(all.received.get() + received);
        let elapsed = self.started.elapsed().as_millis();
        tell(
            &self.link,
            HttpRequest {
                of: self.record.borrow().clone(),
                method: Some(self.method.clone()),
                path: Some(self.path.clone()),
                status: self.status.get(),
                originated_tls: self.originate_tls,
                websocket: self.websocket,
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
