//! An endpoint, its link and the gateway, as the maps hold them.

use crate::address::Address;

/// How many endpoints a node can have; ids run from 1. The kubelet's default is 110 pods a node.
pub const MAX_ENDPOINTS: u32 = 1024;
/// The id of the instance's own gateway, which is an endpoint, too.
pub const GATEWAY_ID: u32 = MAX_ENDPOINTS - 1;

/// [`Endpoint::mode`]: drop what is denied.
pub const MODE_ENFORCE: u8 = 0;
/// [`Endpoint::mode`]: report what is denied, and let it pass.
pub const MODE_AUDIT: u8 = 1;

/// [`Endpoint::flags`]: it has a veth, and the programs on the veth judge its frames.
pub const HAS_LINK: u8 = 1;
/// [`Endpoint::flags`]: its loopback is its own, not the node's.
pub const PRIVATE_LOOPBACK: u8 = 2;
/// [`Endpoint::flags`]: what nobody listens to on its own loopback, the gateway relays to the
/// node's.
pub const RELAY_LOOPBACK: u8 = 4;
/// [`Endpoint::flags`]: it is the gateway, and held by [`contain`](crate::contain::contain).
pub const IS_GATEWAY: u8 = 8;
/// [`Endpoint::flags`], of the gateway: some endpoint is in Audit, so it may connect to anywhere.
pub const WIDE: u8 = 16;

/// A local pod, unit or command under enforcement.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Endpoint {
    /// 1 to [`GATEWAY_ID`], which is the gateway's; 0 marks an empty slot.
    pub id: u32,
    /// The set of its direct entries, 1 to [`MAX_SETS`](crate::maps::MAX_SETS) - 1.
    pub direct: u32,
    /// [`MODE_ENFORCE`] or [`MODE_AUDIT`].
    pub mode: u8,
    /// [`HAS_LINK`] and the like.
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// The generation of the policy.
    pub generation: u32,
    /// The id of its cgroup, which no other cgroup ever gets again; what is remembered for longer
    /// than a packet names the endpoint by it.
    pub cgroup: u64,
    /// The cookie of the network namespace from which it may speak to the gateway, where it has
    /// no link to tell by.
    pub namespace: u64,
}

impl Endpoint {
    /// An empty slot.
    pub const NONE: Self = Self {
        id: 0,
        direct: 0,
        mode: MODE_ENFORCE,
        flags: 0,
        reserved: [0; 2],
        generation: 0,
        cgroup: 0,
        namespace: 0,
    };

    /// Whether a flag, [`HAS_LINK`] or one like it, is set.
    #[inline(always)]
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The link of an endpoint, by the index of its host side.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Link {
    /// The endpoint behind it.
    pub endpoint: u32,
    /// The endpoint's MAC address.
    pub mac: [u8; 6],
    /// The next hop's MAC address: the host side's, or its bridge's.
    pub next_hop_mac: [u8; 6],
    /// Of the endpoint's addresses the first ones, so that the usual ones are not looked up;
    /// unspecified where there are fewer.
    pub own: [Address; LINK_ADDRESSES],
}

/// IPv4, IPv6 and IPv6's link-local address.
pub const LINK_ADDRESSES: usize = 3;

impl Link {
    /// Whether the address is one of [`own`](Self::own).
    #[inline(always)]
    pub fn owns(&self, address: &Address) -> bool {
        let [first, second, third] = &self.own;
        // Without a branch for each of them.
        let found = (address == first) | (address == second) | (address == third);
        found && *address != Address::UNSPECIFIED
    }
}

/// Where the gateway listens.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Gateway {
    /// Its IPv4 address.
    pub v4: Address,
    /// Its IPv6 address; unspecified where the node has no IPv6.
    pub v6: Address,
    /// Its TCP port for connections that are taken to it, host byte order.
    pub port: u16,
    /// The resolver's UDP and TCP port, host byte order.
    pub dns_port: u16,
    /// The TCP port of the proxy for those who are set up for one, host byte order.
    pub proxy_port: u16,
    /// Zero.
    pub reserved: u16,
}

impl Gateway {
    /// Whether the address is the gateway's. The unspecified one stands for "none".
    #[inline(always)]
    pub fn is_at(&self, address: &Address) -> bool {
        *address == self.v4 || (*address == self.v6 && *address != Address::UNSPECIFIED)
    }

    /// Whether one of its services has the port.
    #[inline(always)]
    pub const fn serves(&self, port: u16) -> bool {
        port == self.port || port == self.dns_port || port == self.proxy_port
    }

    /// The gateway's address of the same family.
    #[inline(always)]
    pub fn address_for(&self, destination: &Address) -> Address {
        if destination.is_v4() {
            self.v4
        } else {
            self.v6
        }
    }
}

const _: () = assert!(size_of::<Endpoint>() == 32);
const _: () = assert!(size_of::<Link>() == 64);
const _: () = assert!(size_of::<Gateway>() == 40);
