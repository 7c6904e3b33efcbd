//! The way to the server of a request: one that is idle, or one that is dialled anew.

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::{
    body::Passing,
    judge::{Judged, Route},
    link::Link,
    pool::{Key, Target, Upstream},
    tls,
};
use crate::gateway::{connection::NoUpstream, dial::Dialled, listen, resolve::Addresses};

/// Whose connection would do for this request.
pub(super) fn key(link: &Link, judged: &Judged) -> Key {
    let ask = &link.ask;
    let (target, port, tls) = match &judged.route {
        Route::Host {
            port,
            originate_tls,
            ..
        } => (
            Target::Name(judged.head.request.host.clone()),
            *port,
            *originate_tls,
        ),
        Route::Audit(_) if link.is_proxy() => {
            let request = &judged.head.request;
            (Target::Name(request.host.clone()), request.port, false)
        }
        Route::Audit(_) | Route::Deny(_) => (Target::Address(ask.destination), ask.port, false),
    };
    Key {
        endpoint: ask.endpoint,
        target,
        port,
        tls,
    }
}

/// Dials. The name is looked up here and now; what was dialled by the client is only compared.
pub(super) async fn dial(link: &Link, key: &Key) -> Result<Upstream, NoUpstream> {
    let generation = link.shared().table.borrow().generation;
    let addresses = match &key.target {
        Target::Name(name) => link.worker.resolver.addresses(name).await?,
        Target::Address(address) => Addresses::one(*address),
    };
    let limit = link.shared().limits.connect;
    let Dialled { stream, to, known } = addresses.dial(key.port, limit).await?;
    listen::tune(&stream);
    let io = match &key.target {
        Target::Name(name) if key.tls => {
            let secured = timeout(limit, tls::connect(&link.worker.tls, name, stream)).await;
            secured.map_err(|_elapsed| NoUpstream::Failed("tls_timeout"))??
        }
        Target::Name(_) | Target::Address(_) => Box::new(stream),
    };
    let (sender, connection) = http1::handshake::<_, Passing>(TokioIo::new(io))
        .await
        .map_err(|_gone| NoUpstream::Failed("upstream_reset"))?;
    // It ends with the last who has a part of it, and tells those of its failure.
    tokio::task::spawn_local(async move { drop(connection.with_upgrades().await) });
    Ok(Upstream::new(sender, to, known, generation))
}

/// A connection, secured or not.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl Io for TcpStream {}
impl Io for tokio_rustls::client::TlsStream<TcpStream> {}
