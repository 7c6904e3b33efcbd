//! The gateway's sockets: one set per worker, shared by `SO_REUSEPORT`.

use std::{io, net::SocketAddr, os::fd::AsFd, rc::Rc, time::Duration};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    task::spawn_local,
    time::sleep,
};

use super::{connection, worker::Worker};

/// Connections that wait for `accept`; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4_096;
/// How long accepting pauses when descriptors or memory are short.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);
/// How long a datagram may be on its way into the queue of a socket that gets no more.
const IN_QUEUES: Duration = Duration::from_millis(200);
/// Idle time before the first probe, and between probes.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A socket that cannot be had.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Somebody else has the port.
    #[error(
        "{protocol} {address}: the port is in use; stop whoever has it (ss -lnp), or configure another port"
    )]
    InUse {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// The address is not the node's.
    #[error("{protocol} {address}: no interface has the address; check the gateway's addresses")]
    NoAddress {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("{protocol} {address}: cannot listen: {error}")]
    Other {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
}

impl ListenError {
    fn new(protocol: &'static str, address: SocketAddr, error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::AddrInUse {
            return Self::InUse { protocol, address };
        }
        if error.kind() == io::ErrorKind::AddrNotAvailable {
            return Self::NoAddress { protocol, address };
        }
        Self::Other {
            protocol,
            address,
            error,
        }
    }
}

/// A listening TCP socket.
///
/// # Errors
/// The address cannot be had.
pub fn tcp(address: SocketAddr) -> Result<std::net::TcpListener, ListenError> {
    let open = || {
        let socket = socket(address, Type::STREAM, Protocol::TCP)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|error| ListenError::new("tcp", address, error))
}

