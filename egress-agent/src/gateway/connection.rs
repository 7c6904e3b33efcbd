//! One connection's walk: identify, detect, authorise, resolve, dial, replay and splice, record.

use std::{os::fd::AsFd, rc::Rc, sync::Arc, time::Instant};

use egress_common::origin::Origin;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use super::{
    alert::{self, Alert},
    authorise::{Ask, Authorised},
    detect::{self, Detected, Outcome, Prefix},
    dial::{self, DialError, Dialled},
    reason::Reason,
    resolve::{Addresses, ResolveError},
    silence,
    splice::{self, Bytes},
    table::{EndpointState, Table},
    worker::{Ticket, Worker},
};
use crate::telemetry::record::{
    Attempt, Connection, ConnectionClose, EndpointRef, Event, ProcessRef, Protocol, Verdict,
};

/// Serves one accepted connection to its end.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream) {
    let shared = &worker.shared;
    shared.counters.add("connections_accepted");
    let origin = match shared.identify.connection(stream.as_fd()) {
        Ok(origin) => origin,
        Err(_none) => {
            shared.counters.add("connections_without_origin");
            return alert::reset(stream);
        }
    };
    let table = shared.table.borrow().clone();
    let Some(endpoint) = table.endpoint(origin.endpoint).cloned() else {
        let record = open_record(&origin, "", shared.open.number());
        return deny(
            &worker,
            stream,
            record,
            &Outcome::Nothing,
            Reason::UnknownEndpoint,
        )
        .await;
    };
    match shared.open.enter(origin.endpoint, &shared.limits) {
        Ok(ticket) => {
            let record = open_record(&origin, &endpoint.name, ticket.number);
            let walk = Walk {
                worker: &worker,
                endpoint,
                accepted: Instant::now(),
                _ticket: ticket,
            };
            let destination = origin.destination.to_ip();
            let answered = &shared.answered;
            let answered = answered.names(origin.endpoint, &walk.endpoint.name, destination);
            walk.run(stream, Ask::new(&origin, answered), record).await;
        }
        Err(reason) => {
            let record = open_record(&origin, &endpoint.name, shared.open.number());
            deny(&worker, stream, record, &Outcome::Nothing, reason).await;
        }
    }
}

fn open_record(origin: &Origin, name: &str, connection: u64) -> Connection {
    Connection {
        connection,
        attempt: Attempt {
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
        },
        server_name: None,
        answered_name: None,
        rule: None,
        upstream: None,
        mismatch: false,
        application: None,
        ech: false,
        ech_public_name: false,
        alpn: Vec::new(),
        tls_versions: Vec::new(),
        ja4: None,
    }
}

/// Records and tells the client in its own language.
async fn deny(
    worker: &Worker,
    stream: TcpStream,
    mut record: Connection,
    outcome: &Outcome,
    reason: Reason,
) {
    let shared = &worker.shared;
    shared.counters.add("connections_denied");
    shared.counters.add(reason.as_str());
    record.attempt.verdict = Verdict::Deny;
    record.attempt.reason = Some(reason.as_str().to_owned());
    shared.records.tell(Event::ConnectionOpen(record));
    match alert_for(outcome) {
        Some(alert) => alert::refuse(stream, alert).await,
        None => alert::reset(stream),
    }
}

/// `None` where the client does not speak TLS, or not so far that it would read an alert.
fn alert_for(outcome: &Outcome) -> Option<Alert> {
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

/// A connection of a known endpoint.
struct Walk<'a> {
    worker: &'a Rc<Worker>,
    endpoint: EndpointState,
    accepted: Instant,
    _ticket: Ticket,
}

/// What came of a dial.
type DialOutcome = Result<Dialled, DialError>;

