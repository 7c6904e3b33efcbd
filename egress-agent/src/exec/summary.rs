//! What became of a command's attempts, in a few lines.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::telemetry::record::{
    Attempt, Bypass, Connection, ConnectionClose, DnsRefusal, Event, Record, Verdict,
};

/// Lines of one outcome that are shown; the rest is summed up.
const SHOWN: usize = 12;

/// Counts, as records come.
#[derive(Debug, Default)]
pub struct Summary {
    rows: BTreeMap<Key, Row>,
    lost: u64,
    /// Allowed connections that have not ended.
    open: BTreeSet<u64>,
}

/// What became of it. In this order they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Allowed,
    Denied,
    Dropped,
    Audited,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    outcome: Outcome,
    what: String,
    /// One of it; a plural has an s.
    unit: &'static str,
    reason: String,
}

#[derive(Debug, Default)]
struct Row {
    count: u64,
    sent: u64,
    received: u64,
}

impl Summary {
    /// Takes a record in.
    pub fn add(&mut self, record: &Record) {
        match &record.event {
            Event::ConnectionOpen(open) => self.connection(open),
            Event::ConnectionClose(close) => self.close(close),
            Event::ConnectionsRepeated(more) => {
                let to = place(more.attempt.destination, more.attempt.port);
                self.row(Outcome::Denied, to, "connection", &more.attempt)
                    .count += more.repeats;
            }
            Event::Dns(refusal) => self.look_up(refusal),
            Event::Bypass(bypass) => self.bypass(bypass, 1),
            Event::BypassRepeated(bypass) => self.bypass(bypass, bypass.repeats),
            Event::Lost(lost) => self.lost += lost.count,
            // Of what its connection's records stand for already.
            Event::HttpRequest(_) | Event::Posture(_) => {}
        }
    }

    /// Whether an allowed connection is still open, as far as records tell.
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    fn connection(&mut self, open: &Connection) {
        if open.attempt.verdict != Verdict::Deny {
            self.open.insert(open.connection);
        }
        self.row(Outcome::Denied, name(open), "connection", &open.attempt)
            .count += 1;
    }

    fn close(&mut self, close: &ConnectionClose) {
        let open = &close.open;
        self.open.remove(&open.connection);
        let row = self.row(Outcome::Denied, name(open), "connection", &open.attempt);
        row.sent += close.bytes_sent;
        row.received += close.bytes_received;
        if open.upstream.is_none() {
            // Allowed, but there was nobody: a line of its own says why.
            row.count = row.count.saturating_sub(1);
            let mut attempt = open.attempt.clone();
            attempt.reason = Some(close.close_reason.clone());
            self.row(Outcome::Denied, name(open), "connection", &attempt)
                .count += 1;
        }
    }

    fn look_up(&mut self, refusal: &DnsRefusal) {
        let name = refusal.name.escape_debug().to_string();
        self.row(Outcome::Denied, name, "look-up", &refusal.attempt)
            .count += refusal.count;
    }

    fn bypass(&mut self, bypass: &Bypass, count: u64) {
        let Attempt {
            protocol,
            destination,
            port,
            ..
        } = &bypass.attempt;
        let what = match destination.is_unspecified() {
            true => protocol.to_string(),
            false => format!("{protocol} {}", place(*destination, *port)),
        };
        self.row(Outcome::Dropped, what, "attempt", &bypass.attempt)
            .count += count;
    }

    /// `denied` is what a verdict of deny is called here.
    fn row(
        &mut self,
        denied: Outcome,
        what: String,
        unit: &'static str,
        attempt: &Attempt,
    ) -> &mut Row {
        let outcome = match attempt.verdict {
            Verdict::Allow => Outcome::Allowed,
            Verdict::Audit => Outcome::Audited,
            Verdict::Deny => denied,
        };
        let reason = attempt.reason.clone().unwrap_or_default();
        self.rows
            .entry(Key {
                outcome,
                what,
                unit,
                reason,
            })
            .or_default()
    }

    fn count(&self, outcome: Outcome) -> u64 {
        let rows = self.rows.iter().filter(|(key, _)| key.outcome == outcome);
        rows.map(|(_, row)| row.count).sum()
    }
}

fn name(open: &Connection) -> String {
    match open.name() {
        Some(name) => format!("{name}:{}", open.attempt.port),
        None => place(open.attempt.destination, open.attempt.port),
    }
}

