//! Requests of plain HTTP, and the rules that allow them.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    evaluate::DenyReason,
    host::{HostName, HostPattern},
    path::{Path, PathPattern},
    port::PortRange,
};

/// The port that TLS is originated to where a rule names none.
pub const ORIGINATION_PORT: u16 = 443;

/// A request, as far as a decision depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The host that it names.
    pub host: HostName,
    /// The port that was dialled.
    pub port: u16,
    /// Its method, as it was written.
    pub method: String,
    /// Its path, normalised.
    pub path: Path,
    /// The fields that go to the server: names in lower case, values without the white space
    /// around them.
    pub fields: Vec<(String, Vec<u8>)>,
    /// Whether it asks for a WebSocket.
    pub websocket: bool,
}

/// Plain HTTP that a rule allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRule {
    /// The names, never empty.
    pub hosts: Vec<HostPattern>,
    /// The methods; all where it is empty.
    #[serde(
        default,
        deserialize_with = "not_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub methods: Vec<Method>,
    /// The paths; all where it is empty.
    #[serde(
        default,
        deserialize_with = "not_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub paths: Vec<PathPattern>,
    /// Fields that a request must have, every one of them.
    #[serde(
        default,
        deserialize_with = "not_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub headers: Vec<HeaderPattern>,
    /// Whether a request may ask for a WebSocket.
    #[serde(default)]
    pub websocket: bool,
    /// Whether the gateway starts TLS upstream.
    #[serde(default, rename = "originateTLS")]
    pub originate_tls: bool,
    /// The port that is dialled; with `originateTLS` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_port: Option<u16>,
}

/// A list that was written must have something in it: an empty one could be read as nothing.
fn not_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = Vec::deserialize(deserializer)?;
    match list.is_empty() {
        true => Err(serde::de::Error::custom(
            "the list is empty; write what is allowed, or leave the field out",
        )),
        false => Ok(list),
    }
}

impl HttpRule {
    /// Whether it makes sense as a whole.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.hosts.is_empty() {
            return Err("\"hosts\" is empty; write the hosts, or leave the rule out");
        }
        match self.upstream_port {
            Some(0) => Err("\"upstreamPort\" is a port from 1 to 65535"),
            Some(_) if !self.originate_tls => Err(
                "\"upstreamPort\" is for \"originateTLS: true\"; else the port that was dialled is dialled",
            ),
            Some(_) | None => Ok(()),
        }
    }

    /// The port to dial for a request to this one.
    pub fn dials(&self, port: u16) -> u16 {
        match self.originate_tls {
            true => self.upstream_port.unwrap_or(ORIGINATION_PORT),
            false => port,
        }
    }

    /// Whether a request to one of its hosts is allowed, or the first thing that is not.
    ///
    /// # Errors
    /// In the order of [`DenyReason`].
    pub fn judge(&self, request: &Request) -> Result<(), DenyReason> {
        if !self.methods.is_empty() && !self.methods.iter().any(|m| m.0 == request.method) {
            return Err(DenyReason::MethodNotAllowed);
        }
        if !self.paths.is_empty() && !self.paths.iter().any(|p| p.matches(&request.path)) {
            return Err(DenyReason::PathNotAllowed);
        }
        if !self.headers.iter().all(|h| h.is_in(&request.fields)) {
            return Err(DenyReason::HeaderNotAllowed);
        }
        match request.websocket && !self.websocket {
            true => Err(DenyReason::WebsocketNotAllowed),
            false => Ok(()),
        }
    }
}

/// A rule under one of its hosts.
#[derive(Clone, Debug)]
pub(super) struct HttpEntry {
    pub(super) ports: Vec<PortRange>,
    pub(super) http: Arc<HttpRule>,
    pub(super) rule: Arc<str>,
}

/// What policy says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpDecision {
    /// Allowed.
    Allow {
        /// The rule's name.
        rule: Arc<str>,
        /// The port to dial.
        port: u16,
        /// Whether by TLS.
        originate_tls: bool,
    },
    /// Nothing allows it.
    Deny(DenyReason),
}

