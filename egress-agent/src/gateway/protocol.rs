//! What enforcer and gateway say to each other: JSON, one message a line, over a Unix stream.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    inherit::Inherited,
    resolve::{cache::CacheBounds, server::NameServer},
};
use crate::{
    policy::rule::{Mode, Rule},
    telemetry::record::Record,
};

/// Enforcer to gateway. The first message is `Configure`, once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(
    clippy::large_enum_variant,
    reason = "the large one is sent once in a gateway's life"
)]
pub enum ToGateway {
    /// Where to listen and how; answered by `Ready` or `Failed`.
    Configure(Configure),
    /// Who the endpoints are and what they may reach, all of it; answered by `Applied`. Until
    /// the first, everybody is unknown and denied.
    Endpoints(Endpoints),
    /// Answered by `Counters`.
    Count,
    /// Takes connections and look-ups, where it has been configured with inherited sockets; answered
    /// by `Serves` or `Failed`.
    Serve,
    /// No more connections and look-ups: another gateway has the same sockets. Answered by
    /// `Drained`, when those that there are have ended.
    Drain,
}

/// Gateway to enforcer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FromGateway {
    /// All sockets listen; inherited ones are not served yet.
    Ready {
        /// For connections, with the ports that the kernel chose where 0 was asked for.
        listen: Vec<SocketAddr>,
        /// For DNS over UDP and TCP.
        dns: Vec<SocketAddr>,
    },
    /// It cannot work, and ends.
    Failed {
        /// One line: what, where, what to do.
        message: String,
    },
    /// This generation is in force.
    Applied {
        /// As in `Endpoints`.
        generation: u64,
    },
    /// A record for the log.
    Record(Box<Record>),
    /// Totals since the start, by name.
    Counters(BTreeMap<String, u64>),
    /// It takes connections and look-ups.
    Serves,
    /// No connection and no look-up is left, and all was told.
    Drained,
}

/// How the gateway works; fixed for its life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Configure {
    /// For connections. Port 0 lets the kernel choose.
    pub listen: Vec<SocketAddr>,
    /// For DNS, UDP and TCP on each.
    pub dns: Vec<SocketAddr>,
    /// Sockets that another gateway listens on as well, in place of new ones; nothing is taken until
    /// `Serve`.
    #[serde(default, skip_serializing_if = "Inherited::is_empty")]
    pub inherited: Inherited,
    /// Threads; one per processor where it is absent.
    #[serde(default)]
    pub workers: Option<usize>,
    /// Servers for the gateway's own look-ups; the node's resolv.conf where it is empty.
    #[serde(default)]
    pub resolvers: Vec<NameServer>,
    /// PEM, for DNS over TLS; the system's root certificates where it is absent.
    #[serde(default)]
    pub resolver_roots: Option<PathBuf>,
    /// How much of what they say is kept, and for how long.
    #[serde(default)]
    pub cache: CacheBounds,
    /// The operator's own names; read again when it changes.
    #[serde(default = "hosts_file")]
    pub hosts_file: PathBuf,
    /// How much longer than its time to live an address that an endpoint was told is good for
    /// protocols that say no name.
    #[serde(default = "answer_grace")]
    pub answer_grace: Duration,
    /// Networks that a name may resolve to although they are not public.
    #[serde(default)]
    pub permitted_answers: Vec<IpNet>,
    /// Networks that no name may resolve to, even if `permitted_answers` has them.
    #[serde(default)]
    pub refused_answers: Vec<IpNet>,
    /// Addresses of the gateway beside those that it listens on: never dialled.
    #[serde(default)]
    pub own_addresses: Vec<IpAddr>,
    /// Authorities whose certificates are trusted where the gateway starts TLS, PEM.
    #[serde(default)]
    pub roots: String,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
}

fn hosts_file() -> PathBuf {
    PathBuf::from(super::hosts::FILE)
}

fn answer_grace() -> Duration {
    super::answered::GRACE
}

impl Configure {
    /// With everything else as it is by default.
    pub fn new(listen: Vec<SocketAddr>, dns: Vec<SocketAddr>) -> Self {
        Self {
            listen,
            dns,
            inherited: Inherited::default(),
            workers: None,
            resolvers: Vec::new(),
            resolver_roots: None,
            cache: CacheBounds::default(),
            hosts_file: hosts_file(),
            answer_grace: answer_grace(),
            permitted_answers: Vec::new(),
            refused_answers: Vec::new(),
            own_addresses: Vec::new(),
            roots: String::new(),
            limits: Limits::default(),
        }
    }
}

