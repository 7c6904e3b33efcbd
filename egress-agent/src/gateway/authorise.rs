//! Identity × server name × port, or × original destination. Allow rules only.

use std::{net::IpAddr, sync::Arc};

use egress_common::origin::Origin;

use super::{
    detect::{Outcome, client_hello::Detected},
    http::connect::Connect,
    reason::Reason,
    refuse::Refused,
    table::EndpointState,
};
use crate::policy::{
    evaluate::{Decision, DenyReason},
    host::HostName,
    rule::Mode,
};

/// What a connection asks for: all that the decision depends on beside the policy, so that it
/// can be made again when the policy changes.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The endpoint's number.
    pub endpoint: u32,
    /// The original destination.
    pub destination: IpAddr,
    /// Its port.
    pub port: u16,
    /// The server name, or why there is none.
    pub name: Result<HostName, Reason>,
    /// The host that the client has asked for a tunnel to, which it is in.
    pub tunnel: Option<HostName>,
}

/// What is done with a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorised {
    /// Resolve the name and dial that.
    Name {
        /// The name.
        name: HostName,
        /// What allows it.
        rule: Arc<str>,
    },
    /// Dial the original destination.
    Original {
        /// What allows it.
        rule: Arc<str>,
    },
    /// Denied, but the endpoint is in audit mode: dial the original destination.
    Audit(Reason),
    /// The same in a tunnel, which leads to a name.
    AuditName {
        /// The name that the tunnel was asked for.
        name: HostName,
        /// Why it is denied.
        reason: Reason,
    },
    /// Denied.
    Deny(Reason),
}

impl Ask {
    /// Before anything was read.
    pub fn new(origin: &Origin) -> Self {
        Self {
            endpoint: origin.endpoint,
            destination: origin.destination.to_ip(),
            port: origin.port,
            name: Err(Reason::Silent),
            tunnel: None,
        }
    }

    /// With what was read.
    pub fn with(mut self, outcome: &Outcome) -> Self {
        let opaque = Reason::Policy(DenyReason::AddressNotAllowed);
        self.name = match outcome {
            Outcome::Decided(Detected::Tls(hello)) => Ok(hello.server_name.clone()),
            Outcome::Decided(Detected::TlsWithoutName) => Err(Reason::NoServerName),
            Outcome::Decided(Detected::BadName(error)) => Err(Reason::BadName(*error)),
            Outcome::Decided(Detected::Malformed(why)) => Err(Reason::Malformed(*why)),
            Outcome::Decided(Detected::Sslv2) => Err(Reason::Sslv2),
            Outcome::Decided(Detected::NotTls) => Err(opaque),
            // `detect` never decides this; if it did, nothing would be known.
            Outcome::Decided(Detected::NeedMore) | Outcome::Timeout => Err(Reason::HelloTimeout),
            Outcome::Silent | Outcome::Nothing => Err(Reason::Silent),
            Outcome::Truncated => Err(Reason::HelloTruncated),
        };
        self
    }

    /// With what was read inside a tunnel to this host and port, which must be TLS to the same.
    pub fn inside(mut self, connect: &Connect, outcome: &Outcome) -> Self {
        self = self.with(outcome);
        self.port = connect.port;
        self.tunnel = Some(connect.host.clone());
        self.name = match self.name {
            Ok(name) if name == connect.host => Ok(name),
            Ok(_) => Err(Reason::ConnectDisagrees),
            Err(Reason::Policy(_)) => Err(Reason::ConnectWithoutTls),
            Err(why) => Err(why),
        };
        self
    }

    /// Whether the original destination is good by itself, so that a client that waits for the
    /// server to speak may be let through.
    pub fn original(&self, endpoint: &EndpointState, refused: &Refused) -> Authorised {
        if refused.is_own(self.destination) {
            return Authorised::Deny(Reason::GatewayAddress);
        }
        let loopback = self.destination.is_loopback();
        if loopback && !endpoint.relay_loopback {
            return audit_or_deny(endpoint, Reason::Loopback);
        }
        match endpoint.policy.decide_address(self.destination, self.port) {
            Decision::Allow { rule } => Authorised::Original { rule },
            Decision::Deny(reason) => {
                let reason = match self.name {
                    Err(Reason::Policy(_)) if loopback => Reason::Loopback,
                    Err(Reason::Policy(_)) => Reason::Policy(reason),
                    Err(why) => why,
                    Ok(_) => Reason::Policy(reason),
                };
                audit_or_deny(endpoint, reason)
            }
        }
    }

    /// The decision.
    pub fn authorise(&self, endpoint: &EndpointState, refused: &Refused) -> Authorised {
        if let Some(host) = &self.tunnel {
            return self.in_tunnel(host, endpoint);
        }
        let Ok(name) = &self.name else {
            return self.original(endpoint, refused);
        };
        let denied = match endpoint.policy.decide_name(name, self.port) {
            Decision::Allow { rule } => {
                return Authorised::Name {
                    name: name.clone(),
                    rule,
                };
            }
            Decision::Deny(reason) => Reason::Policy(reason),
        };
        match self.original(endpoint, refused) {
            Authorised::Audit(_) => Authorised::Audit(denied),
            Authorised::Deny(Reason::GatewayAddress) => Authorised::Deny(Reason::GatewayAddress),
            Authorised::Deny(_) => Authorised::Deny(denied),
            allowed @ (Authorised::Original { .. }
            | Authorised::Name { .. }
            | Authorised::AuditName { .. }) => allowed,
        }
    }
}

impl Ask {
    /// To the name, or nowhere: where the tunnel was asked for is no destination for what is in it.
    fn in_tunnel(&self, host: &HostName, endpoint: &EndpointState) -> Authorised {
        let reason = match &self.name {
            Err(reason) => *reason,
            Ok(name) => match endpoint.policy.decide_name(name, self.port) {
                Decision::Deny(reason) => Reason::Policy(reason),
                Decision::Allow { rule } => {
                    let name = name.clone();
                    return Authorised::Name { name, rule };
                }
            },
        };
        match endpoint.mode {
            Mode::Enforce => Authorised::Deny(reason),
            Mode::Audit => Authorised::AuditName {
                name: host.clone(),
                reason,
            },
        }
    }
}

fn audit_or_deny(endpoint: &EndpointState, reason: Reason) -> Authorised {
    match endpoint.mode {
        Mode::Audit => Authorised::Audit(reason),
        Mode::Enforce => Authorised::Deny(reason),
    }
}

impl Authorised {
    /// Whether a connection that was let through on the grounds of `self` may stay on those of
    /// `now`: it must still lead to the same place.
    pub fn still(&self, now: &Self) -> bool {
        match (self, now) {
            // A tunnel leads to the same name, allowed or not.
            (
                Self::Name { .. } | Self::AuditName { .. },
                Self::Name { .. } | Self::AuditName { .. },
            ) => true,
            (Self::Original { .. }, Self::Original { .. } | Self::Audit(_)) => true,
            (Self::Audit(_), Self::Original { .. } | Self::Audit(_)) => true,
            (Self::Name { .. }, Self::Audit(_)) => true,
            (
                Self::Audit(_) | Self::Original { .. },
                Self::Name { .. } | Self::AuditName { .. },
            ) => false,
            (Self::Name { .. }, Self::Original { .. }) => false,
            (Self::AuditName { .. }, Self::Original { .. } | Self::Audit(_)) => false,
            (_, Self::Deny(_)) | (Self::Deny(_), _) => false,
        }
    }
}
