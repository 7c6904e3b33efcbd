//! Sends a request on, and its answer back. What goes to the server is written anew from what was
//! judged: the method, the normalised path, the host, and the fields that are not the
//! connection's.

use std::{io, rc::Rc};

use hyper::{
    HeaderMap, Request, Response, StatusCode, Uri, Version,
    body::Incoming,
    header::{CONNECTION, HOST, HeaderName, HeaderValue, TE, UPGRADE},
    http::uri::PathAndQuery,
};

use super::{
    answer,
    body::{Answer, Passing, Way},
    exchange::{Exchange, Tunnel},
    fields::is_of_connection,
    framing::{Framing, is_bodiless},
    judge::{Judged, Route},
    link::Link,
    pool::{Key, Upstream},
    upstream,
};
use crate::{
    gateway::connection::NoUpstream,
    telemetry::record::{Connection, Verdict},
};

/// Serves one request, which was judged before its first byte came here.
///
/// # Errors
/// Its body was not what it must be: whoever reads the connection says so.
pub(super) async fn serve(
    link: Rc<Link>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, io::Error> {
    let judged = link.next.take();
    let judged = judged.ok_or_else(|| io::Error::other("a request that was not judged"))?;
    let record = record(&link, &judged);
    let exchange = Rc::new(Exchange::new(link.clone(), record, judged.clone()));
    let answered = match judged.route {
        Route::Deny(reason) => Err(NoUpstream::Denied(reason)),
        Route::Host { .. } | Route::Audit(_) => forward(&exchange, &judged, request).await,
    };
    let answer = match answered {
        Ok(answer) => answer,
        Err(_) if link.stopped.get().is_some() => {
            return Err(io::Error::other("the body is refused"));
        }
        Err(none) => answer_ourselves(&exchange, &judged, none),
    };
    link.answered.set(true);
    Ok(answer)
}

/// Says why the request goes nowhere, to who asked and in the record.
fn answer_ourselves(exchange: &Exchange, judged: &Judged, why: NoUpstream) -> Response<Answer> {
    let asked = &judged.head.request;
    let what = format!("{} http://{}{}", asked.method, asked.host, asked.path);
    let endpoint = exchange.record.borrow().attempt.endpoint.name.clone();
    let (answer, end) = match why {
        NoUpstream::Denied(reason) => {
            exchange.deny(reason);
            (answer::denied(&what, &endpoint, reason), "denied")
        }
        NoUpstream::Failed(reason) => (answer::failed(&what, &endpoint, reason), reason),
    };
    exchange.status.set(Some(answer.status().as_u16()));
    exchange.end(end);
    answer
}

fn record(link: &Link, judged: &Judged) -> Connection {
    let mut record = link.record.clone();
    record.server_name = Some(judged.head.request.host.as_str().to_owned());
    match &judged.route {
        Route::Host { rule, .. } => {
            record.attempt.verdict = Verdict::Allow;
            record.rule = Some(rule.to_string());
        }
        Route::Audit(reason) => {
            record.attempt.verdict = Verdict::Audit;
            record.attempt.reason = Some(reason.as_str().to_owned());
        }
        Route::Deny(_) => {}
    }
    record
}

async fn forward(
    exchange: &Rc<Exchange>,
    judged: &Judged,
    request: Request<Incoming>,
) -> Result<Response<Answer>, NoUpstream> {
    let link = &exchange.link;
    let key = upstream::key(link, judged);
    let has_body = judged.head.framing != Framing::Empty;
    let is_risky = has_body && is_bodiless(&judged.head.request.method);
    let mut request = rewrite(request, judged, &key, is_risky)?
        .map(|body| Passing::new(body, Way::Up, exchange.clone()));
    let generation = link.shared().table.borrow().generation;
    let (upstream, mut response) = loop {
        let idle = link.worker.pool.take(&key, generation);
        let was_idle = idle.is_some();
        let mut upstream = match idle {
            Some(upstream) => upstream,
            None => upstream::dial(link, &key).await?,
        };
        match upstream.sender.try_send_request(request).await {
            Ok(response) => break (upstream, response),
            Err(mut error) => match error.take_message() {
                // The server had closed it, and has not seen the request.
                Some(unsent) if was_idle => request = unsent,
                Some(_) | None => return Err(NoUpstream::Failed("upstream_reset")),
            },
        }
    };
    met(exchange, &upstream);
    exchange.status.set(Some(response.status().as_u16()));
    link.moved.set(tokio::time::Instant::now());
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if !exchange.is_websocket() {
            return Err(NoUpstream::Failed("upstream_reset"));
        }
        *link.tunnel.borrow_mut() = Some(Tunnel {
            upstream: hyper::upgrade::on(&mut response),
            exchange: exchange.clone(),
        });
    } else if !is_risky {
        let pool = link.worker.pool.clone();
        tokio::task::spawn_local(pool.give(key, upstream));
    }
    Ok(pass(response, exchange))
}

