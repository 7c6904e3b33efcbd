//! The decision about one name or address.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    compile::{CompiledPolicy, Entry},
    ech,
    host::HostName,
    http::{self, HttpDecision, HttpEntry, Request},
    port::PortRange,
};

/// What policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed by the rule of this name.
    Allow {
        /// The rule's name.
        rule: Arc<str>,
    },
    /// Nothing allows it.
    Deny(DenyReason),
}

/// Why nothing allows it: what the nearest rule does not allow, nearer ones later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DenyReason {
    /// No rule names the host.
    HostNotAllowed,
    /// A public name of Encrypted Client Hello, which hides where the connection leads; a rule
    /// has to name it itself, a wildcard is not enough.
    EchPublicName,
    /// No rule names a network that holds the address.
    AddressNotAllowed,
    /// A rule names the host or the network, on other ports.
    PortNotAllowed,
    /// A rule names the host, for requests with other methods.
    MethodNotAllowed,
    /// A rule names the host, for requests of other paths.
    PathNotAllowed,
    /// A rule names the host and the path, for requests with a header that this one has not.
    HeaderNotAllowed,
    /// A rule allows the request, but not that it becomes a WebSocket.
    WebsocketNotAllowed,
}

impl DenyReason {
    /// The stable name in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HostNotAllowed => "host_not_allowed",
            Self::EchPublicName => "ech_public_name",
            Self::AddressNotAllowed => "address_not_allowed",
            Self::PortNotAllowed => "port_not_allowed",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::PathNotAllowed => "path_not_allowed",
            Self::HeaderNotAllowed => "header_not_allowed",
            Self::WebsocketNotAllowed => "websocket_not_allowed",
        }
    }
}

/// Where a host is allowed for TLS alone, by its server name: an address that several hosts share
/// would else let all of them pass. 443, the port of a rule that writes none.
pub const TLS_ONLY: PortRange = PortRange::HTTPS;

/// Of 127.0.0.0/8 (RFC 1122 section 3.2.1.3).
pub(super) const LOOPBACK_PREFIX4: u8 = 8;
/// Of ::1/128 (RFC 4291 section 2.5.3).
pub(super) const LOOPBACK_PREFIX6: u8 = 128;

impl CompiledPolicy {
    /// A connection that names this host, to this port.
    pub fn decide_name(&self, name: &HostName, port: u16) -> Decision {
        decide(self.name_entries(name), port, unknown(name))
    }

    /// A request of plain HTTP.
    pub fn decide_http(&self, request: &Request) -> HttpDecision {
        http::decide(self.http_entries(&request.host), request)
    }

    /// Opaque TCP to this address and port. Loopback is only meant by networks that lie within
    /// it: `0.0.0.0/0` does not open the node's own services.
    pub fn decide_address(&self, address: IpAddr, port: u16) -> Decision {
        let address = address.to_canonical();
        decide(
            self.address_entries(address),
            port,
            DenyReason::AddressNotAllowed,
        )
    }

    /// A look-up of the host: any rule that names it will do, on whatever port.
    ///
    /// # Errors
    /// Why it may not be looked up.
    pub fn decide_look_up(&self, name: &HostName) -> Result<(), DenyReason> {
        let is_named =
            self.name_entries(name).next().is_some() || self.http_entries(name).next().is_some();
        is_named.then_some(()).ok_or_else(|| unknown(name))
    }

    /// Whether any rule names a host on this port.
    pub fn has_hosts_on(&self, port: u16) -> bool {
        self.host_ports.iter().any(|range| range.contains(port))
    }

    fn http_entries(&self, name: &HostName) -> impl Iterator<Item = &HttpEntry> {
        let exact = self.http_exact.get(name);
        let wildcards = name
            .parents()
            .filter_map(|parent| self.http_wildcard.get(parent));
        exact.into_iter().chain(wildcards).flatten()
    }

    fn name_entries(&self, name: &HostName) -> impl Iterator<Item = &Entry> {
        let exact = self.exact.get(name);
        let by_wildcard = !ech::is_public_name(name);
        let parents = name.parents().filter(move |_| by_wildcard);
        let wildcards = parents.filter_map(|parent| self.wildcard.get(parent));
        exact.into_iter().chain(wildcards).flatten()
    }

    fn address_entries(&self, address: IpAddr) -> impl Iterator<Item = &Entry> {
        let least = match address {
            IpAddr::V4(address) if address.is_loopback() => LOOPBACK_PREFIX4,
            IpAddr::V6(address) if address.is_loopback() => LOOPBACK_PREFIX6,
            IpAddr::V4(_) | IpAddr::V6(_) => 0,
        };
        self.networks
            .iter()
            .filter(move |table| table.ipv4 == address.is_ipv4() && table.prefix >= least)
            .filter_map(move |table| {
                let network = IpNet::new(address, table.prefix).ok()?.network();
                table.networks.get(&network)
            })
            .flatten()
    }
}

/// Why a host may not be reached that no rule names.
fn unknown(name: &HostName) -> DenyReason {
    match ech::is_public_name(name) {
        true => DenyReason::EchPublicName,
        false => DenyReason::HostNotAllowed,
    }
}

fn decide<'a>(
    mut entries: impl Iterator<Item = &'a Entry>,
    port: u16,
    unknown: DenyReason,
) -> Decision {
    let mut reason = unknown;
    let allowed = entries.find(|entry| {
        reason = DenyReason::PortNotAllowed;
        entry.ports.contains(port)
    });
    match allowed {
        Some(entry) => Decision::Allow {
            rule: entry.rule.clone(),
        },
        None => Decision::Deny(reason),
    }
}

#[cfg(test)]
#[path = "evaluate/tests.rs"]
mod tests;
