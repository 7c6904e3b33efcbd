//! The records: one JSON object a line, with a versioned schema.

use std::{fmt, net::IpAddr, net::SocketAddr};

use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// The version of the records. Fields may be added within it; none changes its meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Schema {
    /// `egress-agent.dev/v1`.
    #[default]
    #[serde(rename = "egress-agent.dev/v1")]
    V1,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version.
    pub schema: Schema,
    /// When it happened.
    pub time: Timestamp,
    /// What happened; `kind` in JSON.
    #[serde(flatten)]
    pub event: Event,
}

impl Record {
    /// A record of now.
    pub fn now(event: Event) -> Self {
        Self {
            schema: Schema::V1,
            time: Timestamp::now(),
            event,
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum Event {
    /// A connection reached the gateway and was decided. A denied one has no close record.
    #[serde(rename = "connection.open")]
    ConnectionOpen(Connection),
    /// A connection that was not denied has ended.
    #[serde(rename = "connection.close")]
    ConnectionClose(ConnectionClose),
    /// More connections that the gateway did not let in, for the same reason and within a window.
    #[serde(rename = "connection.repeated")]
    ConnectionsRepeated(ConnectionsRepeated),
    /// A request of plain HTTP, once it is over.
    #[serde(rename = "http.request")]
    HttpRequest(HttpRequest),
    /// Look-ups that were refused, or would have been.
    #[serde(rename = "dns")]
    Dns(DnsRefusal),
    /// The kernel denied a packet or call: the first of its key in a window.
    #[serde(rename = "bypass")]
    Bypass(Bypass),
    /// More of the same key within the window.
    #[serde(rename = "bypass.repeated")]
    BypassRepeated(Bypass),
    /// Events that could not be delivered.
    #[serde(rename = "lost")]
    Lost(Lost),
    /// What is attached and in force.
    #[serde(rename = "posture")]
    Posture(Posture),
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It passed, since a rule allows it.
    Allow,
    /// It did not pass.
    Deny,
    /// It passed, though nothing allows it: the endpoint is in audit mode.
    Audit,
}

/// Whose attempt it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRef {
    /// The endpoint's number on this node.
    pub id: u32,
    /// Its name; empty where the number is unknown.
    pub name: String,
}

/// The process that made the socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    /// In the initial pid namespace; 0 where unknown.
    pub pid: u32,
    /// In the initial user namespace.
    pub uid: u32,
    /// `comm`.
    pub command: String,
    /// The executable's path, where it could still be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
    /// When the socket was made, nanoseconds of `CLOCK_BOOTTIME`; 0 where unknown. A process of
    /// this pid that started later is another one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub created_ns: u64,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl From<&egress_common::process::Process> for ProcessRef {
    fn from(process: &egress_common::process::Process) -> Self {
        Self {
            pid: process.pid,
            uid: process.uid,
            command: process.command().to_owned(),
            executable: None,
            created_ns: process.created_ns,
        }
    }
}

/// A transport protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// 6.
    Tcp,
    /// 17.
    Udp,
    /// 1.
    Icmp,
    /// 58.
    Icmpv6,
    /// Any other, by its number.
    #[serde(untagged)]
    Other(u8),
}

impl From<u8> for Protocol {
    fn from(number: u8) -> Self {
        match number {
            6 => Self::Tcp,
            17 => Self::Udp,
            1 => Self::Icmp,
            58 => Self::Icmpv6,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Icmp => f.write_str("icmp"),
            Self::Icmpv6 => f.write_str("icmpv6"),
            Self::Other(number) => write!(f, "protocol {number}"),
        }
    }
}

/// What every attempt has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Whose.
    pub endpoint: EndpointRef,
    /// By which process.
    pub process: ProcessRef,
    /// The original destination.
    pub destination: IpAddr,
    /// Its port; 0 where the protocol has none.
    pub port: u16,
    /// The transport.
    pub protocol: Protocol,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, where it was not simply allowed: a stable snake_case name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An application protocol, as a connection's first bytes show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Application {
    /// TLS, good or bad.
    Tls,
    /// HTTP/1 without TLS.
    Http1,
    /// HTTP/1, for a tunnel.
    Connect,
    /// HTTP/2 without TLS.
    Http2,
    /// Anything else.
    Opaque,
    /// Not a byte came: the client waits for the server to speak.
    Silent,
}

