//! The network namespace of a command: a loopback of its own, and a veth to the node, where the
//! gateway listens. It has no other way, and the link layer judges every frame on this one.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::AddressHeaderFlags,
        link::{InfoData, InfoVeth},
    },
};
use thiserror::Error;

use super::slot::Slot;

/// How long a connection over the veth may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The command's side of the veth.
const INTERFACE: &str = "eth0";
/// The loopback device is the first one of every network namespace.
const LOOPBACK: u32 = 1;
/// Of the IPv4 addresses: two in a network (RFC 3021).
const PREFIX4: u8 = 31;
/// Of the IPv6 addresses.
const PREFIX6: u8 = 64;

/// The network cannot be made.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// The namespace.
    #[error("cannot make a network namespace: {0}; exec needs root and CONFIG_NET_NS")]
    Namespace(#[source] io::Error),
    /// Netlink itself.
    #[error("netlink: {0}: run as root")]
    Open(#[source] io::Error),
    /// Something stands between the command and its gateway.
    #[error(
        "the command cannot reach its gateway at {gateway}: {source}; a firewall of this machine drops what comes in by interfaces named egress-*: let TCP 15001 and 15002, and TCP and UDP 15053 in there"
    )]
    Unreachable {
        /// Where it listens.
        gateway: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A request.
    #[error("{what}: {source}; `egress-agent doctor` says what is missing")]
    Request {
        /// What was asked for.
        what: String,
        /// Why not.
        source: rtnetlink::Error,
    },
}

/// A network namespace with nobody in it yet; gone when the last one in it and this are.
#[derive(Debug)]
pub struct Network {
    /// The namespace, for who shall be in it.
    pub namespace: File,
}

impl Network {
    /// Makes the namespace and the veth, and sets addresses and routes. Within a tokio runtime.
    ///
    /// # Errors
    /// The kernel refuses; then nothing is left.
    pub async fn make(slot: Slot, ipv6: bool) -> Result<Self, NetworkError> {
        let node = connect()?;
        let (namespace, inside) = new_namespace()?;
        let made = wire(slot, ipv6, &node, &namespace, &inside).await;
        if let Err(error) = made {
            remove(slot).await?;
            return Err(error);
        }
        Ok(Self { namespace })
    }

    /// Tries to connect to the gateway from inside: a firewall of the node may stand between.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn reaches(&self, gateway: SocketAddr) -> Result<(), NetworkError> {
        let connected = std::thread::scope(|scope| {
            let thread = scope.spawn(|| -> io::Result<()> {
                setns(&self.namespace, CloneFlags::CLONE_NEWNET)?;
                TcpStream::connect_timeout(&gateway, PATIENCE).map(drop)
            });
            thread.join()
        });
        connected
            .unwrap_or_else(|_panic| Err(io::Error::other("panicked")))
            .map_err(|source| NetworkError::Unreachable { gateway, source })
    }
}

/// Removes the veth, if it is there; with it goes the command's side. Says whether it was.
///
/// # Errors
/// The kernel refuses.
pub async fn remove(slot: Slot) -> Result<bool, NetworkError> {
    let node = connect()?;
    let Ok(index) = index_of(&node, &slot.link()).await else {
        return Ok(false);
    };
    match node.link().del(index).execute().await {
        // Its other side's namespace has ended in between, and taken it along.
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(true),
        deleted => {
            deleted.map_err(failed("removing the veth"))?;
            Ok(true)
        }
    }
}

async fn wire(
    slot: Slot,
    ipv6: bool,
    node: &Handle,
    namespace: &File,
    inside: &Handle,
) -> Result<(), NetworkError> {
    let link = slot.link();
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(INTERFACE)
        .setns_by_fd(namespace.as_raw_fd())
        .build();
    let veth = LinkMessageBuilder::<LinkVeth>::new(&link, INTERFACE)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
    let added = node.link().add(veth.build()).execute().await;
    added.map_err(failed("making a veth"))?;
    let outer = index_of(node, &link).await?;
    let inner = index_of(inside, INTERFACE).await?;
    add_address(node, outer, slot.gateway4().into(), PREFIX4).await?;
    add_address(inside, inner, slot.command4().into(), PREFIX4).await?;
    if ipv6 {
        add_address(node, outer, slot.gateway6().into(), PREFIX6).await?;
        add_address(inside, inner, slot.command6().into(), PREFIX6).await?;
    }
    set_up(node, outer).await?;
    set_up(inside, LOOPBACK).await?;
    set_up(inside, inner).await?;
    let default4 = RouteMessageBuilder::<Ipv4Addr>::new().gateway(slot.gateway4());
    let routed = inside.route().add(default4.build()).execute().await;
    routed.map_err(failed("the command's IPv4 route"))?;
    if ipv6 {
        let default6 = RouteMessageBuilder::<Ipv6Addr>::new().gateway(slot.gateway6());
        let routed = inside.route().add(default6.build()).execute().await;
        routed.map_err(failed("the command's IPv6 route"))?;
    }
    Ok(())
}

async fn index_of(handle: &Handle, name: &str) -> Result<u32, NetworkError> {
    use futures_util::TryStreamExt;
    let mut found = handle.link().get().match_name(name.to_owned()).execute();
    let what = format!("interface {name}");
    let link = found.try_next().await.map_err(failed(&what))?;
    let missing = || NetworkError::Request {
        what,
        source: rtnetlink::Error::RequestFailed,
    };
    Ok(link.ok_or_else(missing)?.header.index)
}

/// Nobody else can have the address, so it is not asked for duplicates and good at once.
async fn add_address(
    handle: &Handle,
    index: u32,
    address: IpAddr,
    prefix: u8,
) -> Result<(), NetworkError> {
    let mut request = handle.address().add(index, address, prefix);
    if address.is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    let added = request.execute().await;
    added.map_err(failed(&format!("address {address}")))
}

async fn set_up(handle: &Handle, index: u32) -> Result<(), NetworkError> {
    let up = LinkUnspec::new_with_index(index).up().build();
    let set = handle.link().set(up).execute().await;
    set.map_err(failed("setting an interface up"))
}

fn connect() -> Result<Handle, NetworkError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Open)?;
    tokio::spawn(connection);
    Ok(handle)
}

/// A namespace, made on a thread of its own that then ends, and a netlink connection in it.
fn new_namespace() -> Result<(File, Handle), NetworkError> {
    let runtime = tokio::runtime::Handle::current();
    let made = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let _context = runtime.enter();
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|error| NetworkError::Namespace(error.into()))?;
            let namespace =
                File::open("/proc/thread-self/ns/net").map_err(NetworkError::Namespace)?;
            // The socket stays in the namespace that it was made in.
            Ok((namespace, connect()?))
        });
        thread.join()
    });
    made.unwrap_or_else(|_panic| Err(NetworkError::Namespace(io::Error::other("panicked"))))
}

fn failed(what: &str) -> impl Fn(rtnetlink::Error) -> NetworkError + use<'_> {
    move |source| NetworkError::Request {
        what: what.to_owned(),
        source,
    }
}
