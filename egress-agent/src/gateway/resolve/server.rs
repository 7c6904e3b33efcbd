//! The name servers that the gateway asks, and how it speaks to them.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use hickory_resolver::{
    config::{ConnectionConfig, NameServerConfig},
    system_conf::read_system_conf,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::SetupError;
use crate::policy::host::{HostName, HostNameError};

/// RFC 1035 section 4.2.
const DNS_PORT: u16 = 53;
/// RFC 7858 section 3.1.
const TLS_PORT: u16 = 853;

/// A name server, as configuration and flags write it: `192.0.2.53`, `192.0.2.53:5353`,
/// `tcp://192.0.2.53:53` or `tls://192.0.2.53:853#dns.vendor.test`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NameServer {
    /// Where it is.
    pub address: SocketAddr,
    /// How it is spoken to.
    pub transport: Transport,
}

/// How a name server is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP, and TCP where an answer is truncated.
    Udp,
    /// TCP alone.
    Tcp,
    /// DNS over TLS (RFC 7858), never in clear.
    Tls {
        /// The name that its certificate must be for.
        name: HostName,
    },
}

/// Why something is no name server.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameServerError {
    /// No address.
    #[error(
        "{0:?} is no name server; write 192.0.2.53, 192.0.2.53:5353, [2001:db8::53]:53, tcp://192.0.2.53 or tls://192.0.2.53#dns.vendor.test"
    )]
    Address(String),
    /// TLS with nobody to expect.
    #[error(
        "{0:?}: DNS over TLS needs the name that the certificate is for; write tls://192.0.2.53#dns.vendor.test"
    )]
    NoName(String),
    /// The name is none.
    #[error("{text:?}: {error}")]
    Name {
        /// What was written.
        text: String,
        /// What is wrong with the name.
        error: HostNameError,
    },
    /// A name where none is verified.
    #[error("{0:?}: only tls:// has a name to verify; leave out what follows the #")]
    UnusedName(String),
    /// Encrypted and in clear.
    #[error(
        "{0} is asked in clear and others over TLS: when those fail, names would leave in clear; use tls:// for all or for none"
    )]
    Mixed(NameServer),
}

impl NameServer {
    /// Over UDP, and TCP where an answer is truncated.
    pub const fn udp(address: SocketAddr) -> Self {
        Self {
            address,
            transport: Transport::Udp,
        }
    }

    pub(super) fn config(&self) -> NameServerConfig {
        let mut connections = match &self.transport {
            Transport::Udp => vec![ConnectionConfig::udp(), ConnectionConfig::tcp()],
            Transport::Tcp => vec![ConnectionConfig::tcp()],
            Transport::Tls { name } => vec![ConnectionConfig::tls(name.as_str().into())],
        };
        for connection in &mut connections {
            connection.port = self.address.port();
        }
        NameServerConfig::new(self.address.ip(), true, connections)
    }

    /// Whether it is asked over TLS.
    pub const fn is_tls(&self) -> bool {
        match self.transport {
            Transport::Tls { .. } => true,
            Transport::Udp | Transport::Tcp => false,
        }
    }
}

/// That no name leaves in clear where any server is asked over TLS.
///
/// # Errors
/// The first server that is asked in clear beside one that is not.
pub fn check(servers: &[NameServer]) -> Result<(), NameServerError> {
    let clear = servers.iter().find(|server| !server.is_tls());
    match (clear, servers.iter().any(NameServer::is_tls)) {
        (Some(clear), true) => Err(NameServerError::Mixed(clear.clone())),
        (Some(_), false) | (None, _) => Ok(()),
    }
}

impl FromStr for NameServer {
    type Err = NameServerError;

    fn from_str(text: &str) -> Result<Self, NameServerError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("udp", text));
        let (address, name) = match rest.split_once('#') {
            Some((address, name)) => (address, Some(name)),
            None => (rest, None),
        };
        let own = || text.to_owned();
        let at = |port| parse_address(address, port).ok_or_else(|| NameServerError::Address(own()));
        let (address, transport) = match (scheme, name) {
            ("udp", None) => (at(DNS_PORT)?, Transport::Udp),
            ("tcp", None) => (at(DNS_PORT)?, Transport::Tcp),
            ("tls", Some(name)) => {
                let name = HostName::from_text(name)
                    .map_err(|error| NameServerError::Name { text: own(), error })?;
                (at(TLS_PORT)?, Transport::Tls { name })
            }
            ("tls", None) => return Err(NameServerError::NoName(own())),
            ("udp" | "tcp", Some(_)) => return Err(NameServerError::UnusedName(own())),
            _ => return Err(NameServerError::Address(own())),
        };
        Ok(Self { address, transport })
    }
}

