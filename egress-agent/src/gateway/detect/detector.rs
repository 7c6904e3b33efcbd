//! What a growing prefix of a connection is. Pure; what has been looked at is not looked at again.

use super::{
    client_hello::{self, ClientHello, Malformed, Offer},
    http1,
};
use crate::policy::host::HostNameError;

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detected {
    /// No telling yet.
    NeedMore,
    /// A hello that names its server.
    Tls(ClientHello),
    /// A well-formed hello without a server name.
    TlsWithoutName(Offer),
    /// A hello whose server name is no host name.
    BadName(HostNameError, Offer),
    /// TLS by its first two bytes, and then not.
    Malformed(Malformed),
    /// An SSLv2 hello.
    Sslv2,
    /// An HTTP/1 request of this method, which is not CONNECT.
    Http1(http1::Method),
    /// An HTTP/1 request for a tunnel.
    Connect,
    /// HTTP/2 without TLS, by prior knowledge.
    Http2,
    /// Neither TLS nor HTTP.
    Opaque,
}

/// Looks at a growing prefix of a connection.
#[derive(Debug, Default)]
pub struct Detector {
    hello: client_hello::Parser,
    request: http1::Scanner,
}

impl Detector {
    /// `prefix` is all that was received since the beginning, and starts with what it was
    /// before. After anything but `NeedMore` the answer is final.
    pub fn advance(&mut self, prefix: &[u8]) -> Detected {
        match prefix.first() {
            None => Detected::NeedMore,
            Some(&first) if http1::may_begin_with(first) => self.request.advance(prefix),
            Some(_) => self.hello.advance(prefix),
        }
    }
}

/// Whether what begins with these bytes, and needs more, may become TLS; else it may become HTTP.
pub fn may_be_tls(prefix: &[u8]) -> bool {
    prefix
        .first()
        .is_some_and(|&first| !http1::may_begin_with(first))
}

#[cfg(test)]
#[path = "detector/tests.rs"]
mod tests;
