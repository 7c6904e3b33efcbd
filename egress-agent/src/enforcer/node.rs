//! What the node's network is, by netlink: its addresses, the links of endpoints, and the
//! gateway's addresses on the loopback device.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's attributes are many, and each look picks one"
)]

use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{DefaultNla, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressHeaderFlags},
        link::{LinkAttribute, LinkMessage},
    },
};
use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsRawFd,
};

/// IFLA_TARGET_NETNSID (include/uapi/linux/if_link.h): ask about a link of another namespace.
const TARGET_NETNSID: u16 = 46;
/// The loopback device is the first one of every network namespace.
const LOOPBACK: u32 = 1;

/// The network is not what the configuration says.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Netlink itself.
    #[error("netlink: {0}: run as root")]
    Open(#[source] io::Error),
    /// A request.
    #[error("{what}: {source}")]
    Request {
        /// What was asked.
        what: String,
        /// Why not.
        source: rtnetlink::Error,
    },
    /// There is no such interface.
    #[error("interface {0}: there is none; name the host side of the endpoint's veth (`ip link`)")]
    NoInterface(String),
    /// It has no other side elsewhere.
    #[error(
        "interface {0} is no veth into another network namespace; name the host side of the endpoint's veth, or give its `mac`"
    )]
    NoPeer(String),
}

/// A connection to the kernel's routing tables.
pub struct Node(Handle);

/// Something about the network has become another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// There is an interface of this name now, or something about it is new.
    Link {
        /// Its name.
        name: String,
        /// Its index.
        interface: u32,
    },
    /// Anything else: an address, an interface that is gone.
    Other,
}

/// What the kernel tells of changes to links and addresses.
pub struct Changes(BoxStream<'static, Change>);

impl Changes {
    /// Subscribes. Within a tokio runtime.
    pub fn open() -> Result<Self, NodeError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let connection = rtnetlink::new_multicast_connection(&groups);
        let (connection, _handle, messages) = connection.map_err(NodeError::Open)?;
        tokio::spawn(connection);
        Ok(Self(messages.map(|(message, _)| change(message)).boxed()))
    }

    /// Waits for the next one. Where the kernel had no room for all, some are missing: the
    /// interfaces must be looked at now and then all the same.
    pub async fn next(&mut self) -> Change {
        match self.0.next().await {
            Some(change) => change,
            // The socket has gone, which it does not; then there is nothing to be told.
            None => std::future::pending().await,
        }
    }
}

fn change(message: NetlinkMessage<RouteNetlinkMessage>) -> Change {
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = message.payload else {
        return Change::Other;
    };
    let name = attribute(&link, |attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.map_or(Change::Other, |name| Change::Link {
        name,
        interface: link.header.index,
    })
}

/// The index of an interface of the agent's network namespace.
pub fn interface(name: &str) -> Option<u32> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    );
    rustix::net::netdevice::name_to_index(socket.ok()?, name).ok()
}

/// An endpoint's veth, from the node.
#[derive(Debug, Clone)]
pub struct Veth {
    /// The index of the host side.
    pub interface: u32,
    /// The MAC address that the endpoint sends to: the host side's, or its bridge's.
    pub next_hop_mac: [u8; 6],
    /// The addresses of that side, link-local ones included.
    pub next_hops: Vec<IpAddr>,
    /// The MAC address of the endpoint's side, where it can be read.
    pub peer_mac: Option<[u8; 6]>,
}

