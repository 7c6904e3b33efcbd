//! The internet: real servers behind the node. TLS and HTTP that say what they are, TCP and UDP
//! echoes, and a DNS server that writes down every query.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::{namespace::Namespace, scratch::Scratch};

mod dns;
mod echo;
mod http;
mod mail;
mod tls;

pub use dns::Dns;

/// The port of the DNS server over TLS.
pub const RESOLVER_TLS: u16 = tls::NAMES;

/// What the certificate of the DNS server over TLS is for.
pub const RESOLVER_NAME: &str = tls::NAMELESS;

/// The DNS server.
pub const RESOLVER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 53);

/// The DNS server by IPv6.
pub const RESOLVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x53);

/// Names, and the last part of their addresses 203.0.113.x and 2001:db8:113::x.
pub const HOSTS: [(&str, u8); 8] = [
    ("allowed.test", 10),
    ("denied.test", 11),
    ("repo.test", 12),
    ("www.cdn.test", 13),
    ("attacker.test", 66),
    ("db.vendor.test", 32),
    ("status.test", 33),
    ("tunnel.test", 99),
];

/// The port of the TCP and UDP echo, beside TLS on 443 and HTTP on 80.
pub const ECHO: u16 = 8443;

/// The port of another echo, by TCP and UDP, which stands for a database: the client speaks first.
pub const DATABASE: u16 = 5432;

/// The port of a server that speaks first.
pub const MAIL: u16 = 25;

/// The internet.
#[derive(Debug)]
pub struct Internet {
    /// The DNS server, and what it was asked.
    pub dns: Dns,
    /// Where the servers and the capture are.
    pub namespace: Namespace,
    authority: PathBuf,
    files: PathBuf,
}

impl Internet {
    pub(crate) fn new(node: &Namespace, scratch: &Scratch) -> Result<Self> {
        let namespace = Namespace::new("internet")?;
        connect(node, &namespace)?;
        let files = scratch.file("files");
        std::fs::create_dir(&files)?;
        let authority = tls::serve(&namespace, &files, scratch)?;
        echo::serve(&namespace, ECHO)?;
        echo::serve(&namespace, DATABASE)?;
        mail::serve(&namespace, MAIL)?;
        let dns = Dns::start(&namespace, scratch)?;
        Ok(Self {
            dns,
            namespace,
            authority,
            files,
        })
    }

    /// The PEM file of the authority that every server's certificate is from.
    pub fn authority(&self) -> &Path {
        &self.authority
    }

    /// The directory that every HTTP server serves.
    pub fn files(&self) -> &Path {
        &self.files
    }
}

/// The address of a host of [`HOSTS`].
///
/// # Panics
/// Where the list has no such host.
pub fn address4(host: &str) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, last_part(host))
}

/// The IPv6 address of a host of [`HOSTS`].
///
/// # Panics
/// Where the list has no such host.
pub fn address6(host: &str) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, last_part(host).into())
}

/// Both addresses of a host of [`HOSTS`].
pub fn addresses(host: &str) -> [IpAddr; 2] {
    [address4(host).into(), address6(host).into()]
}

fn last_part(host: &str) -> u8 {
    HOSTS
        .iter()
        .find(|(name, _)| *name == host)
        .map(|(_, part)| *part)
        .expect("a test names hosts of the list alone")
}

/// The link to the node, and every address of the internet's networks as our own.
fn connect(node: &Namespace, internet: &Namespace) -> Result<()> {
    node.ip(&format!(
        "link add uplink type veth peer name net0 netns {}\n\
         address add 192.0.2.2/24 dev uplink\n\
         address add 2001:db8::2/64 dev uplink nodad\n\
         link set uplink up\n",
        internet.path(),
    ))?;
    internet.ip("address add 192.0.2.1/24 dev net0\n\
         address add 2001:db8::1/64 dev net0 nodad\n\
         link set net0 up\n\
         route add local 203.0.113.0/24 dev lo\n\
         route add local 198.51.100.0/24 dev lo\n\
         route add local 169.254.169.254/32 dev lo\n\
         route add local 192.168.0.0/16 dev lo\n\
         route add local 2001:db8:113::/64 dev lo\n\
         route add local 2001:db8:100::/64 dev lo\n\
         route add 10.0.0.0/8 via 192.0.2.2\n\
         route add 198.19.0.0/16 via 192.0.2.2\n\
         route add fd00::/8 via 2001:db8::2\n")?;
    node.ip("route add default via 192.0.2.1\n\
         route add default via 2001:db8::1\n")?;
    internet.sysctl("net/ipv4/conf/all/rp_filter", "0")?;
    internet.sysctl("net/ipv4/conf/net0/rp_filter", "0")?;
    // A server of ours may answer from an address that is only routed here, not assigned.
    internet.sysctl("net/ipv6/ip_nonlocal_bind", "1")?;
    node.wait_until_ready()?;
    internet.wait_until_ready()
}
