//! What the gateway itself answers: a few words that say what happened, to whom, and what decides.

use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{CONNECTION, CONTENT_TYPE, HeaderValue},
};

use super::{bad::Bad, body::Answer};
use crate::gateway::reason::Reason;

/// Ends the connection, too: what is denied is not asked for again on it.
pub(super) fn own(status: StatusCode, text: String) -> Response<Answer> {
    let mut response = Response::new(Answer::Own(Some(Bytes::from(text))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, plain);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Policy does not allow it.
pub(super) fn denied(what: &str, endpoint: &str, reason: Reason) -> Response<Answer> {
    let reason = reason.as_str();
    let text = format!(
        "egress-agent: {endpoint} may not {what}: {reason}.\n\
         What it may is in the policies that select it: EgressPolicy, ClusterEgressPolicy.\n"
    );
    own(StatusCode::FORBIDDEN, text)
}

/// Allowed, but there is nobody to ask.
pub(super) fn failed(what: &str, endpoint: &str, reason: &str) -> Response<Answer> {
    let status = match reason.ends_with("_timeout") {
        true => StatusCode::GATEWAY_TIMEOUT,
        false => StatusCode::BAD_GATEWAY,
    };
    let text = format!("egress-agent: {endpoint} may {what}, but the server failed: {reason}.\n");
    own(status, text)
}

/// What is said to a request that is refused, and its status: whatever speaks here has no HTTP
/// library in front of it any more.
pub(super) fn refused(endpoint: &str, reason: Reason) -> (u16, Vec<u8>) {
    let (status, phrase) = match reason {
        Reason::Http(Bad::Timeout) => (408, "Request Timeout"),
        Reason::Http(Bad::LongHead | Bad::ManyFields) => (431, "Request Header Fields Too Large"),
        Reason::Http(_) => (400, "Bad Request"),
        Reason::Policy(_)
        | Reason::ConnectDisagrees
        | Reason::ConnectWithoutTls
        | Reason::BadName(_)
        | Reason::Malformed(_)
        | Reason::NoServerName
        | Reason::Sslv2
        | Reason::Silent
        | Reason::AddressNotAnswered
        | Reason::RequestTimeout
        | Reason::HelloNoRoom
        | Reason::HelloTimeout
        | Reason::HelloTruncated
        | Reason::UnknownEndpoint
        | Reason::GatewayAddress
        | Reason::Loopback
        | Reason::TooManyConnections
        | Reason::TooManyOfEndpoint
        | Reason::TooFast
        | Reason::Answer(_) => (403, "Forbidden"),
    };
    let reason = reason.as_str();
    let text = format!("egress-agent: a request of {endpoint} is refused: {reason}.\n");
    let answer = format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    (status, answer.into_bytes())
}
