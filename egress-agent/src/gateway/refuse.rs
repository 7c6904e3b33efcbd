//! Addresses that a name must not lead to: against rebinding, and against a name that points
//! into the node or the cluster.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use tokio::sync::watch;

use super::table::Table;
use crate::policy::host::HostName;

/// Why an address from DNS is not dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// 0.0.0.0/8 (RFC 6890), `::`.
    Unspecified,
    /// 127.0.0.0/8, `::1`.
    Loopback,
    /// RFC 1918, and fec0::/10 (RFC 3879).
    Private,
    /// fc00::/7 (RFC 4193).
    UniqueLocal,
    /// 169.254.0.0/16, fe80::/10.
    LinkLocal,
    /// The metadata services of the clouds.
    Metadata,
    /// 100.64.0.0/10 (RFC 6598).
    Cgnat,
    /// 224.0.0.0/4, ff00::/8.
    Multicast,
    /// 255.255.255.255.
    Broadcast,
    /// 64:ff9b::/96 (RFC 6052), 64:ff9b:1::/48 (RFC 8215).
    Nat64,
    /// 2002::/16 (RFC 3056), 192.88.99.0/24 (RFC 7526).
    SixToFour,
    /// 2001::/32 (RFC 4380).
    Teredo,
    /// ::ffff:0:0/96, and the old compatible form ::/96.
    Mapped,
    /// Whatever else is not for the open Internet: 192.0.0.0/24, 198.18.0.0/15 (RFC 2544),
    /// 240.0.0.0/4, 2001:2::/48 (RFC 5180), 2001:10::/28 and 2001:20::/28 (RFC 7343), all of
    /// IPv6 outside 2000::/3.
    Reserved,
    /// An address of the gateway.
    Own,
    /// An address of the node, a public one.
    Node,
    /// In a network of pods or Services (`clusterNetworks`), a public one.
    Cluster,
    /// In a network that the operator refuses (`refusedAnswers`).
    Configured,
}

impl Refusal {
    /// The stable name in records.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Unspecified => "answer_unspecified",
            Self::Loopback => "answer_loopback",
            Self::Private => "answer_private",
            Self::UniqueLocal => "answer_unique_local",
            Self::LinkLocal => "answer_link_local",
            Self::Metadata => "answer_metadata",
            Self::Cgnat => "answer_cgnat",
            Self::Multicast => "answer_multicast",
            Self::Broadcast => "answer_broadcast",
            Self::Nat64 => "answer_nat64",
            Self::SixToFour => "answer_6to4",
            Self::Teredo => "answer_teredo",
            Self::Mapped => "answer_mapped",
            Self::Reserved => "answer_reserved",
            Self::Own => "answer_own",
            Self::Node => "answer_node",
            Self::Cluster => "answer_cluster",
            Self::Configured => "answer_refused_network",
        }
    }
}

/// What is refused, and what the operator permits all the same.
#[derive(Clone, Debug, Default)]
pub struct Refused {
    permitted: Vec<IpNet>,
    configured: Vec<IpNet>,
    own: Vec<IpAddr>,
    table: Option<watch::Receiver<Arc<Table>>>,
}

impl Refused {
    /// `own` are the gateway's addresses: refused whatever is permitted.
    pub fn new(permitted: Vec<IpNet>, own: Vec<IpAddr>) -> Self {
        Self {
            permitted,
            configured: Vec::new(),
            own,
            table: None,
        }
    }

    /// With networks that are refused whatever is permitted.
    #[must_use]
    pub fn and_networks(self, configured: Vec<IpNet>) -> Self {
        Self { configured, ..self }
    }

    /// With what the generation in force says of the node and the cluster.
    #[must_use]
    pub fn and_of(self, table: watch::Receiver<Arc<Table>>) -> Self {
        Self {
            table: Some(table),
            ..self
        }
    }

