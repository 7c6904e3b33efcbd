//! The node's network.

use std::net::Ipv6Addr;

use socket2::{Domain, Socket, Type};

use super::{Check, line_of};

pub(super) fn checks() -> Vec<Check> {
    vec![ipv6(), reverse_path()]
}

/// By making a socket and binding it.
fn ipv6() -> Check {
    let address = std::net::SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let tried = Socket::new(Domain::IPV6, Type::DGRAM, None).and_then(|s| s.bind(&address.into()));
    match tried {
        Ok(()) => Check::ok("IPv6", "enabled"),
        Err(error) => Check::warning(
            "IPv6",
            error,
            "the gateway cannot listen on its IPv6 address, so IPv6 of endpoints is denied only",
            "sysctl net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.lo.disable_ipv6=0",
        ),
    }
}

/// For information: a strict filter is fine where the route to an endpoint goes by its veth.
fn reverse_path() -> Check {
    const NAME: &str = "rp_filter";
    let value = |which: &str| {
        line_of(&format!("/proc/sys/net/ipv4/conf/{which}/rp_filter")).unwrap_or_default()
    };
    let (all, default) = (value("all"), value("default"));
    let found = format!("all {all}, default {default}");
    match all == "1" || default == "1" {
        true => Check::ok(
            NAME,
            format!("{found}: strict, so the node's route to an endpoint must be by its link"),
        ),
        false => Check::ok(NAME, found),
    }
}