/// A connection that reached the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Tells its two records together; unique within a run of the gateway.
    pub connection: u64,
    /// The attempt.
    #[serde(flatten)]
    pub attempt: Attempt,
    /// What it speaks, by its first bytes; none where it was decided before any were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<Application>,
    /// The name that it asked for, canonical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Of a connection that says no name itself, the one that the endpoint was told the destination
    /// for: the one that is allowed, else the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_name: Option<String>,
    /// What the client had asked the gateway for, as a proxy, where it is in a tunnel: `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// What decided: `EgressPolicy shop/orders egress[0]`, `--allow repo.test`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Where the gateway dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<SocketAddr>,
    /// The address that was dialled by the endpoint is none of those that the name has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mismatch: bool,
    /// The hello carries Encrypted Client Hello (every browser's does); the decision is on the
    /// outer name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ech: bool,
    /// The name is a known public name of Encrypted Client Hello: it stands for any site of its
    /// provider.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ech_public_name: bool,
    /// The application protocols that the hello offers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
    /// The versions of TLS that the hello offers: `1.3`, `1.2`, …; by their number where unknown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls_versions: Vec<String>,
    /// The JA4 fingerprint of the hello, which tells TLS clients apart by what they offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ja4: Option<String>,
}

impl Connection {
    /// Of which nothing is known yet but whose it is.
    pub const fn new(connection: u64, attempt: Attempt) -> Self {
        Self {
            connection,
            attempt,
            application: None,
            server_name: None,
            answered_name: None,
            tunnel: None,
            rule: None,
            upstream: None,
            mismatch: false,
            ech: false,
            ech_public_name: false,
            alpn: Vec::new(),
            tls_versions: Vec::new(),
            ja4: None,
        }
    }

    /// The name that it is about: the server's, or the one that the destination was told for.
    pub fn name(&self) -> Option<&str> {
        self.server_name
            .as_deref()
            .or(self.answered_name.as_deref())
    }
}

/// Connections of an endpoint that were not let in, beside one that was told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionsRepeated {
    /// The one that was told of.
    #[serde(flatten)]
    pub attempt: Attempt,
    /// How many more.
    pub repeats: u64,
}

/// The end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionClose {
    /// As in its open record.
    #[serde(flatten)]
    pub open: Connection,
    /// Bytes from the endpoint that were written upstream.
    pub bytes_sent: u64,
    /// Bytes from upstream that were written to the endpoint.
    pub bytes_received: u64,
    /// From acceptance, milliseconds.
    pub duration_ms: u64,
    /// How its bytes were moved where they were many; none where they were few, or are HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub splice: Option<Splice>,
    /// Why it ended: a stable snake_case name.
    pub close_reason: String,
}

/// Whether the kernel moved the bytes of a tunnel by `splice(2)`, or the gateway copied them. Of
/// several that hold for one tunnel, the last here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Splice {
    /// The kernel did, once there were many.
    Used,
    /// Copied at least in part, since the user's pipes are all in use.
    NoPipe,
    /// Copied, since the kernel does not splice these sockets.
    Refused,
}

/// A request of plain HTTP. Never its query, nor the value of a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRequest {
    /// The connection that it came on, with this request's host, verdict and upstream.
    #[serde(flatten)]
    pub of: Connection,
    /// As it was sent; none where the request could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Normalised; its first 1,024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Of the answer; none where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Whether the gateway started TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub originated_tls: bool,
    /// Whether it asked for a WebSocket.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub websocket: bool,
    /// Bytes of its body.
    pub bytes_sent: u64,
    /// Bytes of the answer's body.
    pub bytes_received: u64,
    /// From its head to the end of the answer, milliseconds.
    pub duration_ms: u64,
    /// How it ended: a stable snake_case name.
    pub close_reason: String,
}

impl HttpRequest {
    /// One that could not be read.
    pub fn unread(of: Connection) -> Self {
        Self {
            of,
            method: None,
            path: None,
            status: None,
            originated_tls: false,
            websocket: false,
            bytes_sent: 0,
            bytes_received: 0,
            duration_ms: 0,
            close_reason: String::new(),
        }
    }
}

/// Look-ups that policy does not allow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRefusal {
    /// The attempt; the destination is the resolver that was asked.
    #[serde(flatten)]
    pub attempt: Attempt,
    /// The name, as it was asked, escaped to ASCII.
    pub name: String,
    /// The record type.
    pub query_type: String,
    /// Of an allowed name that leads to nothing but refused addresses, the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<IpAddr>,
    /// How many queries this record stands for.
    pub count: u64,
}

/// A denied packet or call, from the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bypass {
    /// The attempt.
    #[serde(flatten)]
    pub attempt: Attempt,
    /// The hook that saw it first.
    pub layer: String,
    /// For `bypass.repeated`, how many more; otherwise 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeats: u64,
    /// Whether it stands for attempts to many destinations, which had no room to be told apart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub others: bool,
    /// Bytes in the packet, where there was one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub length: u64,
    /// The cgroup's path, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

/// Events that could not be delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Where: `perf`, `gateway`.
    pub source: String,
    /// How many, since the last such record.
    pub count: u64,
}

/// What is attached and in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Posture {
    /// About which endpoint; none for the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointRef>,
    /// `ready`, `not_ready`, `changed`, …
    pub state: String,
    /// The particulars.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub detail: serde_json::Map<String, serde_json::Value>,
}

mod display;

#[cfg(test)]
mod tests;
