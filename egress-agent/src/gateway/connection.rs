//! One connection's walk: identify, detect, authorise, resolve, dial, replay and splice, record.

mod said;

use std::{os::fd::AsFd, rc::Rc, sync::Arc, time::Instant};

use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

pub(super) use said::tell_close;
use said::{alert_for, deny, open_record, shed};

use super::{
    admit::Ticket,
    alert::{self, Alert},
    authorise::{Ask, Authorised},
    detect::{self, Detected, Outcome, Prefix},
    dial::{DialError, Dialled},
    http,
    reason::Reason,
    resolve::{Addresses, ResolveError},
    silence,
    splice::{self, Relayed},
    table::{EndpointState, Table},
    worker::{Shared, Worker},
};
use crate::telemetry::record::{Connection, Event, Verdict};

/// Serves one accepted connection to its end.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream) {
    // What it takes to get so far is given back, since a tunnel may last for days.
    if let Some(tunnel) = Box::pin(begin(worker, stream)).await {
        tunnel.relay().await;
    }
}

/// Everything before the relay; `None` where there is none to be.
async fn begin(worker: Rc<Worker>, stream: TcpStream) -> Option<Box<Tunnel>> {
    let shared = &worker.shared;
    shared.counters.add("connections_accepted");
    let origin = match shared.identify.connection(stream.as_fd()) {
        Ok(origin) => origin,
        Err(_none) => {
            shared.counters.add("connections_without_origin");
            alert::reset(stream);
            return None;
        }
    };
    let table = shared.table.borrow().clone();
    let Some(endpoint) = table.endpoint(origin.endpoint).cloned() else {
        shed(shared, stream, &origin, "", Reason::UnknownEndpoint);
        return None;
    };
    let admitted = shared.admission.enter(&endpoint.usage, &shared.limits);
    let ticket = match admitted {
        Ok(ticket) => ticket,
        Err(reason) => {
            shed(shared, stream, &origin, &endpoint.name, reason);
            return None;
        }
    };
    let record = open_record(&origin, &endpoint.name, ticket.number);
    let destination = origin.destination.to_ip();
    let answered = &shared.answered;
    let answered = answered.names(origin.endpoint, &endpoint.name, destination);
    let walk = Walk {
        worker,
        endpoint,
        accepted: Instant::now(),
        _ticket: ticket,
    };
    walk.run(stream, Ask::new(&origin, answered), record).await
}

/// A connection of a known endpoint.
struct Walk {
    worker: Rc<Worker>,
    endpoint: EndpointState,
    accepted: Instant,
    _ticket: Ticket,
}

/// A connection with both its ends.
struct Tunnel {
    walk: Walk,
    stream: TcpStream,
    upstream: TcpStream,
    prefix: Prefix,
    ask: Ask,
    authorised: Authorised,
    record: Connection,
}

/// What came of a dial.
type DialOutcome = Result<Dialled, DialError>;

/// Why there is no upstream.
pub(super) enum NoUpstream {
    /// Where it leads is refused.
    Denied(Reason),
    /// Nobody answers; the stable name of how.
    Failed(&'static str),
}

impl From<ResolveError> for NoUpstream {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Refused(_, refusal) => Self::Denied(Reason::Answer(refusal)),
            ResolveError::NoName
            | ResolveError::NoAddress
            | ResolveError::Timeout
            | ResolveError::Server(_) => Self::Failed(error.reason()),
        }
    }
}

impl From<DialError> for NoUpstream {
    fn from(error: DialError) -> Self {
        Self::Failed(error.reason())
    }
}

