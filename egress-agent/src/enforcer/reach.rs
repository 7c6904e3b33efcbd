//! What the gateway may reach, in the kernel.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, MapData, lpm_trie::Key};
use egress_common::{
    address::Address,
    maps::{self, NamedPorts},
    verdict::DropReason,
};
use ipnet::IpNet;

use crate::enforcer::{Enforcer, EnforcerError, direct::bits, state::failed};

/// Networks and ports, as the maps shall hold them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachState {
    /// Of an address the longest network counts: why it is refused, or that it may be reached. What is
    /// in none is refused.
    pub networks: BTreeMap<IpNet, Option<DropReason>>,
    /// A bit for each port that some policy names.
    pub ports: Box<NamedPorts>,
}

impl Default for ReachState {
    fn default() -> Self {
        Self {
            networks: BTreeMap::new(),
            ports: Box::new([0; size_of::<NamedPorts>() / size_of::<u64>()]),
        }
    }
}

impl ReachState {
    /// Whether a network may be reached where this is written.
    fn allows(&self, network: &IpNet) -> bool {
        self.networks.get(network) == Some(&None)
    }
}

impl Enforcer {
    /// Adds what the gateway may reach from now on, and takes nothing: before it is told.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn widen_reach(&mut self, to: &ReachState) -> Result<(), EnforcerError> {
        // What is refused within a network comes before the network.
        let (allowed, refused): (Vec<_>, Vec<_>) =
            to.networks.iter().partition(|(_, why)| why.is_none());
        for (network, why) in refused {
            if !self.reach.networks.contains_key(network) {
                self.write_reach(network, *why)?;
            }
        }
        for (network, why) in allowed {
            if !self.reach.allows(network) {
                self.write_reach(network, *why)?;
            }
        }
        let mut ports = self.reach.ports.clone();
        for (word, more) in ports.iter_mut().zip(to.ports.iter()) {
            *word |= more;
        }
        self.write_ports(ports)
    }

    /// Writes what the gateway may reach, and nothing else.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_reach(&mut self, to: &ReachState) -> Result<(), EnforcerError> {
        for (network, why) in &to.networks {
            if self.reach.networks.get(network) != Some(why) {
                self.write_reach(network, *why)?;
            }
        }
        let kept: BTreeSet<_> = to.networks.keys().map(prefix).collect();
        self.retain_prefixes::<Address>(maps::REACH, |key| {
            kept.contains(&(key.prefix_len(), key.data().to_ip()))
        })?;
        self.reach.networks.clone_from(&to.networks);
        self.write_ports(to.ports.clone())
    }

    fn write_reach(
        &mut self,
        network: &IpNet,
        why: Option<DropReason>,
    ) -> Result<(), EnforcerError> {
        let key = Key::new(u32::from(bits(network)), Address::from(network.network()));
        let number = why.map_or(0, |reason| reason as u8);
        self.insert_prefix(maps::REACH, &key, number)?;
        self.reach.networks.insert(*network, why);
        Ok(())
    }

    fn write_ports(&mut self, ports: Box<NamedPorts>) -> Result<(), EnforcerError> {
        let mut map: Array<&mut MapData, NamedPorts> = self.map(maps::NAMED)?;
        map.set(0, *ports, 0).map_err(failed(maps::NAMED))?;
        self.written.note(maps::NAMED, &0_u32, &*ports);
        self.reach.ports = ports;
        Ok(())
    }
}

fn prefix(network: &IpNet) -> (u32, std::net::IpAddr) {
    (bits(network).into(), network.network())
}
