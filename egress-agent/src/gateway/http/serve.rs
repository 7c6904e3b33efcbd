//! A connection of HTTP, from its first request to its end.

use std::{io, rc::Rc};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    answer,
    checked::Checked,
    connect::Connect,
    exchange::{Tunnel, tell},
    fields::FIELDS_MAX,
    forward,
    head::HEAD_MAX,
    judge::still,
    link::{Link, Stop},
};
use crate::{
    gateway::{alert, reason::Reason, splice},
    telemetry::record::{HttpRequest, Verdict},
};

/// What is left of a connection that goes on as whatever it is.
pub struct Rest {
    /// The connection.
    pub stream: TcpStream,
    /// What was read from it.
    pub bytes: Vec<u8>,
    /// Why it is not served as HTTP.
    pub reason: Reason,
    /// The tunnel that the client was allowed, and not told so yet.
    pub connect: Option<Connect>,
    /// Whether it was told of.
    pub was_open: bool,
}

/// Serves every request. `bytes` were read already.
pub(super) async fn serve(link: Link, stream: TcpStream, bytes: Vec<u8>) -> Option<Rest> {
    let link = Rc::new(link);
    let io = Checked::new(stream, bytes, link.clone());
    let service = {
        let link = link.clone();
        service_fn(move |request| Box::pin(forward::serve(link.clone(), request)))
    };
    let mut connection = http1::Builder::new()
        // The end of what a client sends is not the end of what it wants to read.
        .half_close(true)
        .max_headers(FIELDS_MAX)
        .max_buf_size(4 * HEAD_MAX)
        .header_read_timeout(None)
        .serve_connection(io, service);
    let (mut drains, mut is_draining) = (link.shared().drains.clone(), false);
    let served = loop {
        tokio::select! {
            // With its last words flushed; our side of the socket stays open.
            served = &mut connection => break served,
            cut = cut(&link) => {
                link.cut.set(Some(cut));
                break Ok(());
            }
            _told = drains.wait_for(|drains| *drains), if !is_draining => {
                // The request under way is the last one.
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                is_draining = true;
            }
        }
    };
    let (stream, bytes) = connection.into_parts().io.into_parts();
    finish(&link, stream, bytes, served.is_ok()).await
}

/// Returns when the connection must end: a request is no longer allowed, or nothing moves.
async fn cut(link: &Link) -> &'static str {
    let limits = &link.shared().limits;
    tokio::select! {
        () = splice::idle_for(&link.moved, limits.http_idle) => splice::End::Idle.reason(),
        () = splice::lifetime_over(link.accepted, limits.lifetime) => splice::LIFETIME,
        () = no_longer_allowed(link) => "policy_changed",
    }
}

async fn no_longer_allowed(link: &Link) {
    let mut tables = link.shared().table.clone();
    while tables.changed().await.is_ok() {
        let running = link.running.borrow();
        if running.as_ref().is_some_and(|judged| !still(link, judged)) {
            return;
        }
    }
    // The control side is gone; the process is about to end.
    std::future::pending::<()>().await;
}

/// What comes after the last request.
async fn finish(
    link: &Rc<Link>,
    stream: TcpStream,
    bytes: Vec<u8>,
    in_order: bool,
) -> Option<Rest> {
    if let Some(cut) = link.cut.get() {
        // It would hold the link that holds it.
        drop(link.tunnel.take());
        link.close(cut);
        alert::reset(stream);
        return None;
    }
    if let Some(tunnel) = link.tunnel.take() {
        relay(link, tunnel, stream, &bytes).await;
        return None;
    }
    // Within an answer nothing else can be said.
    let is_cut_short = !in_order && link.answered.get();
    let rest = |stream, reason, connect| {
        let was_open = link.is_open();
        link.close("opaque");
        Some(Rest {
            stream,
            bytes,
            reason,
            connect,
            was_open,
        })
    };
    match link.stopped.get() {
        Some(Stop::Opaque(reason)) => rest(stream, reason, None),
        Some(Stop::Connect) => rest(stream, Reason::ConnectWithoutTls, link.connect.take()),
        Some(Stop::Refuse(reason)) => {
            let words = refuse(link, reason);
            match is_cut_short {
                true => alert::reset(stream),
                false => alert::linger(stream, &words).await,
            }
            None
        }
        None => {
            let reason = match in_order {
                true => splice::End::Eof,
                false => splice::End::Downstream,
            };
            link.close(reason.reason());
            alert::linger(stream, &[]).await;
            None
        }
    }
}

/// Tells of what was read last that it is refused; what is to be said.
fn refuse(link: &Link, reason: Reason) -> Vec<u8> {
    let (status, words) = answer::refused(&link.record.attempt.endpoint.name, reason);
    link.shared().counters.add(reason.as_str());
    let mut of = link.record.clone();
    of.attempt.verdict = Verdict::Deny;
    of.attempt.reason = Some(reason.as_str().to_owned());
    let connect = link.connect.take();
    of.server_name = connect.as_ref().map(|it| it.host.to_string());
    tell(
        link,
        HttpRequest {
            method: connect.map(|_| "CONNECT".to_owned()),
            status: Some(status),
            close_reason: "denied".to_owned(),
            ..HttpRequest::unread(of)
        },
    );
    link.close(reason.as_str());
    words
}

/// Both ways, once the server has agreed to a WebSocket.
async fn relay(link: &Rc<Link>, tunnel: Tunnel, mut stream: TcpStream, early: &[u8]) {
    let exchange = tunnel.exchange;
    let limits = &link.shared().limits;
    let copied = async {
        let upstream = tunnel.upstream.await.map_err(io::Error::other)?;
        let mut upstream = TokioIo::new(upstream);
        upstream.write_all(early).await?;
        let sent = &exchange.bytes.sent;
        sent.set(early.len() as u64);
        super::tunnel::copy(&mut stream, &mut upstream, &exchange.bytes, &link.moved).await
    };
    let reason = tokio::select! {
        copied = copied => match copied {
            Ok(()) => "eof",
            Err(_gone) => splice::End::Upstream.reason(),
        },
        () = splice::idle_for(&link.moved, limits.idle) => splice::End::Idle.reason(),
        () = splice::lifetime_over(link.accepted, limits.lifetime) => splice::LIFETIME,
        () = no_longer_allowed(link) => "policy_changed",
    };
    exchange.end(reason);
    link.close(reason);
    match reason {
        "eof" => alert::linger(stream, &[]).await,
        _ => alert::reset(stream),
    }
}