/// A bound UDP socket.
///
/// # Errors
/// The address cannot be had.
pub fn udp(address: SocketAddr) -> Result<std::net::UdpSocket, ListenError> {
    let open = || {
        let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    open().map_err(|error| ListenError::new("udp", address, error))
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The sockets of one worker.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For connections.
    pub tcp: Vec<std::net::TcpListener>,
    /// For DNS over TCP.
    pub dns_tcp: Vec<std::net::TcpListener>,
    /// For DNS over UDP.
    pub dns_udp: Vec<std::net::UdpSocket>,
}

impl Sockets {
    /// Opens a set. Where port 0 is asked for, the kernel chooses and `listen` and `dns` say
    /// what, so that the next worker gets the same.
    ///
    /// # Errors
    /// The first that cannot be had.
    pub fn open(listen: &mut [SocketAddr], dns: &mut [SocketAddr]) -> Result<Self, ListenError> {
        let mut sockets = Self::default();
        let local = |address: &mut SocketAddr, found: io::Result<SocketAddr>| {
            *address = found.map_err(|error| ListenError::new("tcp", *address, error))?;
            Ok(())
        };
        for address in listen {
            let listener = tcp(*address)?;
            local(address, listener.local_addr())?;
            sockets.tcp.push(listener);
        }
        for address in dns {
            let listener = tcp(*address)?;
            local(address, listener.local_addr())?;
            sockets.dns_tcp.push(listener);
            sockets.dns_udp.push(udp(*address)?);
        }
        Ok(sockets)
    }

    /// Starts serving, on the worker's own thread, until no more is to be taken.
    ///
    /// # Errors
    /// The runtime does not take a socket.
    pub fn serve(self, worker: &Rc<Worker>) -> io::Result<()> {
        // What waits in the queues of connections is for the others that have these sockets.
        let at_once = || std::future::ready(());
        for listener in self.tcp {
            tune(&listener);
            let listener = TcpListener::from_std(listener)?;
            let accept = accept(listener, worker.clone(), connection::serve);
            spawn_local(until_drained(worker.clone(), accept, at_once));
        }
        for listener in self.dns_tcp {
            tune(&listener);
            let listener = TcpListener::from_std(listener)?;
            let accept = accept(listener, worker.clone(), super::dns::serve_tcp);
            spawn_local(until_drained(worker.clone(), accept, at_once));
        }
        for socket in self.dns_udp {
            let socket = Rc::new(UdpSocket::from_std(socket)?);
            let serve = super::dns::serve_udp(socket.clone(), worker.clone());
            let empty = move || until_empty(socket);
            spawn_local(until_drained(worker.clone(), serve, empty));
        }
        Ok(())
    }
}

/// Opens the sockets for connections that none of the sets has.
///
/// # Errors
/// The first that cannot be had.
pub fn complete(
    sets: &mut [Sockets],
    listen: &[SocketAddr],
    dns: &[SocketAddr],
) -> Result<(), ListenError> {
    let lacks = |listeners: fn(&Sockets) -> &Vec<std::net::TcpListener>, address: &SocketAddr| {
        let mut all = sets.iter().flat_map(listeners);
        !all.any(|it| it.local_addr().is_ok_and(|own| own == *address))
    };
    let lacking = listen.iter().filter(|at| lacks(|set| &set.tcp, at));
    let tcp: Vec<_> = lacking.map(|at| self::tcp(*at)).collect::<Result<_, _>>()?;
    let lacking = dns.iter().filter(|at| lacks(|set| &set.dns_tcp, at));
    let dns_tcp: Vec<_> = lacking.map(|at| self::tcp(*at)).collect::<Result<_, _>>()?;
    if let Some(first) = sets.first_mut() {
        first.tcp.extend(tcp);
        first.dns_tcp.extend(dns_tcp);
    }
    Ok(())
}

/// What is being served goes on; nothing more is taken once it is to drain and `last` is over.
async fn until_drained<F: Future<Output = ()>>(
    worker: Rc<Worker>,
    serve: impl Future<Output = ()>,
    last: impl FnOnce() -> F,
) {
    let mut drains = worker.shared.drains.clone();
    let is_over = async {
        drop(drains.wait_for(|drains| *drains).await);
        last().await;
    };
    tokio::select! {
        () = serve => {}
        () = is_over => {}
    }
}

/// From now on the others that share the port get the datagrams, since one that is connected gets
/// its peer's alone: its own. What it has got is read all the while.
async fn until_empty(socket: Rc<UdpSocket>) {
    let connected = match socket.local_addr() {
        Ok(own) => socket.connect(own).await,
        Err(error) => Err(error),
    };
    if let Err(error) = connected {
        tracing::debug!("look-ups go on coming in: {error}");
    }
    sleep(IN_QUEUES).await;
}

async fn accept<F: Future<Output = ()> + 'static>(
    listener: TcpListener,
    worker: Rc<Worker>,
    serve: fn(Rc<Worker>, TcpStream) -> F,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => drop(spawn_local(serve(worker.clone(), stream))),
            Err(error) if is_shortage(&error) => {
                worker.shared.counters.add("accept_shortage");
                sleep(SHORTAGE_PAUSE).await;
            }
            // The client went before it was accepted, or its network did.
            Err(_gone) => worker.shared.counters.add("accept_failed"),
        }
    }
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// What every relayed connection has, by itself or from the listener that it was accepted from. That it
/// cannot be set harms nothing.
pub fn tune(socket: &impl AsFd) {
    let socket = SockRef::from(socket);
    drop(socket.set_tcp_nodelay(true));
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    drop(socket.set_tcp_keepalive(&keepalive));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_one_clear_line() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let error = tcp(taken.local_addr().unwrap()).unwrap_err().to_string();
        assert!(
            error.contains("in use; stop whoever has it") && !error.contains('\n'),
            "{error}"
        );
        let error = tcp("192.0.2.1:15001".parse().unwrap())
            .unwrap_err()
            .to_string();
        assert!(error.contains("no interface has the address"), "{error}");
    }

    #[test]
    fn what_is_accepted_has_what_its_listener_has() {
        let listener = tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        tune(&listener);
        listener.set_nonblocking(false).unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), KEEPALIVE);
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), KEEPALIVE);
        drop(client);
    }

    #[test]
    fn workers_share_a_port() {
        let mut listen = ["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
        let mut dns = ["127.0.0.1:0".parse().unwrap()];
        let first = Sockets::open(&mut listen, &mut dns).unwrap();
        let again = Sockets::open(&mut listen, &mut dns).unwrap();
        assert_eq!(
            first.tcp[1].local_addr().unwrap(),
            again.tcp[1].local_addr().unwrap()
        );
    }
}
