//! Where it is measured: a node with two pods, of which one is an endpoint and the other is not, and
//! behind the node the server.
//!
//! ```text
//! held (an endpoint) ─ veth ┐
//!                           ├ node (gateway, peers, relays) ─ veth ─ upstream 198.51.100.130
//! free ────────────── veth ┘
//! ```

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
};

use anyhow::Result;
use egress_tests::{namespace::Namespace, pod::Pod, world::World};

use super::{names::Names, upstream::Upstream, wire};

/// The server's address, and its port: that of TLS, which the gateway dials as it was asked.
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 130);
const PORT: u16 = 443;
/// The node's on the same link.
const NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 129);
/// Of the name server.
const DNS: u16 = 53;
/// Listeners stay below, at ports that no client is given.
const CLIENT_PORTS: &str = "20000 64999";

/// How many of the allowed names are asked for, in turn.
const ASKED: usize = 64;

/// As long as it lives; its servers end first.
pub(super) struct Stage {
    _upstream: Upstream,
    _names: Names,
    _server: Namespace,
    /// Whose connections go to the gateway.
    pub(super) held: Pod,
    /// Whose connections go where it says.
    pub(super) free: Pod,
    /// Around them.
    pub(super) world: World,
}

impl Stage {
    /// # Errors
    /// The kernel refuses.
    pub(super) fn new() -> Result<Self> {
        let world = World::new()?;
        let (held, free) = (world.pod("shop/orders")?, world.pod("shop/free")?);
        let server = Namespace::new("upstream")?;
        let node = &world.node;
        node.ip(&format!(
            "link add upstream type veth peer name eth0 netns {}\n\
             address add {NODE}/25 dev upstream\n\
             link set upstream up\n",
            server.path(),
        ))?;
        server.ip(&format!(
            "address add {SERVER}/25 dev eth0\n\
             link set eth0 up\n\
             route add default via {NODE}\n"
        ))?;
        for namespace in [node, &server, &held.namespace, &free.namespace] {
            namespace.sysctl("net/ipv4/ip_local_port_range", CLIENT_PORTS)?;
            // Ports that wait after a connection's end are used again, or there would soon be none.
            namespace.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        }
        node.wait_until_ready()?;
        server.wait_until_ready()?;
        let listener = server.enter(|| wire::listener(Self::server()))??;
        let names = server.enter(|| UdpSocket::bind((SERVER, DNS)))??;
        Ok(Self {
            _upstream: Upstream::start(listener)?,
            _names: Names::start(names, SERVER)?,
            _server: server,
            held,
            free,
            world,
        })
    }

    /// What everything is relayed to.
    pub(super) fn server() -> SocketAddr {
        (SERVER, PORT).into()
    }

    /// Who knows its names.
    pub(super) fn name_server() -> SocketAddr {
        (SERVER, DNS).into()
    }

    /// Where a peer listens whom the free pod is to reach.
    pub(super) fn listener(&self, port: u16) -> SocketAddr {
        (self.free.gateway4, port).into()
    }

    /// For files.
    pub(super) fn folder(&self) -> std::path::PathBuf {
        self.world.scratch().file("")
    }
}

/// So many names that are allowed.
pub(super) fn allowed(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("host-{n}.bench.test")).collect()
}

/// Those of them that are asked for, from all over the list.
pub(super) fn asked(count: usize) -> Vec<String> {
    let step = (count / ASKED).max(1);
    allowed(count)
        .into_iter()
        .step_by(step)
        .take(ASKED)
        .collect()
}

/// One that is not allowed.
pub(super) const DENIED: &str = "denied.bench.example";

/// The end of a log, for messages.
pub(super) fn end_of(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