/// The decision about a request, from the rules that name its host. Where several allow it, one
/// that originates TLS goes before others, and then the first: `entries` has those that name the
/// host itself before those that do by a wildcard. Where none does, the reason is of
/// the rule that was nearest to it.
pub(super) fn decide<'a>(
    entries: impl Iterator<Item = &'a HttpEntry>,
    request: &Request,
) -> HttpDecision {
    let mut allowed: Option<&HttpEntry> = None;
    let mut reason = DenyReason::HostNotAllowed;
    for entry in entries {
        match judge(entry, request) {
            Ok(())
                if allowed.is_none_or(|it| !it.http.originate_tls && entry.http.originate_tls) =>
            {
                allowed = Some(entry);
            }
            Ok(()) => {}
            Err(why) => reason = reason.max(why),
        }
    }
    match allowed {
        Some(entry) => HttpDecision::Allow {
            rule: entry.rule.clone(),
            port: entry.http.dials(request.port),
            originate_tls: entry.http.originate_tls,
        },
        None => HttpDecision::Deny(reason),
    }
}

fn judge(entry: &HttpEntry, request: &Request) -> Result<(), DenyReason> {
    match entry.ports.iter().any(|ports| ports.contains(request.port)) {
        true => entry.http.judge(request),
        false => Err(DenyReason::PortNotAllowed),
    }
}

/// A method, as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Method(String);

/// Why text is no method.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MethodError {
    /// Not a token (RFC 9110 section 9.1).
    #[error("{0:?} is no method; write one such as GET")]
    Token(String),
    /// Methods are case-sensitive, and nobody sends this one in lower case.
    #[error("{0:?} is never sent in lower case; write {1:?}")]
    Case(String, String),
    /// A tunnel is no request.
    #[error("CONNECT asks for a tunnel, which no \"http\" rule allows; write \"hosts\"")]
    Connect,
}

impl FromStr for Method {
    type Err = MethodError;

    fn from_str(text: &str) -> Result<Self, MethodError> {
        if text.is_empty() || !text.bytes().all(is_token) {
            return Err(MethodError::Token(text.to_owned()));
        }
        let upper = text.to_ascii_uppercase();
        if upper != text {
            return Err(MethodError::Case(text.to_owned(), upper));
        }
        match text {
            "CONNECT" => Err(MethodError::Connect),
            _ => Ok(Self(upper)),
        }
    }
}

impl TryFrom<String> for Method {
    type Error = MethodError;
    fn try_from(text: String) -> Result<Self, MethodError> {
        text.parse()
    }
}

impl From<Method> for String {
    fn from(method: Method) -> Self {
        method.0
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A byte of methods and field names (RFC 9110 section 5.6.2, `tchar`).
pub const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// A field that a request must have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderPattern {
    /// Its name, in whatever case.
    pub name: FieldName,
    /// Its value, exactly; any where it is left out. Of a field that is there several times,
    /// every one must have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl HeaderPattern {
    fn is_in(&self, fields: &[(String, Vec<u8>)]) -> bool {
        let mut of_name = fields
            .iter()
            .filter(|(name, _)| *name == self.name.0)
            .peekable();
        of_name.peek().is_some()
            && of_name.all(|(_, value)| {
                self.value
                    .as_ref()
                    .is_none_or(|wanted| wanted.as_bytes() == value)
            })
    }
}

impl fmt::Display for HeaderPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}: {value}", self.name.0),
            None => f.write_str(&self.name.0),
        }
    }
}

/// The name of a field, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldName(String);

/// Why text is no name of a field that a rule can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FieldNameError {
    /// Not a token (RFC 9110 section 5.1).
    #[error("{0:?} is no name of a header; write one such as \"X-Tenant\"")]
    Token(String),
    /// It is the connection's, not the request's, or judged elsewhere.
    #[error("{0:?} is not for \"headers\": it is the gateway's to write")]
    Own(String),
}

/// Fields that the gateway writes anew, and those that say where a request goes.
const OWN: [&str; 13] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "expect",
    "te",
    "trailer",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "http2-settings",
];

impl FromStr for FieldName {
    type Err = FieldNameError;

    fn from_str(text: &str) -> Result<Self, FieldNameError> {
        if text.is_empty() || !text.bytes().all(is_token) {
            return Err(FieldNameError::Token(text.to_owned()));
        }
        let lower = text.to_ascii_lowercase();
        match OWN.contains(&lower.as_str()) {
            true => Err(FieldNameError::Own(text.to_owned())),
            false => Ok(Self(lower)),
        }
    }
}

impl TryFrom<String> for FieldName {
    type Error = FieldNameError;
    fn try_from(text: String) -> Result<Self, FieldNameError> {
        text.parse()
    }
}

impl From<FieldName> for String {
    fn from(name: FieldName) -> Self {
        name.0
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.method, self.host, self.path)
    }
}

#[cfg(test)]
#[path = "http/tests.rs"]
mod tests;