/// Why there is no upstream.
enum NoUpstream {
    Denied(Reason),
    Failed(&'static str),
}

impl Walk<'_> {
    async fn run(self, mut stream: TcpStream, ask: Ask, mut record: Connection) {
        let (prefix, early) = self.detect(&mut stream, &ask).await;
        if prefix.outcome == Outcome::Nothing {
            // A client that raced several addresses and dropped this one; nothing was asked.
            self.worker.shared.counters.add("connections_without_data");
            return;
        }
        let ask = ask.with(&prefix.outcome);
        prefix.outcome.tell(&mut record);
        let refused = self.worker.resolver.refused();
        let authorised = ask.authorise(&self.endpoint, refused);
        record.answered_name = ask.told(&authorised).map(|name| name.as_str().to_owned());
        match &authorised {
            Authorised::Deny(reason) => {
                return deny(self.worker, stream, record, &prefix.outcome, *reason).await;
            }
            Authorised::Audit(reason) => {
                record.attempt.verdict = Verdict::Audit;
                record.attempt.reason = Some(reason.as_str().to_owned());
            }
            Authorised::Name { rule, .. }
            | Authorised::Answered { rule, .. }
            | Authorised::Original { rule } => {
                record.attempt.verdict = Verdict::Allow;
                record.rule = Some(rule.to_string());
            }
        }
        let upstream = self.upstream(&ask, &authorised, early, &mut record).await;
        match upstream {
            Ok(upstream) => {
                self.relay(stream, upstream, prefix, &ask, &authorised, record)
                    .await
            }
            Err(NoUpstream::Denied(reason)) => {
                deny(self.worker, stream, record, &prefix.outcome, reason).await;
            }
            Err(NoUpstream::Failed(reason)) => self.fail(stream, &prefix, record, reason).await,
        }
    }

    /// Reads the hello. Silence is only waited out where the original destination is good; else
    /// the whole time for the hello is the client's.
    async fn detect(&self, stream: &mut TcpStream, ask: &Ask) -> (Prefix, Option<DialOutcome>) {
        let limits = &self.worker.shared.limits;
        let original = ask.original(&self.endpoint, self.worker.resolver.refused());
        let silence = match original {
            Authorised::Deny(_) => limits.hello,
            Authorised::Answered { .. } => limits.greeting,
            Authorised::Original { .. } | Authorised::Audit(_) | Authorised::Name { .. } => {
                limits.silence
            }
        };
        let prefix = detect::detect(stream, silence, limits.hello).await;
        if prefix.outcome == Outcome::Silent && original.is_answered() {
            return self.greet(stream, ask, prefix).await;
        }
        (prefix, None)
    }

    /// Dials before anything was said, to see who speaks first.
    async fn greet(
        &self,
        stream: &mut TcpStream,
        ask: &Ask,
        silent: Prefix,
    ) -> (Prefix, Option<DialOutcome>) {
        let limits = &self.worker.shared.limits;
        let nothing = std::future::ready(Vec::new());
        let dialled = dial::dial(vec![ask.destination], nothing, ask.port, limits.connect).await;
        let late = match &dialled {
            Ok(dialled) => silence::late(stream, &dialled.stream, limits).await,
            Err(_error) => None,
        };
        // One that has gone meanwhile was dialled for, and is recorded like any other.
        let late = late.filter(|late| late.outcome != Outcome::Nothing);
        (late.unwrap_or(silent), Some(dialled))
    }

    async fn upstream(
        &self,
        ask: &Ask,
        authorised: &Authorised,
        early: Option<DialOutcome>,
        record: &mut Connection,
    ) -> Result<TcpStream, NoUpstream> {
        let dialled = match early.filter(|_| authorised.is_answered()) {
            Some(early) => early,
            None => self.dial(ask, authorised).await?,
        };
        let dialled = dialled.map_err(|error| NoUpstream::Failed(error.reason()))?;
        record.mismatch =
            !dialled.known.contains(&ask.destination) && !ask.was_told_for(authorised);
        record.upstream = Some(dialled.to);
        Ok(dialled.stream)
    }

    async fn dial(&self, ask: &Ask, authorised: &Authorised) -> Result<DialOutcome, NoUpstream> {
        let addresses = self.target(ask, authorised).await?;
        let later = async {
            match addresses.later {
                Some(later) => later.await,
                None => Vec::new(),
            }
        };
        let limit = self.worker.shared.limits.connect;
        Ok(dial::dial(addresses.first, later, ask.port, limit).await)
    }