/// Tells where the request went.
fn met(exchange: &Exchange, upstream: &Upstream) {
    let mut record = exchange.record.borrow_mut();
    record.upstream = Some(upstream.address);
    let link = &exchange.link;
    record.mismatch = !link.is_proxy()
        && !upstream.addresses.contains(&link.ask.destination)
        && !link.ask.was_told(exchange.host());
    link.open(&record);
}

/// The request as the server gets it.
fn rewrite(
    request: Request<Incoming>,
    judged: &Judged,
    key: &Key,
    is_last: bool,
) -> Result<Request<Incoming>, NoUpstream> {
    // The strict reading lets nothing pass that these do not take.
    let unwritable = || NoUpstream::Failed("upstream_reset");
    let asked = &judged.head.request;
    let (mut parts, body) = request.into_parts();
    let target = format!("{}{}", asked.path, judged.head.query);
    let target = PathAndQuery::try_from(target).map_err(|_none| unwritable())?;
    parts.uri = Uri::from(target);
    parts.version = Version::HTTP_11;
    let trailers = parts.headers.get(TE).is_some_and(|te| te == "trailers");
    strip(&mut parts.headers);
    let default = if key.tls { 443 } else { 80 };
    let host = match key.port == default {
        true => asked.host.to_string(),
        false => format!("{}:{}", asked.host, key.port),
    };
    let host = HeaderValue::try_from(host).map_err(|_none| unwritable())?;
    parts.headers.insert(HOST, host);
    let mut of_connection = Vec::new();
    if asked.websocket {
        of_connection.push("upgrade");
        let websocket = HeaderValue::from_static("websocket");
        parts.headers.insert(UPGRADE, websocket);
    }
    if trailers {
        of_connection.push("te");
        parts
            .headers
            .insert(TE, HeaderValue::from_static("trailers"));
    }
    if is_last {
        of_connection.push("close");
    }
    if !of_connection.is_empty() {
        let all = HeaderValue::try_from(of_connection.join(", ")).map_err(|_none| unwritable())?;
        parts.headers.insert(CONNECTION, all);
    }
    parts.extensions.clear();
    Ok(Request::from_parts(parts, body))
}

/// The server's answer as the endpoint gets it.
fn pass(response: Response<Incoming>, exchange: &Rc<Exchange>) -> Response<Answer> {
    let (mut parts, body) = response.into_parts();
    let upgrades = parts.status == StatusCode::SWITCHING_PROTOCOLS;
    strip(&mut parts.headers);
    if upgrades {
        let websocket = HeaderValue::from_static("websocket");
        parts.headers.insert(UPGRADE, websocket);
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let body = match upgrades {
        true => Answer::Own(None),
        false => Answer::Server(Passing::new(body, Way::Down, exchange.clone())),
    };
    Response::from_parts(parts, body)
}

/// Takes off what is the connection's.
fn strip(headers: &mut HeaderMap) {
    let nominated: Vec<Vec<u8>> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|name| name.trim_ascii().to_vec())
        .collect();
    let nominated: Vec<&[u8]> = nominated.iter().map(Vec::as_slice).collect();
    let of_connection = |name: &&HeaderName| is_of_connection(name.as_str(), &nominated);
    let names: Vec<_> = headers.keys().filter(of_connection).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}