impl Walk {
    async fn run(
        self,
        mut stream: TcpStream,
        ask: Ask,
        mut record: Connection,
    ) -> Option<Box<Tunnel>> {
        let (mut prefix, mut early) = self.detect(&mut stream, &ask).await;
        if prefix.outcome == Outcome::Nothing {
            // A client that raced several addresses and dropped this one; nothing was asked.
            self.worker.shared.counters.add("connections_without_data");
            return None;
        }
        let mut ask = ask.with(&prefix.outcome);
        prefix.outcome.tell(&mut record);
        if is_http(&prefix.outcome) {
            let served = self.serve_http(stream, prefix, ask, &mut record);
            (stream, prefix, ask) = Box::pin(served).await?;
            // What was dialled before the first request is not for what comes after the last one.
            early = None;
        }
        // Some time has gone by: the policy of now decides.
        let table = self.worker.shared.table.borrow().clone();
        let Some(endpoint) = table.endpoint(ask.endpoint) else {
            let unknown = Reason::UnknownEndpoint;
            deny(&self.worker, stream, record, &prefix.outcome, unknown).await;
            return None;
        };
        let authorised = ask.authorise(endpoint, self.worker.resolver.refused());
        record.answered_name = ask.told(&authorised).map(|name| name.as_str().to_owned());
        match &authorised {
            Authorised::Deny(reason) => {
                deny(&self.worker, stream, record, &prefix.outcome, *reason).await;
                return None;
            }
            Authorised::Audit(reason) | Authorised::AuditName { reason, .. } => {
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
                return Some(Box::new(Tunnel {
                    walk: self,
                    stream,
                    upstream,
                    prefix,
                    ask,
                    authorised,
                    record,
                }));
            }
            Err(NoUpstream::Denied(reason)) => {
                deny(&self.worker, stream, record, &prefix.outcome, reason).await;
            }
            Err(NoUpstream::Failed(reason)) => self.fail(stream, &prefix, record, reason).await,
        }
        None
    }

