//! What tells several commands at once apart: a number of its own for each, from which its
//! instance, its link and its addresses follow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How many commands can run at once; each takes two addresses.
pub const SLOTS: u16 = 4096;

/// What the instances' names start with.
pub const PREFIX: &str = "exec-";

/// A number that no other running command has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u16);

impl Slot {
    /// All of them, lowest first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS).map(Self)
    }

    /// The slot of an instance's name, if it is one of a command's.
    pub fn of_instance(name: &str) -> Option<Self> {
        let number: u16 = name.strip_prefix(PREFIX)?.parse().ok()?;
        (number < SLOTS).then_some(Self(number))
    }

    /// The instance, which names pins, cgroup and lock.
    pub fn instance(self) -> String {
        format!("{PREFIX}{}", self.0)
    }

    /// The node's side of the veth; at most 15 bytes (IFNAMSIZ in include/uapi/linux/if.h).
    pub fn link(self) -> String {
        format!("egress-{}", self.0)
    }

    /// The gateway's address, on the node's side: even ones of 169.254.65.0/24 to
    /// 169.254.96.0/24, link-local, since no route leads there.
    pub fn gateway4(self) -> Ipv4Addr {
        let first = u32::from(Ipv4Addr::new(169, 254, 65, 0));
        Ipv4Addr::from(first + 2 * u32::from(self.0))
    }

    /// The command's address, the other one of the same /31 (RFC 3021).
    pub fn command4(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.gateway4()) + 1)
    }

    /// The gateway's address: ::1 of a /64 of fd65:6772:6573::/48, unique-local.
    pub fn gateway6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd65, 0x6772, 0x6573, self.0 + 1, 0, 0, 0, 1)
    }

    /// The command's address, ::2 of the same /64.
    pub fn command6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd65, 0x6772, 0x6573, self.0 + 1, 0, 0, 0, 2)
    }

    /// Both addresses of the gateway.
    pub fn gateway(self) -> [IpAddr; 2] {
        [self.gateway4().into(), self.gateway6().into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_fit() {
        for slot in Slot::all() {
            assert_eq!(Slot::of_instance(&slot.instance()), Some(slot));
            assert!(slot.link().len() <= 15, "{}", slot.link());
        }
        for name in ["exec-4096", "exec-", "exec-x", "default", "exec--1"] {
            assert_eq!(Slot::of_instance(name), None, "{name}");
        }
    }

    #[test]
    fn addresses_never_meet_the_metadata_service_or_an_installed_agent() {
        let all: std::collections::BTreeSet<_> = Slot::all()
            .flat_map(|slot| [slot.gateway4(), slot.command4()])
            .collect();
        assert_eq!(all.len(), 2 * usize::from(SLOTS));
        let last = Ipv4Addr::new(169, 254, 96, 255);
        assert_eq!(all.last(), Some(&last));
        let installed = crate::config::GatewayConfig::default();
        assert!(!all.contains(&installed.address4));
        assert!(Slot::all().all(|slot| slot.gateway6() != installed.address6));
    }
}
