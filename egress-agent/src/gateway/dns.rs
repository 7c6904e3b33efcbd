//! The resolver that endpoints see. It answers names that their policy allows, and nothing that
//! policy does not name leaves the gateway.

use std::{io, net::SocketAddr, os::fd::AsFd, rc::Rc, sync::Arc, time::Duration};

use egress_common::origin::Origin;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    task::spawn_local,
    time::{sleep, timeout},
};

use super::worker::Worker;

pub mod answer;
pub mod log;
pub mod query;

/// A query or answer over UDP, at most: what a jumbo frame would carry (RFC 6891 section 6.2.5
/// advises 4,096 as a maximum).
const UDP_MAX: usize = 4_096;
/// How long a TCP connection may be idle (RFC 7766 section 6.2.3: a few seconds).
const TCP_IDLE: Duration = Duration::from_secs(10);

/// Serves datagrams for ever.
pub async fn serve_udp(socket: Rc<UdpSocket>, worker: Rc<Worker>) {
    let under_way = Arc::new(Semaphore::new(worker.shared.limits.lookups));
    let mut buffer = vec![0; UDP_MAX];
    loop {
        let (length, source) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error of an earlier answer.
            Err(_error) => {
                sleep(Duration::from_millis(1)).await;
                continue;
            }
        };
        let counters = &worker.shared.counters;
        counters.add("dns_queries");
        // At once, with no other datagram of this socket in between.
        let origin = match worker.shared.identify.datagram(socket.as_fd(), source) {
            Ok(origin) => origin,
            Err(_none) => {
                counters.add("dns_without_origin");
                continue;
            }
        };
        let Ok(permit) = under_way.clone().try_acquire_owned() else {
            counters.add("dns_shed");
            continue;
        };
        let (socket, worker) = (socket.clone(), worker.clone());
        let query = buffer[..length].to_vec();
        spawn_local(async move {
            if let Some(answer) = answer::udp(&worker, &origin, &query).await {
                send(&socket, &answer, source, &worker).await;
            }
            drop(permit);
        });
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], source: SocketAddr, worker: &Worker) {
    if socket.send_to(answer, source).await.is_err() {
        worker.shared.counters.add("dns_answer_failed");
    }
}

/// Serves one connection (RFC 7766): a query at a time.
pub async fn serve_tcp(worker: Rc<Worker>, mut stream: TcpStream) {
    let shared = &worker.shared;
    let Ok(origin) = shared.identify.connection(stream.as_fd()) else {
        shared.counters.add("dns_without_origin");
        return super::alert::reset(stream);
    };
    let endpoint = shared.table.borrow().endpoint(origin.endpoint).cloned();
    let admitted = endpoint.map(|it| shared.admission.enter(&it.usage, &shared.limits));
    let Some(Ok(_ticket)) = admitted else {
        shared.counters.add("dns_shed");
        return super::alert::reset(stream);
    };
    while let Ok(Ok(())) = timeout(TCP_IDLE, exchange(&worker, &origin, &mut stream)).await {}
}

async fn exchange(worker: &Worker, origin: &Origin, stream: &mut TcpStream) -> io::Result<()> {
    let length = stream.read_u16().await?;
    let mut query = vec![0; length.into()];
    stream.read_exact(&mut query).await?;
    worker.shared.counters.add("dns_queries");
    let Some(answer) = answer::tcp(worker, origin, &query).await else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend_from_slice(&answer);
    stream.write_all(&message).await
}