    async fn target<'a>(
        &'a self,
        ask: &Ask,
        authorised: &'a Authorised,
    ) -> Result<Addresses<'a>, NoUpstream> {
        let Authorised::Name { name, .. } = authorised else {
            return Ok(Addresses {
                first: vec![ask.destination],
                later: None,
            });
        };
        let addresses = self.worker.resolver.addresses(name).await;
        addresses.map_err(|error| match error {
            ResolveError::Refused(_, refusal) => NoUpstream::Denied(Reason::Answer(refusal)),
            ResolveError::NoName
            | ResolveError::NoAddress
            | ResolveError::Timeout
            | ResolveError::Server(_) => NoUpstream::Failed(error.reason()),
        })
    }

    /// Allowed, but there is nobody to talk to.
    async fn fail(
        &self,
        stream: TcpStream,
        prefix: &Prefix,
        record: Connection,
        reason: &'static str,
    ) {
        self.open(&record);
        self.close(record, &Bytes::default(), reason);
        match alert_for(&prefix.outcome) {
            Some(_) => alert::refuse(stream, Alert::InternalError).await,
            None => alert::reset(stream),
        }
    }

    fn open(&self, record: &Connection) {
        let shared = &self.worker.shared;
        shared.counters.add(match record.attempt.verdict {
            Verdict::Audit => "connections_audited",
            Verdict::Allow | Verdict::Deny => "connections_allowed",
        });
        shared.records.tell(Event::ConnectionOpen(record.clone()));
    }

    fn close(&self, open: Connection, bytes: &Bytes, reason: &str) {
        let shared = &self.worker.shared;
        shared.counters.add("connections_closed");
        shared.counters.add_many("bytes_sent", bytes.sent.get());
        shared
            .counters
            .add_many("bytes_received", bytes.received.get());
        let elapsed = self.accepted.elapsed().as_millis();
        shared.records.tell(Event::ConnectionClose(ConnectionClose {
            open,
            bytes_sent: bytes.sent.get(),
            bytes_received: bytes.received.get(),
            duration_ms: u64::try_from(elapsed).unwrap_or(u64::MAX),
            close_reason: reason.to_owned(),
        }));
    }

    async fn relay(
        &self,
        mut stream: TcpStream,
        mut upstream: TcpStream,
        prefix: Prefix,
        ask: &Ask,
        authorised: &Authorised,
        record: Connection,
    ) {
        self.open(&record);
        super::listen::tune(&upstream);
        let bytes = Bytes::default();
        let reason = tokio::select! {
            end = self.replay_and_copy(&mut stream, &mut upstream, prefix, &bytes, authorised) => end,
            () = self.no_longer_allowed(ask, authorised) => "policy_changed",
        };
        self.close(record, &bytes, reason);
        if reason != splice::End::Eof.reason() {
            alert::reset(stream);
            alert::reset(upstream);
        }
    }

    /// Returns when a new generation does not allow the connection any more.
    async fn no_longer_allowed(&self, ask: &Ask, authorised: &Authorised) {
        let mut tables = self.worker.shared.table.clone();
        let refused = self.worker.resolver.refused();
        let still = |table: &Arc<Table>| {
            let endpoint = table.endpoint(ask.endpoint);
            endpoint.is_some_and(|e| authorised.still(&ask.authorise(e, refused)))
        };
        // The table may have changed since the decision was made.
        tables.mark_changed();
        while tables.changed().await.is_ok() {
            let table = tables.borrow_and_update().clone();
            if !still(&table) {
                return;
            }
        }
        // The control side is gone; the process is about to end.
        std::future::pending::<()>().await;
    }

    async fn replay_and_copy(
        &self,
        stream: &mut TcpStream,
        upstream: &mut TcpStream,
        prefix: Prefix,
        bytes: &Bytes,
        authorised: &Authorised,
    ) -> &'static str {
        let limits = &self.worker.shared.limits;
        let mut replayed = prefix.bytes;
        if prefix.outcome == Outcome::Silent && authorised.is_answered() {
            match silence::later(stream, upstream, limits).await {
                Ok(first) => replayed = first,
                Err(reason) => return reason,
            }
        }
        match timeout(limits.connect, upstream.write_all(&replayed)).await {
            Ok(Ok(())) => bytes.sent.set(replayed.len() as u64),
            Ok(Err(_gone)) => return splice::End::Upstream.reason(),
            Err(_elapsed) => return "replay_timeout",
        }
        drop(replayed);
        splice::copy_both(stream, upstream, bytes, limits.idle)
            .await
            .reason()
    }
}