    /// Whether this is an address of the gateway.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&address.to_canonical())
    }

    /// The addresses that the operator gives a name (`hosts`), of which only the gateway's own are
    /// refused.
    pub fn named(&self, name: &HostName) -> Vec<IpAddr> {
        let table = self.table.as_ref().map(|table| table.borrow());
        let named = table.and_then(|table| table.hosts.get(name).cloned());
        named.unwrap_or_default()
    }

    /// For an address from DNS.
    ///
    /// # Errors
    /// Why it is not to be dialled.
    pub fn check(&self, address: IpAddr) -> Result<(), Refusal> {
        if self.is_own(address) {
            return Err(Refusal::Own);
        }
        let within = |networks: &[IpNet]| networks.iter().any(|net| net.contains(&address));
        if within(&self.configured) {
            return Err(Refusal::Configured);
        }
        if within(&self.permitted) {
            return Ok(());
        }
        match refusal(address).or_else(|| self.of_node_or_cluster(address)) {
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }

    fn of_node_or_cluster(&self, address: IpAddr) -> Option<Refusal> {
        let table = self.table.as_ref()?.borrow();
        let within = |networks: &[IpNet]| networks.iter().any(|net| net.contains(&address));
        match (within(&table.refused.node), within(&table.refused.cluster)) {
            (true, _) => Some(Refusal::Node),
            (false, true) => Some(Refusal::Cluster),
            (false, false) => None,
        }
    }
}

/// Why the address is not a public one; `None` where it is.
pub fn refusal(address: IpAddr) -> Option<Refusal> {
    match address {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => v6(address),
    }
}

fn v4(address: Ipv4Addr) -> Option<Refusal> {
    match address.octets() {
        [0, ..] => Some(Refusal::Unspecified),
        [127, ..] => Some(Refusal::Loopback),
        [169, 254, 169, 254] | [100, 100, 100, 200] | [168, 63, 129, 16] => Some(Refusal::Metadata),
        [169, 254, ..] => Some(Refusal::LinkLocal),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some(Refusal::Private),
        [100, 64..=127, ..] => Some(Refusal::Cgnat),
        [192, 88, 99, _] => Some(Refusal::SixToFour),
        [255, 255, 255, 255] => Some(Refusal::Broadcast),
        [192, 0, 0, _] | [198, 18..=19, ..] | [240..=255, ..] => Some(Refusal::Reserved),
        [224..=239, ..] => Some(Refusal::Multicast),
        [..] => None,
    }
}

