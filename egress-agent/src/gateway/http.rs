//! Plain HTTP/1: every request of a connection is checked, judged and sent on by itself.

mod answer;
pub mod bad;
mod body;
mod checked;
pub mod connect;
mod exchange;
pub mod fields;
mod forward;
pub mod framing;
pub mod head;
mod judge;
mod link;
pub mod pool;
pub mod serve;
mod target;
pub mod tls;
mod tunnel;
mod upstream;

use std::{rc::Rc, time::Instant};

use tokio::net::TcpStream;

use super::{authorise::Ask, worker::Worker};
use crate::telemetry::record::Connection;
pub use serve::Rest;

/// Serves a connection that begins like HTTP, to its end or to where it goes on as whatever it is.
pub async fn serve(
    worker: &Rc<Worker>,
    ask: &Ask,
    record: &Connection,
    accepted: Instant,
    stream: TcpStream,
    bytes: Vec<u8>,
) -> Option<Rest> {
    let link = link::Link::new(worker.clone(), ask.clone(), record.clone(), accepted);
    serve::serve(link, stream, bytes).await
}
