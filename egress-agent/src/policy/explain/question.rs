//! What is asked: one destination, by name or address, and what is spoken there.

use std::{fmt, net::IpAddr};

use crate::policy::{
    host::{HostName, HostNameError},
    http::{FieldName, Method, Request},
    path::Path,
    port::PortRange,
    rule::Transport,
};

/// A destination and what is spoken there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where to.
    pub to: Destination,
    /// The port that is dialled.
    pub port: u16,
    /// TCP, or datagrams.
    pub transport: Transport,
    /// Of plain HTTP what is asked for.
    pub request: Option<Spoken>,
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The host that a hello or request names, or that the endpoint was told the address for.
    Host(HostName),
    /// An address, and no name.
    Address(IpAddr),
}

/// A request of plain HTTP, without its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// Its method.
    pub method: String,
    /// Its path, normalised.
    pub path: Path,
    /// Names in lower case, and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Whether it asks for a WebSocket.
    pub websocket: bool,
}

impl Question {
    /// From `HOST[:PORT]` or `IP[:PORT]`, IPv6 with a port in brackets. The port is 80 for a request
    /// and otherwise 443 where none is written.
    ///
    /// # Errors
    /// What to write.
    pub fn new(to: &str, transport: Transport, request: Option<Spoken>) -> Result<Self, String> {
        let (host, port) = split(to);
        let default = match request {
            Some(_) => PortRange::HTTP,
            None => PortRange::HTTPS,
        };
        let port = match port {
            None => default.first(),
            Some(port) => number(port)
                .ok_or_else(|| format!("{to:?}: {port:?} is no port from 1 to 65535"))?,
        };
        Ok(Self {
            to: destination(to, host)?,
            port,
            transport,
            request,
        })
    }

    /// As the gateway has it, where it is one of plain HTTP to a host.
    pub fn http(&self) -> Option<Request> {
        let (Destination::Host(host), Some(spoken)) = (&self.to, &self.request) else {
            return None;
        };
        Some(Request {
            host: host.clone(),
            port: self.port,
            method: spoken.method.clone(),
            path: spoken.path.clone(),
            fields: spoken.headers.clone(),
            websocket: spoken.websocket,
        })
    }
}

fn split(to: &str) -> (&str, Option<&str>) {
    if let Some((inside, after)) = to.strip_prefix('[').and_then(|it| it.split_once(']')) {
        return match after.strip_prefix(':') {
            Some(port) => (inside, Some(port)),
            None if after.is_empty() => (inside, None),
            None => (to, None),
        };
    }
    match to.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        Some(_) | None => (to, None),
    }
}

fn number(port: &str) -> Option<u16> {
    let range: PortRange = port.parse().ok()?;
    (range.first() == range.last()).then_some(range.first())
}

fn destination(to: &str, host: &str) -> Result<Destination, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(Destination::Address(address.to_canonical()));
    }
    match HostName::from_text(host) {
        Ok(name) => Ok(Destination::Host(name)),
        Err(HostNameError::IpLiteral) => Err(format!(
            "{to:?}: write the address as four numbers with dots"
        )),
        Err(error) => Err(format!(
            "{to:?}: {error}; write a host such as \"api.example.com:443\", or an address"
        )),
    }
}

impl Spoken {
    /// From what a person writes; a query is left out, and the method is GET and the path `/` where
    /// none is written. Headers are `Name: value` or `Name=value`.
    ///
    /// # Errors
    /// What to write.
    pub fn new(
        method: Option<&str>,
        path: Option<&str>,
        headers: &[String],
        websocket: bool,
    ) -> Result<Self, String> {
        let method: Method = method.unwrap_or("GET").parse().map_err(said)?;
        let path = path.unwrap_or("/");
        let without_query = path.split('?').next().unwrap_or_default();
        let path = Path::normalise(without_query.as_bytes())
            .map_err(|error| format!("path {path:?}: {error} ({})", error.reason()))?;
        let headers: Result<_, String> = headers.iter().map(|it| header(it)).collect();
        Ok(Self {
            method: method.to_string(),
            path,
            headers: headers?,
            websocket,
        })
    }
}

fn header(text: &str) -> Result<(String, Vec<u8>), String> {
    let (name, value) = text
        .split_once(['=', ':'])
        .ok_or_else(|| format!("header {text:?}: write it as Name=value"))?;
    let name: FieldName = name.trim().parse().map_err(said)?;
    Ok((name.into(), value.trim().into()))
}

fn said(error: impl fmt::Display) -> String {
    error.to_string()
}

/// `api.payments.test:443`, `GET status.test:80/v1/a`, `UDP 10.0.0.1:53`.
impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.transport == Transport::Udp {
            f.write_str("UDP ")?;
        }
        if let Some(request) = &self.request {
            write!(f, "{} ", request.method)?;
        }
        match &self.to {
            Destination::Host(name) => write!(f, "{name}:{}", self.port)?,
            Destination::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port)?,
            Destination::Address(address) => write!(f, "{address}:{}", self.port)?,
        }
        match &self.request {
            Some(request) => write!(f, "{}", request.path),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(to: &str) -> Result<String, String> {
        Question::new(to, Transport::Tcp, None).map(|it| it.to_string())
    }

    #[test]
    fn destinations() {
        for (to, shown) in [
            ("api.test", "api.test:443"),
            ("API.test.:8443", "api.test:8443"),
            ("192.0.2.1", "192.0.2.1:443"),
            ("192.0.2.1:22", "192.0.2.1:22"),
            ("2001:db8::1", "[2001:db8::1]:443"),
            ("[2001:db8::1]:22", "[2001:db8::1]:22"),
            ("::ffff:192.0.2.1", "192.0.2.1:443"),
        ] {
            assert_eq!(asked(to).as_deref(), Ok(shown), "{to}");
        }
        for to in [
            "",
            "a.test:0",
            "a.test:1-2",
            "*.a.test",
            "https://a.test",
            "1.2",
            "[::1",
        ] {
            assert!(asked(to).is_err(), "{to}");
        }
    }

    #[test]
    fn requests() {
        let headers = ["X-Tenant=a".to_owned(), "x-trace: 1".to_owned()];
        let spoken = Spoken::new(None, Some("/a/../b?q=1"), &headers, false).unwrap();
        let question = Question::new("status.test", Transport::Tcp, Some(spoken)).unwrap();
        assert_eq!(question.to_string(), "GET status.test:80/b");
        let request = question.http().unwrap();
        assert_eq!(request.fields[1], ("x-trace".to_owned(), b"1".to_vec()));
        for (method, path, header) in [
            ("get", "/", "a=b"),
            ("GET", "a", "a=b"),
            ("GET", "/", "Host=a"),
            ("GET", "/", "a"),
        ] {
            let spoken = Spoken::new(Some(method), Some(path), &[header.to_owned()], false);
            assert!(spoken.is_err(), "{method} {path} {header}");
        }
    }
}
