//! `--allow HOST[:PORT]` and `--allow-cidr NET[:PORT]`.

use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;

use super::{
    host::{HostPattern, HostPatternError},
    port::{PortError, PortRange},
    rule::{Allow, Rule},
};

/// Why a flag's value is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FlagError {
    /// The host.
    #[error("--allow: {0}")]
    Host(#[from] HostPatternError),
    /// The host is an address.
    #[error("--allow {0}: this is an address; write --allow-cidr {0}")]
    Address(String),
    /// The port.
    #[error("{flag} {value}: {error}")]
    Port {
        /// Which flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        error: PortError,
    },
    /// The network.
    #[error(
        "--allow-cidr {0}: no network; write 198.51.100.0/24, 198.51.100.7:8443, 2001:db8::/32 or [2001:db8::/32]:8443"
    )]
    Network(String),
    /// Bits are set that the prefix length leaves out.
    #[error("--allow-cidr {0}: bits are set beyond the prefix; write {1}")]
    HostBits(String, IpNet),
}

/// A rule from `--allow HOST[:PORT]`; the port is 443 where none is written.
///
/// # Errors
/// What is wrong with the host or the port.
pub fn allow_host(value: &str) -> Result<Rule, FlagError> {
    let unbracketed = value.trim_matches(['[', ']']);
    if unbracketed.parse::<IpAddr>().is_ok() || unbracketed.parse::<IpNet>().is_ok() {
        return Err(FlagError::Address(value.to_owned()));
    }
    let (host, port) = match value.split_once(':') {
        Some((host, port)) if !port.starts_with('/') => {
            if host.parse::<IpAddr>().is_ok() {
                return Err(FlagError::Address(value.to_owned()));
            }
            (host, parse_port("--allow", value, port)?)
        }
        Some(_) | None => (value, PortRange::HTTPS),
    };
    let pattern: HostPattern = host.parse()?;
    Ok(Rule {
        name: format!("--allow {value}"),
        allow: Allow::Hosts {
            hosts: vec![pattern],
            ports: vec![port],
        },
    })
}

/// A rule from `--allow-cidr NET[:PORT]`; every port where none is written. IPv6 with a port
/// goes in brackets, around the address or around the whole network.
///
/// # Errors
/// What is wrong with the network or the port.
pub fn allow_cidr(value: &str) -> Result<Rule, FlagError> {
    let (network, port) = split_network(value);
    let ports = match port {
        Some(port) => parse_port("--allow-cidr", value, port)?,
        None => PortRange::ALL,
    };
    let network = parse_network(network).ok_or_else(|| FlagError::Network(value.to_owned()))?;
    if network != network.trunc() {
        return Err(FlagError::HostBits(value.to_owned(), network.trunc()));
    }
    Ok(Rule {
        name: format!("--allow-cidr {value}"),
        allow: Allow::Cidrs {
            cidrs: vec![network],
            ports: vec![ports],
        },
    })
}

fn split_network(value: &str) -> (&str, Option<&str>) {
    if let Some((inside, after)) = value.strip_prefix('[').and_then(|v| v.split_once(']')) {
        return match after.strip_prefix(':') {
            Some(port) => (inside, Some(port)),
            None if after.is_empty() => (inside, None),
            None => (value, None),
        };
    }
    match value.split_once(':') {
        Some((network, port)) if !port.contains(':') => (network, Some(port)),
        Some(_) | None => (value, None),
    }
}

/// A network, or an address as the network of that one address.
pub fn parse_network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn parse_port(flag: &'static str, value: &str, port: &str) -> Result<PortRange, FlagError> {
    port.parse().map_err(|error| FlagError::Port {
        flag,
        value: value.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let rule = allow_host("repo.test").unwrap();
        assert_eq!(rule.name, "--allow repo.test");
        let Allow::Hosts { hosts, ports } = rule.allow else {
            panic!("hosts")
        };
        assert_eq!(hosts[0].to_string(), "repo.test");
        assert_eq!(ports, [PortRange::HTTPS]);
        let Allow::Hosts { ports, .. } = allow_host("*.repo.test:8443").unwrap().allow else {
            panic!("hosts")
        };
        assert_eq!(ports[0].first(), 8443);
    }

    #[test]
    fn hosts_that_are_refused() {
        let table = [
            ("*", "every host"),
            ("192.0.2.1", "--allow-cidr 192.0.2.1"),
            ("192.0.2.1:443", "--allow-cidr"),
            ("[2001:db8::1]", "--allow-cidr"),
            ("2001:db8::1", "--allow-cidr"),
            ("10.0.0.0/8", "--allow-cidr"),
            ("a.test:0", "1 to 65535"),
            ("a.test:http", "1 to 65535"),
            ("https://a.test", "host name alone"),
        ];
        for (value, part) in table {
            let error = allow_host(value).unwrap_err().to_string();
            assert!(error.contains(part), "{value}: {error}");
        }
    }

    #[test]
    fn networks() {
        let table = [
            ("198.51.100.0/24", "198.51.100.0/24", PortRange::ALL),
            ("198.51.100.7", "198.51.100.7/32", PortRange::ALL),
            ("198.51.100.7:443", "198.51.100.7/32", PortRange::HTTPS),
            ("198.51.100.0/24:443", "198.51.100.0/24", PortRange::HTTPS),
            ("2001:db8::/32", "2001:db8::/32", PortRange::ALL),
            ("[2001:db8::/32]:443", "2001:db8::/32", PortRange::HTTPS),
            ("[2001:db8::1]:443", "2001:db8::1/128", PortRange::HTTPS),
            ("[2001:db8::1]", "2001:db8::1/128", PortRange::ALL),
        ];
        for (value, network, port) in table {
            let Allow::Cidrs { cidrs, ports } = allow_cidr(value).unwrap().allow else {
                panic!("cidrs")
            };
            assert_eq!((cidrs[0].to_string().as_str(), ports[0]), (network, port));
        }
        for value in [
            "",
            "a.test",
            "10.0.0.1/8",
            "[2001:db8::1",
            "10.0.0.0/33",
            "1.2.3.4:0",
        ] {
            assert!(allow_cidr(value).is_err(), "{value}");
        }
    }
}