fn v6(address: Ipv6Addr) -> Option<Refusal> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(Refusal::Unspecified),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Refusal::Loopback),
        [0, 0, 0, 0, 0, 0xffff | 0, ..] => Some(Refusal::Mapped),
        [0x64, 0xff9b, ..] => Some(Refusal::Nat64),
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Some(Refusal::Metadata),
        [0xfc00..=0xfdff, ..] => Some(Refusal::UniqueLocal),
        [0xfe80..=0xfebf, ..] => Some(Refusal::LinkLocal),
        [0xfec0..=0xfeff, ..] => Some(Refusal::Private),
        [0xff00..=0xffff, ..] => Some(Refusal::Multicast),
        [0x2002, ..] => Some(Refusal::SixToFour),
        [0x2001, 0, ..] => Some(Refusal::Teredo),
        [0x2001, 2, 0, ..] | [0x2001, 0x10..=0x2f, ..] => Some(Refusal::Reserved),
        [0x2000..=0x3fff, ..] => None,
        [..] => Some(Refusal::Reserved),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_has_its_name() {
        let table = [
            ("0.0.0.0", "answer_unspecified"),
            ("10.1.2.3", "answer_private"),
            ("172.31.0.1", "answer_private"),
            ("192.168.0.1", "answer_private"),
            ("127.8.0.1", "answer_loopback"),
            ("169.254.1.1", "answer_link_local"),
            ("169.254.169.254", "answer_metadata"),
            ("100.64.0.1", "answer_cgnat"),
            ("100.127.255.255", "answer_cgnat"),
            ("224.0.0.1", "answer_multicast"),
            ("240.0.0.1", "answer_reserved"),
            ("198.19.0.1", "answer_reserved"),
            ("255.255.255.255", "answer_broadcast"),
            ("192.88.99.1", "answer_6to4"),
            ("::", "answer_unspecified"),
            ("::1", "answer_loopback"),
            ("::ffff:8.8.8.8", "answer_mapped"),
            ("::8.8.8.8", "answer_mapped"),
            ("64:ff9b::808:808", "answer_nat64"),
            ("64:ff9b:1::1", "answer_nat64"),
            ("2002:808:808::1", "answer_6to4"),
            ("2001:0:1::1", "answer_teredo"),
            ("fd00:ec2::254", "answer_metadata"),
            ("fd12::1", "answer_unique_local"),
            ("fe80::1", "answer_link_local"),
            ("ff02::1", "answer_multicast"),
            ("100::1", "answer_reserved"),
            ("4000::1", "answer_reserved"),
            ("2001:2::1", "answer_reserved"),
            ("2001:10::1", "answer_reserved"),
            ("2001:2f::1", "answer_reserved"),
            ("168.63.129.16", "answer_metadata"),
        ];
        for (address, name) in table {
            let refusal = refusal(address.parse().unwrap()).map(Refusal::reason);
            assert_eq!(refusal, Some(name), "{address}");
        }
        for address in [
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "203.0.113.7",
            "2606:4700::1",
        ] {
            assert_eq!(refusal(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn what_is_permitted_passes_unless_it_is_the_gateway() {
        let own: IpAddr = "10.0.0.1".parse().unwrap();
        let refused = Refused::new(vec!["10.0.0.0/8".parse().unwrap()], vec![own]);
        assert_eq!(refused.check("10.0.0.2".parse().unwrap()), Ok(()));
        assert_eq!(refused.check(own), Err(Refusal::Own));
        assert_eq!(
            refused.check("192.168.0.1".parse().unwrap()),
            Err(Refusal::Private)
        );
    }

    #[test]
    fn what_the_operator_refuses_is_refused_although_it_is_permitted() {
        let nets = |text: &str| vec![text.parse().unwrap()];
        let refused = Refused::new(nets("10.0.0.0/8"), Vec::new()).and_networks(vec![
            "10.1.0.0/16".parse().unwrap(),
            "203.0.113.0/28".parse().unwrap(),
        ]);
        let check = |address: &str| refused.check(address.parse().unwrap());
        assert_eq!(check("10.2.0.1"), Ok(()));
        assert_eq!(check("10.1.0.1"), Err(Refusal::Configured));
        assert_eq!(check("203.0.113.7"), Err(Refusal::Configured));
        assert_eq!(check("203.0.113.17"), Ok(()));
    }

    #[test]
    fn node_and_cluster_are_refused_where_they_are_public() {
        let nets = |text: &str| vec![text.parse().unwrap()];
        let endpoints = super::super::protocol::Endpoints {
            refused: super::super::protocol::RefusedNetworks {
                node: nets("203.0.113.7/32"),
                cluster: nets("198.51.100.0/24"),
            },
            ..Default::default()
        };
        let table = Table::new(&endpoints, &Table::default());
        let (_sender, receiver) = watch::channel(Arc::new(table));
        let refused = Refused::new(nets("198.51.100.9/32"), Vec::new()).and_of(receiver);
        let check = |address: &str| refused.check(address.parse().unwrap());
        assert_eq!(check("203.0.113.7"), Err(Refusal::Node));
        assert_eq!(check("198.51.100.8"), Err(Refusal::Cluster));
        assert_eq!(check("198.51.100.9"), Ok(()));
        assert_eq!(check("203.0.113.8"), Ok(()));
    }
}
