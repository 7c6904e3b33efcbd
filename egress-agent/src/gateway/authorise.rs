//! Identity × server name × port, or × original destination. Allow rules only.

use std::{net::IpAddr, sync::Arc};

use egress_common::origin::Origin;

use super::{
    answered::Named,
    detect::{Detected, Outcome},
    http::connect::Connect,
    reason::Reason,
    refuse::Refused,
    resolve::Source,
    table::EndpointState,
};
use crate::policy::{
    evaluate::{Decision, DenyReason, TLS_ONLY},
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
    /// The names that the endpoint had been told the original destination for, when it came.
    pub answered: Arc<[Named]>,
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
    /// Dial the original destination: it is what the endpoint was told for this name.
    Answered {
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
    /// Before anything was read; `answered` as of this moment.
    pub fn new(origin: &Origin, answered: Arc<[Named]>) -> Self {
        Self {
            endpoint: origin.endpoint,
            destination: origin.destination.to_ip(),
            port: origin.port,
            name: Err(Reason::Silent),
            answered,
            tunnel: None,
        }
    }

    /// With what was read.
    pub fn with(mut self, outcome: &Outcome) -> Self {
        let opaque = Reason::Policy(DenyReason::AddressNotAllowed);
        self.name = match outcome {
            Outcome::Decided(Detected::Tls(hello)) => Ok(hello.server_name.clone()),
            Outcome::Decided(Detected::TlsWithoutName(_)) => Err(Reason::NoServerName),
            Outcome::Decided(Detected::BadName(error, _)) => Err(Reason::BadName(*error)),
            Outcome::Decided(Detected::Malformed(why)) => Err(Reason::Malformed(*why)),
            Outcome::Decided(Detected::Sslv2) => Err(Reason::Sslv2),
            Outcome::Decided(
                Detected::Http1(_) | Detected::Connect | Detected::Http2 | Detected::Opaque,
            ) => Err(opaque),
            // `detect` never decides this; if it did, nothing would be known.
            Outcome::Decided(Detected::NeedMore) | Outcome::Timeout => Err(Reason::HelloTimeout),
            Outcome::RequestTimeout => Err(Reason::RequestTimeout),
            Outcome::Silent | Outcome::Nothing => Err(Reason::Silent),
            Outcome::NoRoom => Err(Reason::HelloNoRoom),
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

    /// Where it is opaque: why it is not served as what it might be.
    pub fn because(mut self, reason: Reason) -> Self {
        if self.is_opaque() {
            self.name = Err(reason);
        }
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
            Decision::Deny(reason) => match self.answered(endpoint, refused) {
                Ok(answered) => answered,
                Err(Some(reason)) => audit_or_deny(endpoint, reason),
                Err(None) => audit_or_deny(endpoint, self.reason(reason, loopback)),
            },
        }
    }

    fn reason(&self, of_address: DenyReason, loopback: bool) -> Reason {
        match self.name {
            Err(Reason::Policy(_)) if loopback => Reason::Loopback,
            Err(Reason::Policy(_)) => Reason::Policy(of_address),
            Err(why) => why,
            Ok(_) => Reason::Policy(of_address),
        }
    }

    /// By the names that the endpoint was told the original destination for, where the connection
    /// says none itself. What an endpoint may be told instead of a host's own addresses is for
    /// `Named::source` to say, and where that leads to for the dial.
    ///
    /// # Errors
    /// The reason, where it has to do with those names.
    fn answered(
        &self,
        endpoint: &EndpointState,
        refused: &Refused,
    ) -> Result<Authorised, Option<Reason>> {
        if !self.is_opaque() || TLS_ONLY.contains(self.port) {
            return Err(None);
        }
        let mut denied = None;
        for named in self.answered.iter() {
            match endpoint.policy.decide_name(&named.name, self.port) {
                Decision::Allow { rule } => {
                    self.check(named, refused)?;
                    let name = named.name.clone();
                    return Ok(Authorised::Answered { name, rule });
                }
                Decision::Deny(reason) => denied = denied.or(Some(Reason::Policy(reason))),
            }
        }
        let has_hosts = endpoint.policy.has_hosts_on(self.port);
        Err(denied.or(has_hosts.then_some(Reason::AddressNotAnswered)))
    }

    /// Neither a hello nor anything that was meant as one. HTTP that is not served as such is opaque
    /// like anything else.
    fn is_opaque(&self) -> bool {
        matches!(
            self.name,
            Err(Reason::Policy(_) | Reason::Silent | Reason::RequestTimeout | Reason::Http(_))
        )
    }

    /// The name that the endpoint was told the original destination for: the one that is allowed,
    /// else the last one. `None` of a connection that says one itself.
    pub fn told(&self, authorised: &Authorised) -> Option<HostName> {
        match authorised {
            Authorised::Answered { name, .. } => Some(name.clone()),
            Authorised::Original { .. } | Authorised::Audit(_) | Authorised::Deny(_) => {
                let last = self.answered.first().filter(|_| self.is_opaque());
                last.map(|named| named.name.clone())
            }
            Authorised::Name { .. } | Authorised::AuditName { .. } => None,
        }
    }

    /// Whether the original destination is what the endpoint was told for the name that it says: it
    /// may be none of the name's any more.
    pub fn was_told_for(&self, authorised: &Authorised) -> bool {
        match authorised {
            Authorised::Name { name, .. } => self.was_told(name),
            Authorised::Answered { .. }
            | Authorised::Original { .. }
            | Authorised::Audit(_)
            | Authorised::AuditName { .. }
            | Authorised::Deny(_) => false,
        }
    }

    /// Whether the original destination is what the endpoint was told for this name.
    pub fn was_told(&self, name: &HostName) -> bool {
        self.answered.iter().any(|told| told.name == *name)
    }

    /// Once more, since what is refused may have changed.
    fn check(&self, named: &Named, refused: &Refused) -> Result<(), Option<Reason>> {
        match named.source {
            Source::Hosts => Ok(()),
            Source::Dns => {
                let checked = refused.check(self.destination);
                checked.map_err(|refusal| Some(Reason::Answer(refusal)))
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
            | Authorised::Answered { .. }
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
    /// Whether it is by what the endpoint was told for a name.
    pub const fn is_answered(&self) -> bool {
        match self {
            Self::Answered { .. } => true,
            Self::Name { .. }
            | Self::AuditName { .. }
            | Self::Original { .. }
            | Self::Audit(_)
            | Self::Deny(_) => false,
        }
    }

    /// Whether a connection that was let through on the grounds of `self` may stay on those of
    /// `now`: it must still lead to the same place.
    pub fn still(&self, now: &Self) -> bool {
        match (self, now) {
            // A tunnel leads to the same name, allowed or not.
            (
                Self::Name { .. } | Self::AuditName { .. },
                Self::Name { .. } | Self::AuditName { .. },
            ) => true,
            (
                Self::Original { .. } | Self::Answered { .. } | Self::Audit(_),
                Self::Original { .. } | Self::Answered { .. } | Self::Audit(_),
            ) => true,
            (Self::Name { .. }, Self::Audit(_)) => true,
            (
                Self::Audit(_) | Self::Original { .. } | Self::Answered { .. },
                Self::Name { .. } | Self::AuditName { .. },
            ) => false,
            (Self::Name { .. }, Self::Original { .. } | Self::Answered { .. }) => false,
            (
                Self::AuditName { .. },
                Self::Original { .. } | Self::Answered { .. } | Self::Audit(_),
            ) => false,
            (_, Self::Deny(_)) | (Self::Deny(_), _) => false,
        }
    }
}