    /// Reads the hello. Silence is only waited out where the original destination is good; else
    /// the whole time for the hello is the client's.
    async fn detect(&self, stream: &mut TcpStream, ask: &Ask) -> (Prefix, Option<DialOutcome>) {
        let limits = &self.worker.shared.limits;
        let original = ask.original(&self.endpoint, self.worker.resolver.refused());
        let silence = match original {
            Authorised::Deny(_) => limits.hello,
            Authorised::Answered { .. } => limits.greeting,
            Authorised::Original { .. }
            | Authorised::Audit(_)
            | Authorised::Name { .. }
            | Authorised::AuditName { .. } => limits.silence,
        };
        let prefix = detect::detect(stream, silence, limits.hello).await;
        if prefix.outcome == Outcome::Silent && original.is_answered() {
            return Box::pin(self.greet(stream, ask, prefix)).await;
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
        let address = Addresses::one(ask.destination);
        let dialled = address.dial(ask.port, limits.connect).await;
        let late = match &dialled {
            Ok(dialled) => silence::late(stream, &dialled.stream, limits).await,
            Err(_error) => None,
        };
        // One that has gone meanwhile was dialled for, and is recorded like any other.
        let late = late.filter(|late| late.outcome != Outcome::Nothing);
        (late.unwrap_or(silent), Some(dialled))
    }

    /// Serves requests; what goes on as something else, if anything does.
    async fn serve_http(
        &self,
        stream: TcpStream,
        prefix: Prefix,
        mut ask: Ask,
        record: &mut Connection,
    ) -> Option<(TcpStream, Prefix, Ask)> {
        let bytes = prefix.into_bytes();
        let served = http::serve(&self.worker, &ask, record, self.accepted, stream, bytes);
        let mut rest = served.await?;
        let Shared {
            admission,
            limits,
            answered,
            ..
        } = &self.worker.shared;
        if rest.was_open {
            record.connection = admission.number();
        }
        // Requests may have been served for hours.
        ask.answered = answered.names(ask.endpoint, &self.endpoint.name, ask.destination);
        let prefix = match &rest.connect {
            Some(connect) => {
                let prefix = self.tunnel(&mut rest.stream, rest.bytes).await;
                record.tunnel = Some(format!("{}:{}", connect.host, connect.port));
                ask = ask.inside(connect, &prefix.outcome);
                prefix
            }
            None => {
                // What comes behind requests may be anything, as at the beginning.
                let (bytes, stream) = (rest.bytes, &mut rest.stream);
                let prefix = detect::detect_after(bytes, stream, limits.hello, limits.hello).await;
                ask = ask.with(&prefix.outcome).because(rest.reason);
                prefix
            }
        };
        prefix.outcome.tell(record);
        Some((rest.stream, prefix, ask))
    }

    /// Tells the client that it has its tunnel, and looks what comes in it.
    async fn tunnel(&self, stream: &mut TcpStream, bytes: Vec<u8>) -> Prefix {
        let hello = self.worker.shared.limits.hello;
        match timeout(hello, stream.write_all(http::connect::ESTABLISHED)).await {
            Ok(Ok(())) => detect::detect_after(bytes, stream, hello, hello).await,
            Ok(Err(_)) | Err(_) => Prefix::nothing(),
        }
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
        let dialled = dialled?;
        // Who dials the gateway itself, as a proxy, leaves it to say where.
        let is_proxy = self.worker.resolver.refused().is_own(ask.destination);
        record.mismatch =
            !is_proxy && !dialled.known.contains(&ask.destination) && !ask.was_told_for(authorised);
        record.upstream = Some(dialled.to);
        Ok(dialled.stream)
    }

    async fn dial(&self, ask: &Ask, authorised: &Authorised) -> Result<DialOutcome, NoUpstream> {
        let addresses = match authorised {
            Authorised::Name { name, .. } | Authorised::AuditName { name, .. } => {
                self.worker.resolver.addresses(name).await?
            }
            Authorised::Original { .. }
            | Authorised::Answered { .. }
            | Authorised::Audit(_)
            | Authorised::Deny(_) => Addresses::one(ask.destination),
        };
        let limit = self.worker.shared.limits.connect;
        Ok(addresses.dial(ask.port, limit).await)
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
        self.close(record, &Relayed::default(), reason);
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

    fn close(&self, open: Connection, relayed: &Relayed, reason: &str) {
        let (bytes, splice) = (&relayed.bytes, relayed.splice.get());
        tell_close(
            &self.worker.shared,
            open,
            bytes,
            splice,
            self.accepted,
            reason,
        );
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

    /// Sends what was read so far.
    ///
    /// # Errors
    /// The close reason, where the connection ends with it.
    async fn replay(
        &self,
        stream: &mut TcpStream,
        upstream: &mut TcpStream,
        mut prefix: Prefix,
        relayed: &Relayed,
        authorised: &Authorised,
    ) -> Result<(), &'static str> {
        let limits = &self.worker.shared.limits;
        if prefix.outcome == Outcome::Silent && authorised.is_answered() {
            prefix.bytes = silence::later(stream, upstream, limits).await?;
        }
        match timeout(limits.connect, upstream.write_all(&prefix.bytes)).await {
            Ok(Ok(())) => relayed.bytes.sent.set(prefix.bytes.len() as u64),
            Ok(Err(_gone)) => return Err(splice::End::Upstream.reason()),
            Err(_elapsed) => return Err("replay_timeout"),
        }
        Ok(())
    }
}

impl Tunnel {
    async fn relay(mut self: Box<Self>) {
        self.walk.open(&self.record);
        super::listen::tune(&self.upstream);
        let relayed = Relayed::default();
        let prefix = std::mem::replace(&mut self.prefix, Prefix::nothing());
        let replay = self.walk.replay(
            &mut self.stream,
            &mut self.upstream,
            prefix,
            &relayed,
            &self.authorised,
        );
        let limits = &self.walk.worker.shared.limits;
        let (idle, lifetime, accepted) = (limits.idle, limits.lifetime, self.walk.accepted);
        // Of its own, and given back before the relay goes on.
        let replayed = tokio::select! {
            replayed = Box::pin(replay) => replayed,
            () = self.walk.no_longer_allowed(&self.ask, &self.authorised) => Err("policy_changed"),
            () = splice::lifetime_over(accepted, lifetime) => Err(splice::LIFETIME),
        };
        let reason = match replayed {
            Err(reason) => reason,
            Ok(()) => tokio::select! {
                end = splice::copy_both(&mut self.stream, &mut self.upstream, &relayed, idle) => end.reason(),
                () = self.walk.no_longer_allowed(&self.ask, &self.authorised) => "policy_changed",
                () = splice::lifetime_over(accepted, lifetime) => splice::LIFETIME,
            },
        };
        let Self {
            walk,
            stream,
            upstream,
            record,
            ..
        } = *self;
        walk.close(record, &relayed, reason);
        if reason != splice::End::Eof.reason() {
            alert::reset(stream);
            alert::reset(upstream);
        }
    }
}

/// Whether it is judged as HTTP, also where that refuses it.
fn is_http(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Decided(Detected::Http1(_) | Detected::Connect | Detected::Http2)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the future that an asynchronous function makes.
    fn size<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_a_tunnel_waits_with_is_small() {
        let bytes = size(serve);
        assert!(bytes < 1_536, "the future takes {bytes} bytes");
    }
}