fn place(address: std::net::IpAddr, port: u16) -> String {
    match port {
        0 => address.to_string(),
        port => std::net::SocketAddr::new(address, port).to_string(),
    }
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Allowed, Self::Denied, Self::Dropped, Self::Audited];

    const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Dropped => "dropped",
            Self::Audited => "audited",
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = Outcome::ALL.map(|outcome| (outcome, self.count(outcome)));
        let tried = counts
            .into_iter()
            .filter(|(outcome, count)| *count > 0 || *outcome != Outcome::Audited);
        let totals: Vec<_> = tried
            .map(|(outcome, count)| format!("{count} {}", outcome.name()))
            .collect();
        write!(f, "{}", totals.join(", "))?;
        for (outcome, _) in counts {
            self.lines(outcome, f)?;
        }
        match self.lost {
            0 => Ok(()),
            lost => write!(
                f,
                "\n  lost     {lost} reports: the counts above are too low"
            ),
        }
    }
}

impl Summary {
    fn lines(&self, outcome: Outcome, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self
            .rows
            .iter()
            .filter(|(key, row)| key.outcome == outcome && row.count > 0);
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.count));
        let shown = rows.iter().take(SHOWN);
        let width = shown.clone().map(|(key, _)| key.what.len()).max();
        let width = width.unwrap_or_default();
        for (key, row) in shown {
            let Key {
                what, unit, reason, ..
            } = key;
            let plural = if row.count == 1 { "" } else { "s" };
            let (outcome, count) = (outcome.name(), row.count);
            write!(f, "\n  {outcome:<8} {what:<width$}  {count} {unit}{plural}")?;
            if row.sent + row.received > 0 {
                write!(f, ", {} bytes out, {} in", row.sent, row.received)?;
            }
            if !reason.is_empty() {
                write!(f, ", {reason}")?;
            }
        }
        match rows.get(SHOWN..).unwrap_or_default() {
            [] => Ok(()),
            more => write!(f, "\n  {:<8} … and {} more", outcome.name(), more.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::record::{EndpointRef, ProcessRef, Protocol};

    fn attempt(verdict: Verdict, reason: Option<&str>) -> Attempt {
        Attempt {
            endpoint: EndpointRef::default(),
            process: ProcessRef::default(),
            destination: "198.51.100.7".parse().unwrap(),
            port: 443,
            protocol: Protocol::Tcp,
            verdict,
            reason: reason.map(str::to_owned),
        }
    }

    fn open(verdict: Verdict, reason: Option<&str>) -> Connection {
        Connection {
            server_name: Some("repo.test".into()),
            ..Connection::new(7, attempt(verdict, reason))
        }
    }

    fn closed(upstream: Option<&str>, reason: &str) -> Event {
        let mut open = open(Verdict::Allow, None);
        open.upstream = upstream.map(|address| address.parse().unwrap());
        Event::ConnectionClose(ConnectionClose {
            open,
            bytes_sent: 5,
            bytes_received: 7,
            duration_ms: 1,
            splice: None,
            close_reason: reason.into(),
        })
    }

    fn bypass(repeats: u64) -> Bypass {
        Bypass {
            attempt: attempt(Verdict::Deny, Some("direct_udp")),
            layer: "sendmsg".into(),
            repeats,
            others: false,
            length: 0,
            cgroup: None,
        }
    }

    fn text(events: impl IntoIterator<Item = Event>) -> String {
        let mut summary = Summary::default();
        for event in events {
            summary.add(&Record::now(event));
        }
        summary.to_string()
    }

    #[test]
    fn all_outcomes_with_counts() {
        let text = text([
            Event::ConnectionOpen(open(Verdict::Allow, None)),
            closed(Some("203.0.113.1:443"), "eof"),
            Event::ConnectionOpen(open(Verdict::Deny, Some("host_not_allowed"))),
            Event::Bypass(bypass(0)),
            Event::BypassRepeated(bypass(4)),
        ]);
        assert_eq!(
            text,
            "1 allowed, 1 denied, 5 dropped\n  \
             allowed  repo.test:443  1 connection, 5 bytes out, 7 in\n  \
             denied   repo.test:443  1 connection, host_not_allowed\n  \
             dropped  tcp 198.51.100.7:443  5 attempts, direct_udp"
        );
    }

    #[test]
    fn nobody_there_is_said() {
        let text = text([
            Event::ConnectionOpen(open(Verdict::Allow, None)),
            closed(None, "resolve_no_name"),
        ]);
        assert!(text.contains("1 connection, resolve_no_name"), "{text}");
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn nothing_at_all() {
        assert_eq!(text([]), "0 allowed, 0 denied, 0 dropped");
    }
}
