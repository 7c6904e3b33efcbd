//! The topology: pods, each behind a veth of the node's; the node; and an internet behind it.
//!
//! ```text
//! pod 1 (10.1.1.5, fd00:1:1::5) eth0 ── pod1 ┐
//!                                            ├ node ─ uplink ── net0 ─ internet (203.0.113.0/24,
//! pod 2 (10.1.2.5, fd00:1:2::5) eth0 ── pod2 ┘   192.0.2.2    192.0.2.1   198.51.100.0/24,
//!                                                2001:db8::2  2001:db8::1  2001:db8:113::/64,
//!                                                                          2001:db8:100::/64)
//! ```

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Once,
        atomic::{AtomicU8, Ordering},
    },
};

use anyhow::Result;

use crate::{
    capture::Capture,
    cgroup::Cgroup,
    host_pod::HostPod,
    internet::Internet,
    namespace::Namespace,
    owner,
    pod::Pod,
    scratch::{self, Scratch},
};

/// The node's address toward the internet.
pub const NODE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// The node's IPv6 address toward the internet.
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// Everything one test or demo needs. Dropped in this order: the internet's servers, the
/// namespaces, the cgroups, the files.
#[derive(Debug)]
pub struct World {
    /// The servers, and the namespace they are in.
    pub internet: Internet,
    /// The node: routes between its pods and the internet; the agent runs here.
    pub node: Namespace,
    next_pod: AtomicU8,
    cgroup: Cgroup,
    scratch: Scratch,
    name: String,
}

impl World {
    /// Makes it, after clearing what earlier runs that were killed left.
    ///
    /// # Errors
    /// Without root, or where a program is missing.
    pub fn new() -> Result<Self> {
        static CLEARED: Once = Once::new();
        CLEARED.call_once(|| {
            // Another run may be clearing the same at this moment.
            if let Err(error) = scratch::clear_stale() {
                eprintln!("clearing what an earlier run left: {error:#}");
            }
        });
        let name = owner::unique_name();
        let scratch = Scratch::new(&name)?;
        let cgroup = Cgroup::new(&name)?;
        let node = Namespace::new("node")?;
        node.sysctl("net/ipv4/ip_forward", "1")?;
        node.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        node.sysctl("net/ipv4/conf/all/rp_filter", "0")?;
        node.sysctl("net/ipv4/conf/default/rp_filter", "0")?;
        let internet = Internet::new(&node, &scratch)?;
        Ok(Self {
            internet,
            node,
            next_pod: AtomicU8::new(1),
            cgroup,
            scratch,
            name,
        })
    }

    /// One more pod, e.g. `shop/orders`.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let number = self.next_pod.fetch_add(1, Ordering::Relaxed);
        Pod::new(self, name, number)
    }

    /// The pod of this number, once more after its [`end`](Pod::end).
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn pod_again(&self, name: &str, number: u8) -> Result<Pod> {
        Pod::new(self, name, number)
    }

    /// A pod with `hostNetwork`, of this service account.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn host_pod(&self, name: &str, account: &str) -> Result<HostPod<'_>> {
        let number = self.next_pod.fetch_add(1, Ordering::Relaxed);
        HostPod::new(self, name, account, number)
    }

    /// A capture on the far side, from now on.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn capture(&self) -> Result<Capture> {
        Capture::start(&self.internet.namespace)
    }

    /// A host of the same network as the node that is no pod: a namespace with a route to the
    /// node's addresses, for what a neighbour on the LAN can try.
    pub fn lan_host(&self) -> &Namespace {
        &self.internet.namespace
    }

    /// The cgroup that everything of this world is in.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The directory for this world's files.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Unique to this world; also the agent's instance.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// An address of the internet where no server has a name: any port, seen by the capture.
pub fn nowhere4(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, host))
}

/// The same in IPv6.
pub fn nowhere6(host: u8) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, host.into()))
}
