//! Names and sizes of the maps, and their keys.

use crate::{
    address::Address,
    attempt::UDP,
    endpoint::{Gateway, MAX_ENDPOINTS},
    verdict::DropReason,
};

/// The one [`Config`].
pub const CONFIG: &str = "CONFIG";
/// Endpoints by id.
pub const ENDPOINTS: &str = "ENDPOINTS";
/// Endpoint ids by cgroup id.
pub const CGROUPS: &str = "CGROUPS";
/// Links by interface index.
pub const LINKS: &str = "LINKS";
/// What addresses are to an endpoint, see [`OWN`] and [`NEXT_HOP`].
pub const ADDRESSES: &str = "ADDRESSES";
/// By set of direct entries: its table of IPv4, see [`direct`](crate::direct).
pub const DIRECT4: &str = "DIRECT4";
/// The same of IPv6.
pub const DIRECT6: &str = "DIRECT6";
/// What the node knows of networks, see [`Class`].
pub const NETWORKS: &str = "NETWORKS";
/// What the gateway may reach: a reason's number by network, 0 where it may.
pub const REACH: &str = "REACH";
/// The ports that some policy names, see [`is_named`].
pub const NAMED: &str = "NAMED";
/// Who may open flows to an endpoint beside the node and the cluster.
pub const REPLIES: &str = "REPLIES";
/// Endpoint ids by the addresses that are theirs alone.
pub const OWNERS: &str = "OWNERS";
/// Endpoint ids by the ports of the node that they speak to the gateway from, see [`port`].
pub const PORTS: &str = "PORTS";
/// By endpoint: TCP flows that were opened inbound and are established.
pub const FLOWS: &str = "FLOWS";
/// By endpoint: flows that were opened inbound and are not established yet or not any more, and
/// those of UDP.
pub const OPENING: &str = "OPENING";
/// By endpoint: origins between the SYN and `accept`.
pub const ORIGINS: &str = "ORIGINS";
/// Storage of the endpoints' sockets.
pub const SOCKETS: &str = "SOCKETS";
/// Storage of the gateway's sockets.
pub const ACCEPTED: &str = "ACCEPTED";
/// Counters by endpoint and reason, per CPU.
pub const COUNTERS: &str = "COUNTERS";
/// By endpoint: open report windows.
pub const REPORTS: &str = "REPORTS";
/// The perf event array.
pub const EVENTS: &str = "EVENTS";

/// Every map that is pinned. aya-log's own ring is not among them: each agent has its own.
pub const PINNED: &[&str] = &[
    CONFIG, ENDPOINTS, CGROUPS, LINKS, ADDRESSES, DIRECT4, DIRECT6, NETWORKS, REACH, NAMED,
    REPLIES, OWNERS, PORTS, FLOWS, OPENING, ORIGINS, SOCKETS, ACCEPTED, COUNTERS, REPORTS, EVENTS,
];

/// Those of [`PINNED`] that hold a map for each endpoint, which is pinned as `<map>-<endpoint id>`.
pub const PER_ENDPOINT: [&str; 4] = [FLOWS, OPENING, ORIGINS, REPORTS];

/// Addresses of all endpoints and their next hops that a node can hold.
pub const MAX_ADDRESSES: u32 = MAX_ENDPOINTS * 16;
/// Direct entries of all sets that a node can hold: a million, and as many that replace them.
pub const MAX_DIRECT: u32 = 2_097_152;
/// Sets of direct entries, from 1: one for each endpoint, and as many that replace them.
pub const MAX_SETS: u32 = MAX_ENDPOINTS * 2;
/// The flags of a table of direct entries (include/uapi/linux/bpf.h): BPF_F_MMAPABLE, since user
/// space writes it as memory; BPF_F_INNER_MAP, by which tables may be of different sizes.
pub const TABLE: u32 = 1 << 10 | 1 << 12;
/// Networks that a node can know.
pub const MAX_NETWORKS: u32 = 4_096;
/// Networks that the gateway may or may not reach: those of policies, too.
pub const MAX_REACH: u32 = 65_536;
/// Entries of [`REPLIES`] that a node can hold.
pub const MAX_REPLIES: u32 = 65_536;
/// Established flows of one endpoint. What is beyond stays in [`OPENING`].
pub const MAX_FLOWS: u32 = 8_192;
/// Flows of one endpoint that open or close, the least recently used of which is forgotten.
pub const MAX_OPENING: u32 = 1_024;
/// Connections of one endpoint between SYN and `accept`, the oldest of which is refused.
pub const MAX_ORIGINS: u32 = 512;
/// Report windows of one endpoint; what is beyond is counted by reason, see
/// [`ReportKey::others`](crate::event::ReportKey::others).
pub const MAX_REPORTS: u32 = 256;
/// Slots of [`COUNTERS`].
pub const MAX_COUNTERS: u32 = MAX_ENDPOINTS * DropReason::COUNT as u32;

