//! What becomes of a request: host, method, path and fields × identity, by the policy of now.

use std::sync::Arc;

use super::{
    bad::Bad,
    connect::Connect,
    head::Head,
    link::{Link, Stop},
};
use crate::{
    gateway::{
        authorise::{Ask, Authorised},
        reason::Reason,
        refuse::Refused,
        table::EndpointState,
    },
    policy::{
        evaluate::{Decision, DenyReason},
        host::HostNameError,
        http::{HttpDecision, Request},
        rule::Mode,
    },
};

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// To the host that it names.
    Host {
        /// What allows it.
        rule: Arc<str>,
        /// The port to dial.
        port: u16,
        /// Whether by TLS.
        originate_tls: bool,
    },
    /// To the original destination, or to the host where that is the gateway itself: denied, but
    /// the endpoint is in audit mode.
    Audit(Reason),
    /// Nowhere.
    Deny(Reason),
}

impl Route {
    pub(super) fn originates_tls(&self) -> bool {
        match self {
            Self::Host { originate_tls, .. } => *originate_tls,
            Self::Audit(_) | Self::Deny(_) => false,
        }
    }
}

/// A request, and where it goes.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub(super) head: Head,
    pub(super) route: Route,
}

/// What is done with a head.
pub(super) enum Step {
    Serve(Judged),
    Stop(Stop),
}

/// Judges a head, or that there is none. A request that no rule of HTTP allows passes where a
/// rule of networks, or the name that it was told for, allows its original destination: as whatever
/// it is, like all that follows.
pub(super) fn judge(link: &Link, head: Result<Head, Bad>) -> Step {
    let Some(endpoint) = link.endpoint() else {
        return Step::Stop(Stop::Refuse(Reason::UnknownEndpoint));
    };
    if link.is_astray() {
        return Step::Stop(Stop::Refuse(Reason::GatewayAddress));
    }
    let refused = link.worker.resolver.refused();
    let head = match head {
        Ok(head) => head,
        Err(bad) => return Step::Stop(unread(&link.ask, &endpoint, refused, bad)),
    };
    match route(&head.request, &link.ask, &endpoint, refused) {
        Ok(route) => Step::Serve(Judged { head, route }),
        Err(reason) => Step::Stop(Stop::Opaque(reason)),
    }
}

fn unread(ask: &Ask, endpoint: &EndpointState, refused: &Refused, bad: Bad) -> Stop {
    // Rules of HTTP are about names: an address is for rules of networks to allow.
    let is_address = bad == Bad::Host(HostNameError::IpLiteral);
    match ask.original(endpoint, refused) {
        Authorised::Audit(why) if is_address => Stop::Opaque(why),
        Authorised::Original { .. } | Authorised::Answered { .. } | Authorised::Audit(_) => {
            Stop::Opaque(Reason::Http(bad))
        }
        Authorised::Deny(Reason::GatewayAddress) if is_address => {
            Stop::Refuse(Reason::Policy(DenyReason::AddressNotAllowed))
        }
        Authorised::Deny(why) if is_address => Stop::Refuse(why),
        Authorised::Deny(_) | Authorised::Name { .. } | Authorised::AuditName { .. } => {
            Stop::Refuse(Reason::Http(bad))
        }
    }
}

/// Judges what asks for a tunnel. A proxy that a rule of networks allows is asked itself, and in
/// Audit any other that was dialled, where the tunnel would be denied.
pub(super) fn judge_connect(link: &Link, connect: Result<Connect, Bad>) -> Stop {
    let Some(endpoint) = link.endpoint() else {
        return Stop::Refuse(Reason::UnknownEndpoint);
    };
    if link.is_astray() {
        return Stop::Refuse(Reason::GatewayAddress);
    }
    let refused = link.worker.resolver.refused();
    let Connect { host, port } = match connect {
        Ok(connect) => connect,
        Err(bad) => return unread(&link.ask, &endpoint, refused, bad),
    };
    let original = link.ask.original(&endpoint, refused);
    let decided = endpoint.policy.decide_name(&host, port);
    *link.connect.borrow_mut() = Some(Connect { host, port });
    match (original, decided) {
        (Authorised::Original { .. } | Authorised::Answered { .. }, _) => {
            Stop::Opaque(Reason::Policy(DenyReason::AddressNotAllowed))
        }
        (_, Decision::Allow { .. }) => Stop::Connect,
        (Authorised::Audit(_), Decision::Deny(reason)) => Stop::Opaque(Reason::Policy(reason)),
        (Authorised::Deny(Reason::GatewayAddress), _) if endpoint.mode == Mode::Audit => {
            Stop::Connect
        }
        (
            Authorised::Deny(_) | Authorised::Name { .. } | Authorised::AuditName { .. },
            Decision::Deny(reason),
        ) => Stop::Refuse(Reason::Policy(reason)),
    }
}

/// The route, or why only the original destination is allowed, as a network.
fn route(
    request: &Request,
    ask: &Ask,
    endpoint: &EndpointState,
    refused: &Refused,
) -> Result<Route, Reason> {
    let reason = match endpoint.policy.decide_http(request) {
        HttpDecision::Allow {
            rule,
            port,
            originate_tls,
        } => {
            return Ok(Route::Host {
                rule,
                port,
                originate_tls,
            });
        }
        HttpDecision::Deny(reason) => Reason::Policy(reason),
    };
    match ask.original(endpoint, refused) {
        Authorised::Original { .. } | Authorised::Answered { .. } => Err(reason),
        Authorised::Audit(_) => Ok(Route::Audit(reason)),
        // The gateway itself was dialled, as a proxy: the host is all that is known.
        Authorised::Deny(Reason::GatewayAddress) if endpoint.mode == Mode::Audit => {
            Ok(Route::Audit(reason))
        }
        Authorised::Deny(_) | Authorised::Name { .. } | Authorised::AuditName { .. } => {
            Ok(Route::Deny(reason))
        }
    }
}

/// Whether a request that goes by this route may go on under the policy of now: it must still
/// lead to the same place.
pub(super) fn still(link: &Link, judged: &Judged) -> bool {
    let Some(endpoint) = link.endpoint() else {
        return false;
    };
    let (request, refused) = (&judged.head.request, link.worker.resolver.refused());
    let now = route(request, &link.ask, &endpoint, refused);
    match (&judged.route, now) {
        (
            Route::Host {
                port,
                originate_tls,
                ..
            },
            Ok(Route::Host {
                port: port_now,
                originate_tls: tls_now,
                ..
            }),
        ) => *port == port_now && *originate_tls == tls_now,
        // What was allowed may go on where nothing is denied.
        (Route::Host { .. }, Ok(Route::Audit(_)) | Err(_)) => endpoint.mode == Mode::Audit,
        (Route::Audit(_), Ok(Route::Audit(_)) | Err(_)) => true,
        (Route::Audit(_), Ok(Route::Host { .. })) => false,
        (Route::Deny(_), _) | (_, Ok(Route::Deny(_))) => false,
    }
}
