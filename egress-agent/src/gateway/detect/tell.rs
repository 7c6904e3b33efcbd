//! What a record says of what was detected.

use super::{Detected, Outcome, client_hello::Offer};
use crate::{
    policy::ech,
    telemetry::record::{Application, Connection},
};

impl Outcome {
    /// Writes it into the record of the connection.
    pub fn tell(&self, record: &mut Connection) {
        record.application = self.application();
        if let Self::Decided(Detected::Tls(hello)) = self {
            record.server_name = Some(hello.server_name.as_str().to_owned());
            record.ech_public_name = ech::is_public_name(&hello.server_name);
        }
        if let Some(offer) = self.offer() {
            record.ech = offer.ech;
            record.alpn.clone_from(&offer.alpn);
            record.tls_versions = offer.versions.iter().map(ToString::to_string).collect();
            record.ja4 = Some(offer.ja4.clone());
        }
    }

    /// The application protocol; `None` where not a byte came.
    fn application(&self) -> Option<Application> {
        match self {
            Self::Decided(detected) => detected.application(),
            Self::Timeout | Self::Truncated | Self::NoRoom => Some(Application::Tls),
            Self::RequestTimeout => Some(Application::Opaque),
            Self::Silent => Some(Application::Silent),
            Self::Nothing => None,
        }
    }

    /// What a whole hello offers.
    fn offer(&self) -> Option<&Offer> {
        match self {
            Self::Decided(Detected::Tls(hello)) => Some(&hello.offer),
            Self::Decided(Detected::TlsWithoutName(offer) | Detected::BadName(_, offer)) => {
                Some(offer)
            }
            Self::Decided(
                Detected::NeedMore
                | Detected::Malformed(_)
                | Detected::Sslv2
                | Detected::Http1(_)
                | Detected::Connect
                | Detected::Http2
                | Detected::Opaque,
            )
            | Self::Silent
            | Self::Timeout
            | Self::RequestTimeout
            | Self::Truncated
            | Self::NoRoom
            | Self::Nothing => None,
        }
    }
}

impl Detected {
    fn application(&self) -> Option<Application> {
        match self {
            Self::Tls(_)
            | Self::TlsWithoutName(_)
            | Self::BadName(..)
            | Self::Malformed(_)
            | Self::Sslv2 => Some(Application::Tls),
            Self::Http1(_) => Some(Application::Http1),
            Self::Connect => Some(Application::Connect),
            Self::Http2 => Some(Application::Http2),
            Self::Opaque => Some(Application::Opaque),
            Self::NeedMore => None,
        }
    }
}

#[cfg(test)]
#[path = "tell/tests.rs"]
mod tests;
