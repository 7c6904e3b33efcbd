//! Why the gateway denies or closes: stable names for records and counters.

use crate::policy::{evaluate::DenyReason, host::HostNameError};

use super::{detect::client_hello::Malformed, http::bad::Bad, refuse::Refusal};

/// Why a connection does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Policy allows neither the name nor the address.
    Policy(DenyReason),
    /// The server name is no host name.
    BadName(HostNameError),
    /// The request is malformed or ambiguous.
    Http(Bad),
    /// The server name inside a tunnel is not the host that CONNECT named.
    ConnectDisagrees,
    /// Inside a tunnel is something other than TLS.
    ConnectWithoutTls,
    /// The ClientHello is malformed.
    Malformed(Malformed),
    /// A ClientHello without a server name.
    NoServerName,
    /// Rules name hosts on this port, but no look-up of the endpoint was answered with the
    /// address, or that is over: protocols that are not TLS are known by that alone.
    AddressNotAnswered,
    /// An SSLv2 hello.
    Sslv2,
    /// Nothing was sent before the deadline.
    Silent,
    /// The hello was not complete before the deadline.
    HelloTimeout,
    /// What may be an HTTP request line was not complete before the deadline.
    RequestTimeout,
    /// The client ended within its hello.
    HelloTruncated,
    /// There are too many hellos beyond 16 KiB at once.
    HelloNoRoom,
    /// The endpoint's number is not known.
    UnknownEndpoint,
    /// The original destination is the gateway itself.
    GatewayAddress,
    /// A loopback address, and the endpoint may not.
    Loopback,
    /// As many connections as are allowed.
    TooManyConnections,
    /// The endpoint has as many connections as it may have, or as its share is while there are many.
    TooManyOfEndpoint,
    /// The endpoint opens connections faster than it may.
    TooFast,
    /// The name resolved to nothing but refused addresses.
    Answer(Refusal),
}

impl Reason {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Policy(reason) => reason.as_str(),
            Self::BadName(error) => error.reason(),
            Self::Http(bad) => bad.reason(),
            Self::ConnectDisagrees => "connect_disagrees",
            Self::ConnectWithoutTls => "connect_without_tls",
            Self::Malformed(malformed) => malformed.reason(),
            Self::NoServerName => "no_server_name",
            Self::AddressNotAnswered => "address_not_answered",
            Self::Sslv2 => "sslv2_hello",
            Self::Silent => "silent_client",
            Self::HelloTimeout => "hello_timeout",
            Self::RequestTimeout => "request_timeout",
            Self::HelloTruncated => "hello_truncated",
            Self::HelloNoRoom => "hello_no_room",
            Self::UnknownEndpoint => "unknown_endpoint",
            Self::GatewayAddress => "gateway_address",
            Self::Loopback => "loopback",
            Self::TooManyConnections => "too_many_connections",
            Self::TooManyOfEndpoint => "too_many_connections_of_endpoint",
            Self::TooFast => "connection_rate_of_endpoint",
            Self::Answer(refusal) => refusal.reason(),
        }
    }
}
