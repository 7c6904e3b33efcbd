//! What the gateway needs: a user, ports, a binary that it may execute, name servers.

use std::{
    fs, io,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
};

use socket2::{Domain, Socket, Type};

use super::Check;
use crate::config::GatewayConfig;

pub(super) fn checks() -> Vec<Check> {
    let gateway = GatewayConfig::default();
    vec![user(gateway.user), binary(), ports(&gateway), resolvers()]
}

fn user(id: u32) -> Check {
    const NAME: &str = "gateway's user";
    match name_of(id) {
        Ok(None) => Check::ok(NAME, format!("{id} is nobody else")),
        Ok(Some(name)) => Check::warning(
            NAME,
            format!("{id} is {name}"),
            "whoever is that user can signal the gateway, and shares its pipes' bound",
            "set gateway.user to an id that nobody has",
        ),
        Err(error) => Check::warning(
            NAME,
            format!("looking {id} up: {error}"),
            "whether somebody else has the id is not known",
            "check /etc/nsswitch.conf and /etc/passwd",
        ),
    }
}

/// The name of a user, from wherever the machine keeps them (getpwuid_r(3)).
fn name_of(uid: u32) -> io::Result<Option<String>> {
    let mut entry = MaybeUninit::<libc::passwd>::zeroed();
    let mut buffer = vec![0; 16 << 10];
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are to live values, the buffer is as long as is said.
    let result = unsafe {
        libc::getpwuid_r(
            uid,
            entry.as_mut_ptr(),
            buffer.as_mut_ptr(),
            buffer.len(),
            &raw mut found,
        )
    };
    if found.is_null() {
        // "No such entry" has several errors (getpwnam(3)).
        return match result {
            0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => Ok(None),
            error => Err(io::Error::from_raw_os_error(error)),
        };
    }
    // SAFETY: `found` points to `entry`, whose name is a C string within `buffer`.
    let name = unsafe { std::ffi::CStr::from_ptr((*found).pw_name) };
    Ok(Some(name.to_string_lossy().into_owned()))
}

/// The gateway is this very file, executed as another user.
fn binary() -> Check {
    const NAME: &str = "binary";
    const SELF: &str = "/proc/self/exe";
    let path = fs::read_link(SELF).unwrap_or_else(|_unknown| SELF.into());
    let path = path.display();
    match fs::metadata(SELF).map(|meta| meta.permissions().mode()) {
        Ok(mode) if mode & 0o001 != 0 => Check::ok(NAME, path),
        Ok(mode) => Check::missing(
            NAME,
            format!("{path} has mode {:o}", mode & 0o7777),
            "the gateway's user may not execute it",
            &format!("chmod o+rx {path}"),
        ),
        Err(error) => Check::missing(
            NAME,
            format!("{SELF}: {error}"),
            "the gateway cannot be started",
            "mount /proc",
        ),
    }
}

fn ports(gateway: &GatewayConfig) -> Check {
    const NAME: &str = "gateway's ports";
    let (port, dns, proxy) = (gateway.port, gateway.dns_port, gateway.proxy_port);
    let wanted = [
        (port, Type::STREAM),
        (proxy, Type::STREAM),
        (dns, Type::STREAM),
        (dns, Type::DGRAM),
    ];
    let mut taken = Vec::new();
    for (port, kind) in wanted {
        for address in [IpAddr::V4(gateway.address4), IpAddr::V6(gateway.address6)] {
            let address = SocketAddr::new(address, port);
            if bind(address, kind).is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse) {
                taken.push(address.to_string());
            }
        }
    }
    taken.dedup();
    if taken.is_empty() {
        return Check::ok(NAME, format!("{port}, {proxy} and {dns} are free"));
    }
    Check::warning(
        NAME,
        format!("in use: {}", taken.join(", ")),
        "a `run` with the default ports cannot start, unless an agent has them already",
        "see who has them (ss -lnp), or set gateway.port and gateway.dnsPort",
    )
}

/// Binds without listening, to an address that the node need not have yet (ip(7), IP_FREEBIND).
fn bind(address: SocketAddr, kind: Type) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    socket.set_reuse_address(kind == Type::STREAM)?;
    socket.bind(&address.into())
}

fn resolvers() -> Check {
    const NAME: &str = "name servers";
    const PATH: &str = "/etc/resolv.conf";
    let text = fs::read_to_string(PATH).unwrap_or_default();
    let servers = name_servers(&text);
    if servers.is_empty() {
        return Check::warning(
            NAME,
            format!("none in {PATH}"),
            "the gateway cannot look names up, and does not start",
            "set gateway.resolvers, or name a server in the file",
        );
    }
    Check::ok(NAME, format!("{} in {PATH}", servers.join(", ")))
}

/// The addresses of `nameserver` lines (resolv.conf(5)).
fn name_servers(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next())?
        })
        .filter(|address| {
            let address = address.split('%').next().unwrap_or_default();
            address.parse::<IpAddr>().is_ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_a_resolv_conf() {
        let text = "# nameserver 192.0.2.9\nsearch a.test\nnameserver 192.0.2.53\n\
            nameserver fe80::1%eth0\nnameserver\nnameserver nonsense\n";
        assert_eq!(name_servers(text), ["192.0.2.53", "fe80::1%eth0"]);
    }

    #[test]
    fn users_have_names_or_none() {
        assert_eq!(name_of(0).unwrap().as_deref(), Some("root"));
        assert_eq!(name_of(4_123_456_789).unwrap(), None);
    }
}