/// The slot of [`COUNTERS`] for an endpoint and a reason's number, 0 for what was allowed.
#[inline(always)]
pub const fn counter(endpoint: u32, reason: u8) -> u32 {
    endpoint * DropReason::COUNT as u32 + (reason as u32 & (DropReason::COUNT as u32 - 1))
}

/// The slot of [`PORTS`] for a port and an IP protocol number.
#[inline(always)]
pub const fn port(port: u16, protocol: u8) -> u32 {
    port as u32 | ((protocol == UDP) as u32) << 16
}
/// Every port, a bit each: the value of [`NAMED`].
pub type NamedPorts = [u64; 1024];

/// Whether a port's bit is set.
#[inline(always)]
pub const fn is_named(ports: &NamedPorts, port: u16) -> bool {
    ports[(port >> 6) as usize] & (1 << (port & 63)) != 0
}

/// Slots of [`PORTS`].
pub const MAX_PORTS: u32 = 2 << 16;

/// What holds for the whole instance.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Config {
    /// Where the gateway listens.
    pub gateway: Gateway,
    /// Bit n set: some endpoint's cgroup lies n levels below the root of the hierarchy.
    pub cgroup_levels: u32,
    /// Zero.
    pub reserved: u32,
    /// Another whenever anything of the enforcer's has changed, and then what sockets remember is
    /// nothing. Any number but 0 and not one after the other, so that none ever comes again.
    pub generation: u64,
}

/// The key of an entry of [`REPLIES`]. As the data of a trie's key its first eight bytes are always
/// compared whole.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct ReplyKey {
    /// The endpoint's id.
    pub endpoint: u32,
    /// The endpoint's own, in host byte order; 0 stands for every port.
    pub port: u16,
    /// The IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
    /// Who may open: the address, or the network's first.
    pub address: Address,
}

impl ReplyKey {
    /// The bits in front of the address.
    pub const HEAD_BITS: u32 = 64;
}

/// The key of an endpoint's address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct AddressKey {
    /// The endpoint's id.
    pub endpoint: u32,
    /// The address.
    pub address: Address,
}

/// A bit of the value: the endpoint's own address, which its frames may bear as source.
pub const OWN: u8 = 1;
/// A bit of the value: the endpoint's next hop answers for it.
pub const NEXT_HOP: u8 = 2;

/// What a network is to the node.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
#[repr(u8)]
pub enum Class {
    /// Nothing known of it.
    Outside = 0,
    /// One of the node's own addresses.
    Node = 1,
    /// Pods and Services.
    Cluster = 2,
}

impl Class {
    /// From a map's value; unknown numbers are the node's, the strictest.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Outside,
            2 => Self::Cluster,
            _ => Self::Node,
        }
    }
}

/// A flow that was opened inbound, as seen from its endpoint.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct FlowKey {
    /// Who opened it.
    pub remote: Address,
    /// Host byte order.
    pub remote_port: u16,
    /// Host byte order.
    pub local_port: u16,
    /// The IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// [`Flow::stage`]: a first packet has come.
pub const OPENED: u32 = 0;
/// [`Flow::stage`]: the endpoint has taken the connection.
pub const ANSWERED: u32 = 1;
/// [`Flow::stage`]: the endpoint has closed its direction.
pub const CLOSING: u32 = 2;

/// What is known of a flow.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Flow {
    /// When it was opened or, to a second, answered last: nanoseconds of `CLOCK_MONOTONIC`.
    pub seen_ns: u64,
    /// [`OPENED`] and what follows.
    pub stage: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Config>() == 56);
const _: () = assert!(size_of::<ReplyKey>() == 24);
const _: () = assert!(size_of::<FlowKey>() == 24);
const _: () = assert!(size_of::<Flow>() == 16);
