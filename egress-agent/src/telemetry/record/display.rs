//! One readable line per record, for a terminal.

use std::{fmt, net::SocketAddr};

use super::{
    Application, Attempt, Bypass, Connection, ConnectionClose, ConnectionsRepeated, DnsRefusal,
    Event, HttpRequest, Record, Verdict,
};

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.time, self.event)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectionOpen(open) => open.fmt(f),
            Self::ConnectionClose(close) => close.fmt(f),
            Self::ConnectionsRepeated(more) => more.fmt(f),
            Self::HttpRequest(request) => request.fmt(f),
            Self::Dns(refusal) => refusal.fmt(f),
            Self::Bypass(bypass) | Self::BypassRepeated(bypass) => bypass.fmt(f),
            Self::Lost(lost) => write!(f, "LOST  {} events of {}", lost.count, lost.source),
            Self::Posture(posture) => {
                let name = posture.endpoint.as_ref().map_or("node", |e| &e.name);
                write!(f, "STATE {name} {}", posture.state)
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
        })
    }
}

/// ` endpoint command[pid]`, control characters escaped: `comm` is the process's own to choose.
fn who(attempt: &Attempt, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let process = &attempt.process;
    let program = process.executable.as_deref().unwrap_or(&process.command);
    let (name, program) = (attempt.endpoint.name.escape_debug(), program.escape_debug());
    write!(f, "{name} {program}[{}]", process.pid)
}

fn reason(attempt: &Attempt, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match &attempt.reason {
        Some(reason) => write!(f, " ({reason})"),
        None => Ok(()),
    }
}

fn destination(attempt: &Attempt) -> String {
    match attempt.port {
        0 => attempt.destination.to_string(),
        port => SocketAddr::new(attempt.destination, port).to_string(),
    }
}

impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "tls",
            Self::Http1 => "http1",
            Self::Connect => "connect",
            Self::Http2 => "http2",
            Self::Opaque => "opaque",
            Self::Silent => "silent",
        })
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<5} ", self.attempt.verdict)?;
        who(&self.attempt, f)?;
        write!(f, " tcp {}", destination(&self.attempt))?;
        if let Some(application) = self.application {
            write!(f, " {application}")?;
        }
        if let Some(name) = self.name() {
            write!(f, " {name}")?;
        }
        if self.ech {
            f.write_str(" ech")?;
        }
        if self.ech_public_name {
            f.write_str(" public_name")?;
        }
        if let Some(upstream) = &self.upstream {
            write!(f, " -> {upstream}")?;
        }
        if self.mismatch {
            f.write_str(" mismatch")?;
        }
        reason(&self.attempt, f)?;
        if let Some(rule) = &self.rule {
            write!(f, " by {rule}")?;
        }
        match &self.ja4 {
            Some(ja4) => write!(f, " ja4 {ja4}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ConnectionClose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CLOSE ")?;
        who(&self.open.attempt, f)?;
        write!(f, " tcp {}", destination(&self.open.attempt))?;
        if let Some(name) = self.open.name() {
            write!(f, " {name}")?;
        }
        let (sent, received) = (self.bytes_sent, self.bytes_received);
        write!(
            f,
            " sent {sent} received {received} in {} ms",
            self.duration_ms
        )?;
        write!(f, " ({})", self.close_reason)
    }
}

impl fmt::Display for ConnectionsRepeated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<5} ", self.attempt.verdict)?;
        who(&self.attempt, f)?;
        write!(f, " tcp {}", destination(&self.attempt))?;
        reason(&self.attempt, f)?;
        write!(f, ", {} more", self.repeats)
    }
}

impl fmt::Display for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<5} ", self.of.attempt.verdict)?;
        who(&self.of.attempt, f)?;
        let method = self.method.as_deref().unwrap_or("?");
        let host = self.of.server_name.as_deref().unwrap_or("?");
        let path = self.path.as_deref().unwrap_or_default();
        write!(f, " http {method} {host}{path}")?;
        if let Some(upstream) = &self.of.upstream {
            let tls = if self.originated_tls { " tls" } else { "" };
            write!(f, " -> {upstream}{tls}")?;
        }
        if let Some(status) = self.status {
            write!(f, " {status}")?;
        }
        reason(&self.of.attempt, f)?;
        match &self.of.rule {
            Some(rule) => write!(f, " by {rule}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for DnsRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<5} ", self.attempt.verdict)?;
        who(&self.attempt, f)?;
        let name = self.name.escape_debug();
        write!(
            f,
            " dns {name} {} at {}",
            self.query_type,
            destination(&self.attempt)
        )?;
        if let Some(answer) = &self.answer {
            write!(f, " -> {answer}")?;
        }
        reason(&self.attempt, f)?;
        match self.count {
            1 => Ok(()),
            count => write!(f, " x{count}"),
        }
    }
}

impl fmt::Display for Bypass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<5} ", self.attempt.verdict)?;
        who(&self.attempt, f)?;
        if self.others {
            f.write_str(" to other destinations")?;
        } else {
            let to = destination(&self.attempt);
            write!(f, " {} {to}", self.attempt.protocol)?;
        }
        reason(&self.attempt, f)?;
        write!(f, " at {}", self.layer)?;
        match self.repeats {
            0 => Ok(()),
            repeats => write!(f, ", {repeats} more"),
        }
    }
}