/// With a port, or without one: IPv6 in brackets or bare. Port 0 is none.
fn parse_address(text: &str, default: u16) -> Option<SocketAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let alone = bare.unwrap_or(text).parse::<IpAddr>();
    let address = match alone {
        Ok(address) => SocketAddr::new(address, default),
        Err(_with_port) => text.parse().ok()?,
    };
    (address.port() != 0).then_some(address)
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.transport {
            Transport::Udp => write!(f, "{}", self.address),
            Transport::Tcp => write!(f, "tcp://{}", self.address),
            Transport::Tls { name } => write!(f, "tls://{}#{}", self.address, name.as_str()),
        }
    }
}

impl TryFrom<String> for NameServer {
    type Error = NameServerError;

    fn try_from(text: String) -> Result<Self, NameServerError> {
        text.parse()
    }
}

impl From<NameServer> for String {
    fn from(server: NameServer) -> Self {
        server.to_string()
    }
}

/// The node's own, as resolv.conf has them.
///
/// # Errors
/// It cannot be read, or names none.
pub fn of_node() -> Result<Vec<NameServer>, SetupError> {
    let read = read_system_conf().map_err(|error| SetupError::Servers(error.to_string()))?;
    let servers = read.0.name_servers().iter();
    let servers = servers.map(|it| NameServer::udp(SocketAddr::new(it.ip, DNS_PORT)));
    Ok(servers.collect())
}

/// Why nobody's certificate can be verified.
#[derive(Debug, Error)]
pub enum RootsError {
    /// The configured file.
    #[error(
        "{path}: no root certificates: {why}; it must be PEM, and readable to the gateway's user"
    )]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The system's.
    #[error(
        "the system has no root certificates{0}; install ca-certificates, or set gateway.resolverRoots"
    )]
    System(String),
    /// The library's own settings.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// What DNS over TLS trusts: the certificates of a PEM file, or the system's.
///
/// # Errors
/// There is not one.
pub fn tls_config(roots: Option<&Path>) -> Result<ClientConfig, RootsError> {
    let roots = match roots {
        Some(path) => file_roots(path)?,
        None => system_roots()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn file_roots(path: &Path) -> Result<RootCertStore, RootsError> {
    let failed = |why: String| RootsError::File {
        path: path.to_owned(),
        why,
    };
    let mut store = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        store
            .add(certificate)
            .map_err(|error| failed(error.to_string()))?;
    }
    match store.is_empty() {
        true => Err(failed("there is none in it".to_owned())),
        false => Ok(store),
    }
}

/// What cannot be read is left out, as long as there is anything.
fn system_roots() -> Result<RootCertStore, RootsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    match store.is_empty() {
        true => {
            let errors: Vec<_> = found.errors.iter().map(|e| format!(": {e}")).collect();
            Err(RootsError::System(errors.concat()))
        }
        false => Ok(store),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_in_every_form() {
        for (text, want) in [
            ("192.0.2.53", "192.0.2.53:53"),
            ("192.0.2.53:5353", "192.0.2.53:5353"),
            ("2001:db8::53", "[2001:db8::53]:53"),
            ("[2001:db8::53]", "[2001:db8::53]:53"),
            ("udp://[2001:db8::53]:54", "[2001:db8::53]:54"),
            ("tcp://192.0.2.53", "tcp://192.0.2.53:53"),
            (
                "tls://192.0.2.53#DNS.vendor.test",
                "tls://192.0.2.53:853#dns.vendor.test",
            ),
            (
                "tls://[2001:db8::53]:8853#a.test",
                "tls://[2001:db8::53]:8853#a.test",
            ),
        ] {
            let server: NameServer = text.parse().unwrap();
            assert_eq!(server.to_string(), want);
            assert_eq!(want.parse(), Ok(server));
        }
        for text in [
            "",
            "dns.test",
            "192.0.2.53:0",
            "tls://192.0.2.53",
            "tls://192.0.2.53#",
            "tls://192.0.2.53#192.0.2.53",
            "tcp://192.0.2.53#a.test",
            "https://192.0.2.53#a.test",
            "192.0.2.53:port",
        ] {
            assert!(text.parse::<NameServer>().is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_is_asked_in_clear_beside_tls() {
        let servers = |texts: &[&str]| -> Vec<NameServer> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let tls = "tls://192.0.2.53#a.test";
        assert_eq!(check(&servers(&[])), Ok(()));
        assert_eq!(check(&servers(&[tls, tls])), Ok(()));
        assert_eq!(check(&servers(&["192.0.2.1", "tcp://192.0.2.2"])), Ok(()));
        let mixed = check(&servers(&[tls, "192.0.2.1"])).unwrap_err();
        assert!(mixed.to_string().starts_with("192.0.2.1:53 "), "{mixed}");
    }

    #[test]
    fn a_file_without_roots_is_one_clear_line() {
        let path = Path::new("/dev/null");
        let error = tls_config(Some(path)).unwrap_err().to_string();
        assert!(
            error.contains("/dev/null") && !error.contains('\n'),
            "{error}"
        );
    }
}