/// Bounds of the gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Limits {
    /// Open connections in all; more are reset and recorded.
    pub connections: usize,
    /// Open connections of one endpoint.
    pub connections_per_endpoint: usize,
    /// For the whole hello, from acceptance.
    pub hello: Duration,
    /// After which a client that has sent nothing counts as opaque.
    pub silence: Duration,
    /// After which the server of a client that has sent nothing is dialled, to see who speaks first,
    /// where the address was answered for an allowed name.
    pub greeting: Duration,
    /// For the dial upstream, all addresses together.
    pub connect: Duration,
    /// For one look-up.
    pub resolve: Duration,
    /// Without a byte in either direction.
    pub idle: Duration,
    /// Between requests of one connection.
    pub keep_alive: Duration,
    /// While a request is served, without a byte of it or of its answer.
    pub http_idle: Duration,
    /// Look-ups of endpoints under way at once, per worker.
    pub lookups: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Two descriptors each, and the machines' limit is often 20,000.
            connections: 8_192,
            connections_per_endpoint: 4_096,
            hello: Duration::from_secs(10),
            silence: Duration::from_secs(3),
            // Most hellos are there by then, and who waits for a greeting hardly notices.
            greeting: Duration::from_millis(300),
            connect: Duration::from_secs(10),
            resolve: Duration::from_secs(5),
            idle: Duration::from_secs(3_600),
            // As long as browsers and servers commonly keep one.
            keep_alive: Duration::from_secs(75),
            // A server may think, and streams of events are silent, for some minutes.
            http_idle: Duration::from_secs(300),
            lookups: 1_024,
        }
    }
}

/// All endpoints and their policies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoints {
    /// Rises with every message.
    pub generation: u64,
    /// Every endpoint of the node.
    pub endpoints: Vec<Endpoint>,
    /// By the number that endpoints give; several may share one.
    pub policies: BTreeMap<u32, Arc<Vec<Rule>>>,
    /// Networks that no name may lead to, however public they are.
    #[serde(default)]
    pub refused: RefusedNetworks,
}

/// What is the node's or the cluster's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RefusedNetworks {
    /// The node's own addresses, but for those that the operator has named.
    #[serde(default)]
    pub node: Vec<IpNet>,
    /// The networks of pods and Services.
    #[serde(default)]
    pub cluster: Vec<IpNet>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// As in `Origin::endpoint`.
    pub id: u32,
    /// For records.
    pub name: String,
    /// Enforce or Audit.
    pub mode: Mode,
    /// A number in `policies`; an unknown one allows nothing.
    pub policy: u32,
    /// Whether a loopback destination means the node's own loopback and is judged by the policy;
    /// otherwise it is denied.
    #[serde(default)]
    pub relay_loopback: bool,
}

/// Why the control stream is at an end.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Reading or writing failed.
    #[error("the control stream failed: {0}")]
    Io(#[from] std::io::Error),
    /// A line is no message.
    #[error("the peer sent a message that is none: {0}")]
    Message(#[from] serde_json::Error),
    /// A line is longer than any message.
    #[error("the peer sent a line of more than {0} bytes")]
    Long(u64),
}

/// Bytes in a message to the gateway: a node's whole policy.
pub const TO_GATEWAY_MAX: u64 = 256 << 20;
/// Bytes in a message from the gateway, which may have been taken over.
pub const FROM_GATEWAY_MAX: u64 = 1 << 20;

/// Writes one message.
///
/// # Errors
/// Writing fails, or the message has no JSON form.
pub async fn write_message<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> Result<(), ControlError> {
    write_messages(stream, std::slice::from_ref(message)).await
}

/// Writes several at once.
///
/// # Errors
/// Writing fails, or a message has no JSON form.
pub async fn write_messages<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    messages: &[T],
) -> Result<(), ControlError> {
    let mut lines = Vec::new();
    for message in messages {
        serde_json::to_writer(&mut lines, message)?;
        lines.push(b'\n');
    }
    stream.write_all(&lines).await?;
    Ok(stream.flush().await?)
}

/// Reads one message; `None` at the end of the stream. Not to be cancelled half-way.
///
/// # Errors
/// Reading fails, the line is longer than `max` bytes, or it is no message.
pub async fn read_message<T: DeserializeOwned>(
    stream: &mut (impl AsyncBufRead + Unpin),
    max: u64,
) -> Result<Option<T>, ControlError> {
    let mut line = Vec::new();
    let read = (&mut *stream)
        .take(max)
        .read_until(b'\n', &mut line)
        .await?;
    if read == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return match read as u64 >= max {
            true => Err(ControlError::Long(max)),
            false => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        };
    }
    Ok(Some(serde_json::from_slice(&line)?))
}
