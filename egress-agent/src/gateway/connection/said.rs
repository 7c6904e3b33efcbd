//! What is said of a connection: its records, and to a client that is denied.

use std::{sync::PoisonError, time::Instant};

use egress_common::origin::Origin;
use tokio::net::TcpStream;

use crate::{
    gateway::{
        alert::{self, Alert},
        detect::{Detected, Outcome},
        reason::Reason,
        splice::Bytes,
        worker::{Shared, Worker},
    },
    telemetry::record::{
        Attempt, Connection, ConnectionClose, EndpointRef, Event, ProcessRef, Protocol, Splice,
        Verdict,
    },
};

/// Before anything is known but whose it is: denied.
pub(super) fn open_record(origin: &Origin, name: &str, connection: u64) -> Connection {
    let attempt = Attempt {
        endpoint: EndpointRef {
            id: origin.endpoint,
            name: name.to_owned(),
        },
        process: ProcessRef::from(&origin.process),
        destination: origin.destination.to_ip(),
        port: origin.port,
        protocol: Protocol::Tcp,
        verdict: Verdict::Deny,
        reason: None,
    };
    Connection::new(connection, attempt)
}

/// Resets what is not let in, and tells of it unless the same was told just now.
pub(super) fn shed(
    shared: &Shared,
    stream: TcpStream,
    origin: &Origin,
    name: &str,
    reason: Reason,
) {
    let record = open_record(origin, name, shared.admission.number());
    let is_told = {
        let mut log = shared.shed.lock().unwrap_or_else(PoisonError::into_inner);
        log.note(&record.attempt, reason)
    };
    match is_told {
        true => tell_denied(shared, record, reason),
        false => count_denied(shared, reason),
    }
    alert::reset(stream);
}

fn count_denied(shared: &Shared, reason: Reason) {
    shared.counters.add("connections_denied");
    shared.counters.add(reason.as_str());
}

fn tell_denied(shared: &Shared, mut record: Connection, reason: Reason) {
    count_denied(shared, reason);
    record.attempt.verdict = Verdict::Deny;
    record.attempt.reason = Some(reason.as_str().to_owned());
    shared.records.tell(Event::ConnectionOpen(record));
}

/// Records and tells the client in its own language.
pub(super) async fn deny(
    worker: &Worker,
    stream: TcpStream,
    record: Connection,
    outcome: &Outcome,
    reason: Reason,
) {
    tell_denied(&worker.shared, record, reason);
    match alert_for(outcome) {
        Some(alert) => alert::refuse(stream, alert).await,
        None => alert::reset(stream),
    }
}

/// `None` where the client does not speak TLS, or not so far that it would read an alert.
pub(super) fn alert_for(outcome: &Outcome) -> Option<Alert> {
    match outcome {
        Outcome::Decided(Detected::Tls(_)) => Some(Alert::AccessDenied),
        Outcome::Decided(Detected::TlsWithoutName(_) | Detected::BadName(..)) => {
            Some(Alert::UnrecognizedName)
        }
        Outcome::Decided(Detected::Malformed(_)) => Some(Alert::DecodeError),
        Outcome::Decided(Detected::Sslv2) => Some(Alert::ProtocolVersion),
        Outcome::NoRoom => Some(Alert::InternalError),
        Outcome::Timeout | Outcome::Truncated => Some(Alert::DecodeError),
        Outcome::Decided(
            Detected::Http1(_)
            | Detected::Connect
            | Detected::Http2
            | Detected::Opaque
            | Detected::NeedMore,
        )
        | Outcome::RequestTimeout
        | Outcome::Silent
        | Outcome::Nothing => None,
    }
}

/// Tells of a connection's end, and counts it.
pub(in crate::gateway) fn tell_close(
    shared: &Shared,
    open: Connection,
    bytes: &Bytes,
    splice: Option<Splice>,
    accepted: Instant,
    reason: &str,
) {
    let (sent, received) = (bytes.sent.get(), bytes.received.get());
    shared.counters.add("connections_closed");
    shared.counters.add_many("bytes_sent", sent);
    shared.counters.add_many("bytes_received", received);
    let elapsed = accepted.elapsed().as_millis();
    shared.records.tell(Event::ConnectionClose(ConnectionClose {
        open,
        bytes_sent: sent,
        bytes_received: received,
        duration_ms: u64::try_from(elapsed).unwrap_or(u64::MAX),
        splice,
        close_reason: reason.to_owned(),
    }));
}