impl Node {
    /// Connects. Within a tokio runtime.
    pub fn open() -> Result<Self, NodeError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NodeError::Open)?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// Every address of the node.
    pub async fn addresses(&self) -> Result<Vec<IpAddr>, NodeError> {
        self.addresses_of(None).await
    }

    async fn addresses_of(&self, interface: Option<u32>) -> Result<Vec<IpAddr>, NodeError> {
        let mut request = self.0.address().get();
        if let Some(index) = interface {
            request = request.set_link_index_filter(index);
        }
        let messages: Vec<_> = request
            .execute()
            .try_collect()
            .await
            .map_err(failed("the node's addresses"))?;
        let attributes = messages.into_iter().flat_map(|message| message.attributes);
        let ips = attributes.filter_map(|attribute| match attribute {
            AddressAttribute::Address(ip) | AddressAttribute::Local(ip) => Some(ip),
            _ => None,
        });
        let mut ips: Vec<_> = ips.collect();
        ips.sort();
        ips.dedup();
        Ok(ips)
    }

    /// The veth whose host side has this name.
    pub async fn veth(&self, name: &str) -> Result<Veth, NodeError> {
        let request = self.0.link().get().match_name(name.to_owned());
        let link = self.first(request, name).await?;
        let controller = attribute(&link, |attribute| match attribute {
            LinkAttribute::Controller(index) => Some(*index),
            _ => None,
        });
        let side = match controller {
            Some(index) => {
                let request = self.0.link().get().match_index(index);
                self.first(request, name).await?
            }
            None => link.clone(),
        };
        let next_hop_mac = mac(&side).ok_or_else(|| NodeError::NoPeer(name.to_owned()))?;
        Ok(Veth {
            interface: link.header.index,
            next_hop_mac,
            next_hops: self.addresses_of(Some(side.header.index)).await?,
            peer_mac: self.peer_mac(&link).await,
        })
    }

    /// The MAC address of the other side, asked for by the id that the other namespace has here;
    /// nobody enters it.
    async fn peer_mac(&self, link: &LinkMessage) -> Option<[u8; 6]> {
        let namespace = attribute(link, |attribute| match attribute {
            LinkAttribute::LinkNetNsId(id) => Some(*id),
            _ => None,
        })?;
        let peer = attribute(link, |attribute| match attribute {
            LinkAttribute::Link(index) => Some(*index),
            _ => None,
        })?;
        let mut request = self.0.link().get().match_index(peer);
        let target = DefaultNla::new(TARGET_NETNSID, namespace.to_ne_bytes().to_vec());
        let attributes = &mut request.message_mut().attributes;
        attributes.push(LinkAttribute::Other(target));
        mac(&self.first(request, "peer").await.ok()?)
    }

    async fn first(
        &self,
        request: rtnetlink::LinkGetRequest,
        name: &str,
    ) -> Result<LinkMessage, NodeError> {
        let missing = || NodeError::NoInterface(name.to_owned());
        let found = request.execute().try_next().await;
        found.map_err(|_error| missing())?.ok_or_else(missing)
    }

    /// Puts an address on the loopback device, for the gateway to listen on; it may be there.
    pub async fn add_local(&self, address: IpAddr) -> Result<(), NodeError> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.0.address().add(LOOPBACK, address, prefix).replace();
        // Else it is tentative for a moment, on loopback too, and nobody can listen on it.
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request
            .execute()
            .await
            .map_err(failed(&format!("gateway address {address} on lo")))
    }

    /// Takes an address off the loopback device; false where it is not there.
    pub async fn remove_local(&self, address: IpAddr) -> Result<bool, NodeError> {
        let request = self.0.address().get().set_link_index_filter(LOOPBACK);
        let found: Vec<_> = request
            .set_address_filter(address)
            .execute()
            .try_collect()
            .await
            .map_err(failed("the addresses of lo"))?;
        let there = !found.is_empty();
        for message in found {
            let removed = self.0.address().del(message).execute().await;
            removed.map_err(failed(&format!("gateway address {address} on lo")))?;
        }
        Ok(there)
    }
}

/// The cookie of the agent's own network namespace, as BPF programs know it.
pub(super) fn namespace() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `cookie`, which is that large.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

fn failed(what: &str) -> impl Fn(rtnetlink::Error) -> NodeError + use<'_> {
    move |source| NodeError::Request {
        what: what.to_owned(),
        source,
    }
}

fn attribute<T>(link: &LinkMessage, pick: impl Fn(&LinkAttribute) -> Option<T>) -> Option<T> {
    link.attributes.iter().find_map(pick)
}

fn mac(link: &LinkMessage) -> Option<[u8; 6]> {
    attribute(link, |attribute| match attribute {
        LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    })
}

/// The link-local address that Linux gives a link of this MAC address (EUI-64, RFC 4291 appendix
/// A).
pub fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from_octets([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}
