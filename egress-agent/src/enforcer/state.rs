//! What the maps hold: the instance's configuration, endpoints, links, networks, direct entries.

use crate::enforcer::{Enforcer, EnforcerError, bpffs, cgroup::CgroupId, node};
use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, MapData, lpm_trie::Key},
};
use egress_common::{
    address::Address,
    attempt::TCP,
    endpoint::{Endpoint, Gateway, Link, MAX_ENDPOINTS},
    maps::{self, AddressKey, Class, Config, DirectKey, NEXT_HOP, OWN},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    path::Path,
};

/// An endpoint as the maps shall hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointState {
    /// 1 to [`MAX_ENDPOINTS`] - 1.
    pub id: u32,
    /// The policy's number.
    pub policy: u32,
    /// [`egress_common::endpoint::MODE_ENFORCE`] or [`egress_common::endpoint::MODE_AUDIT`].
    pub mode: u8,
    /// [`egress_common::endpoint::HAS_LINK`] and the like.
    pub flags: u8,
    /// The policy's generation.
    pub generation: u32,
    /// Its own addresses, link-local ones included.
    pub addresses: Vec<IpAddr>,
    /// Its cgroup; none while there is none.
    pub cgroup: Option<CgroupId>,
    /// Its link, if it has one.
    pub link: Option<LinkState>,
}

/// The link of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// The index of the host side.
    pub interface: u32,
    /// The endpoint's MAC address.
    pub mac: [u8; 6],
    /// The next hop's MAC address.
    pub next_hop_mac: [u8; 6],
    /// What ARP and NDP may ask for.
    pub next_hops: Vec<IpAddr>,
}

impl EndpointState {
    /// The id of its cgroup; 0, which is no cgroup's, while there is none.
    fn cgroup_id(&self) -> u64 {
        self.cgroup.map_or(0, |cgroup| cgroup.id)
    }
}

/// A direct entry: packets that pass beside the gateway. Of `replies` the network is who may open,
/// and the port the endpoint's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectEntry {
    /// Where to.
    pub network: IpNet,
    /// The IP protocol number.
    pub protocol: u8,
    /// The port; 0 for every port.
    pub port: u16,
}

impl Enforcer {
    /// Writes the instance's configuration. `levels` has bit n set where an endpoint's cgroup
    /// lies n levels deep.
    pub fn set_config(&mut self, gateway: Gateway, levels: u32) -> Result<(), EnforcerError> {
        let config = Config {
            gateway,
            cgroup_levels: levels,
            reserved: 0,
        };
        let mut map: Array<&mut MapData, Config> = self.map(maps::CONFIG)?;
        map.set(0, config, 0).map_err(failed(maps::CONFIG))?;
        self.written.note(maps::CONFIG, &0_u32, &config);
        Ok(())
    }

    /// Writes an endpoint, itself before what points to it.
    pub fn set_endpoint(&mut self, state: &EndpointState) -> Result<(), EnforcerError> {
        if state.id == 0 || state.id >= MAX_ENDPOINTS {
            return Err(EnforcerError::Full(format!(
                "more than {} endpoints on one node",
                MAX_ENDPOINTS - 1
            )));
        }
        let endpoint = Endpoint {
            id: state.id,
            policy: state.policy,
            mode: state.mode,
            flags: state.flags,
            reserved: [0; 2],
            generation: state.generation,
            cgroup: state.cgroup_id(),
            namespace: node::namespace().map_err(EnforcerError::Namespace)?,
        };
        self.give_own(state.id)?;
        let mut map: Array<&mut MapData, Endpoint> = self.map(maps::ENDPOINTS)?;
        map.set(state.id, endpoint, 0)
            .map_err(failed(maps::ENDPOINTS))?;
        self.written.note(maps::ENDPOINTS, &state.id, &endpoint);
        for (key, role) in roles(state) {
            self.insert(maps::ADDRESSES, key, role)?;
        }
        for address in owned(state) {
            self.insert(maps::OWNERS, address, state.id)?;
        }
        if let Some(cgroup) = state.cgroup {
            self.insert(maps::CGROUPS, cgroup.id, state.id)?;
        }
        let Some(link) = &state.link else {
            return Ok(());
        };
        let value = Link {
            endpoint: state.id,
            mac: link.mac,
            next_hop_mac: link.next_hop_mac,
        };
        self.insert(maps::LINKS, link.interface, value)
    }

    /// Whether the id is this endpoint's already, from an earlier agent for instance.
    pub fn is_endpoint(&mut self, state: &EndpointState) -> Result<bool, EnforcerError> {
        let map: Array<&mut MapData, Endpoint> = self.map(maps::ENDPOINTS)?;
        let found = map.get(&state.id, 0).map_err(failed(maps::ENDPOINTS))?;
        Ok(found.id == state.id && found.cgroup == state.cgroup_id())
    }

    /// Forgets endpoints, cgroups and links that are none of these endpoints'.
    pub fn retain_endpoints(&mut self, states: &[EndpointState]) -> Result<(), EnforcerError> {
        self.retain::<u64, u32>(maps::CGROUPS, |key| {
            states.iter().any(|state| state.cgroup_id() == *key)
        })?;
        let addresses: Vec<_> = states.iter().flat_map(roles).map(|(key, _)| key).collect();
        self.retain::<AddressKey, u8>(maps::ADDRESSES, |key| addresses.contains(key))?;
        let owned: HashSet<_> = states.iter().flat_map(owned).collect();
        self.retain::<Address, u32>(maps::OWNERS, |key| owned.contains(key))?;
        self.retain::<u32, Link>(maps::LINKS, |key| {
            let mut links = states.iter().filter_map(|state| state.link.as_ref());
            links.any(|link| link.interface == *key)
        })?;
        for id in 0..MAX_ENDPOINTS {
            if states.iter().any(|state| state.id == id) {
                continue;
            }
            let mut map: Array<&mut MapData, Endpoint> = self.map(maps::ENDPOINTS)?;
            if map.get(&id, 0).map_err(failed(maps::ENDPOINTS))?.id != 0 {
                map.set(id, Endpoint::NONE, 0)
                    .map_err(failed(maps::ENDPOINTS))?;
            }
            self.written.note(maps::ENDPOINTS, &id, &Endpoint::NONE);
            if id != 0 {
                self.take_own(id)?;
            }
        }
        Ok(())
    }

    /// Makes an id that was another's a new endpoint's: nothing of the other's is left.
    pub fn renew(&mut self, id: u32) -> Result<(), EnforcerError> {
        self.clear_counters(id)?;
        self.take_own(id)
    }

    /// Writes who may open flows to endpoints of which policy, and forgets the rest, with the flows
    /// that were opened by it. `inside` is the node and the cluster.
    pub fn set_replies(
        &mut self,
        entries: &[(u32, DirectEntry)],
        states: &[EndpointState],
        inside: &[(IpNet, Class)],
    ) -> Result<(), EnforcerError> {
        let wanted: HashSet<_> = entries
            .iter()
            .map(|(policy, entry)| {
                let bits = DirectKey::HEAD_BITS + prefix(&entry.network);
                (bits, direct_key(*policy, entry))
            })
            .collect();
        for (bits, key) in &wanted {
            self.insert_prefix(maps::REPLIES, &Key::new(*bits, *key), 1)?;
        }
        let gone = self.retain_prefixes::<DirectKey>(maps::REPLIES, |key| {
            wanted.contains(&(key.prefix_len(), key.data()))
        })?;
        if gone == 0 {
            return Ok(());
        }
        for state in states {
            self.retain_flows(state.id, |key, _| {
                let remote = key.remote.to_ip();
                let is_inside = || inside.iter().any(|(network, _)| network.contains(&remote));
                let mut entries = entries.iter();
                key.protocol == TCP && is_inside()
                    || entries.any(|(policy, entry)| {
                        *policy == state.policy
                            && entry.network.contains(&remote)
                            && entry.protocol == key.protocol
                            && [0, key.local_port].contains(&entry.port)
                    })
            })?;
        }
        Ok(())
    }

    /// Writes what the node knows of networks, and forgets the rest.
    pub fn set_networks(&mut self, networks: &[(IpNet, Class)]) -> Result<(), EnforcerError> {
        let wanted: Vec<_> = networks
            .iter()
            .map(|(network, class)| (prefix(network), Address::from(network.network()), *class))
            .collect();
        for (bits, address, class) in &wanted {
            let key = Key::new(*bits, *address);
            self.insert_prefix(maps::NETWORKS, &key, *class as u8)?;
        }
        self.retain_prefixes::<Address>(maps::NETWORKS, |key| {
            wanted
                .iter()
                .any(|(bits, address, _)| *bits == key.prefix_len() && *address == key.data())
        })?;
        Ok(())
    }

    /// Writes the direct entries of all policies, new ones first, and forgets the rest: what
    /// stays is never away.
    pub fn set_direct(&mut self, entries: &[(u32, DirectEntry)]) -> Result<(), EnforcerError> {
        let (hosts, networks): (Vec<_>, Vec<_>) = entries
            .iter()
            .map(|(policy, entry)| (entry, direct_key(*policy, entry)))
            .partition(|(entry, _)| entry.network.prefix_len() == entry.network.max_prefix_len());
        for (_, key) in &hosts {
            self.insert(maps::DIRECT_HOSTS, *key, 1_u8)?;
        }
        self.retain::<DirectKey, u8>(maps::DIRECT_HOSTS, |key| {
            hosts.iter().any(|(_, host)| host == key)
        })?;
        let wanted: Vec<_> = networks
            .iter()
            .map(|(entry, key)| (DirectKey::HEAD_BITS + prefix(&entry.network), *key))
            .collect();
        for (bits, key) in &wanted {
            self.insert_prefix(maps::DIRECT_NETWORKS, &Key::new(*bits, *key), 1)?;
        }
        self.retain_prefixes::<DirectKey>(maps::DIRECT_NETWORKS, |key| {
            wanted
                .iter()
                .any(|(bits, data)| *bits == key.prefix_len() && *data == key.data())
        })?;
        Ok(())
    }

    /// A map of the object as aya's type for it.
    pub(super) fn map<'a, T>(&'a mut self, name: &'static str) -> Result<T, EnforcerError>
    where
        T: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>,
    {
        let map = self
            .ebpf
            .map_mut(name)
            .ok_or(EnforcerError::Missing(name))?;
        T::try_from(map).map_err(failed(name))
    }

    fn insert<K: Pod, V: Pod>(
        &mut self,
        name: &'static str,
        key: K,
        value: V,
    ) -> Result<(), EnforcerError> {
        let mut map: HashMap<&mut MapData, K, V> = self.map(name)?;
        map.insert(key, value, 0).map_err(failed(name))?;
        self.written.note(name, &key, &value);
        Ok(())
    }

    fn insert_prefix<K: Pod>(
        &mut self,
        name: &'static str,
        key: &Key<K>,
        value: u8,
    ) -> Result<(), EnforcerError> {
        let mut map: LpmTrie<&mut MapData, K, u8> = self.map(name)?;
        map.insert(key, value, 0).map_err(failed(name))?;
        self.written.note(name, key, &value);
        Ok(())
    }

    /// Removes the prefixes that are not kept, and says how many.
    fn retain_prefixes<K: Pod>(
        &mut self,
        name: &'static str,
        keep: impl Fn(&Key<K>) -> bool,
    ) -> Result<usize, EnforcerError> {
        let map: LpmTrie<&mut MapData, K, u8> = self.map(name)?;
        let gone: Vec<_> = map
            .keys()
            .filter_map(Result::ok)
            .filter(|key| !keep(key))
            .collect();
        let count = gone.len();
        for key in gone {
            let mut map: LpmTrie<&mut MapData, K, u8> = self.map(name)?;
            map.remove(&key).map_err(failed(name))?;
            self.written.forget(name, &key);
        }
        Ok(count)
    }

    fn retain<K: Pod, V: Pod>(
        &mut self,
        name: &'static str,
        keep: impl Fn(&K) -> bool,
    ) -> Result<(), EnforcerError> {
        let map: HashMap<&mut MapData, K, V> = self.map(name)?;
        let gone: Vec<K> = map
            .keys()
            .filter_map(Result::ok)
            .filter(|key| !keep(key))
            .collect();
        for key in gone {
            let mut map: HashMap<&mut MapData, K, V> = self.map(name)?;
            map.remove(&key).map_err(failed(name))?;
            self.written.forget(name, &key);
        }
        Ok(())
    }
}

/// The ids that an earlier agent gave, by cgroup. Whose cgroup stays keeps its id, so that nobody is
/// taken for somebody else while one agent follows another.
pub fn pinned_ids(pins: &Path) -> Result<BTreeMap<u64, u32>, EnforcerError> {
    let pin = bpffs::map(pins, maps::CGROUPS);
    if !pin.exists() {
        return Ok(BTreeMap::new());
    }
    let failed = failed(maps::CGROUPS);
    let map = MapData::from_pin(pin).map_err(&failed)?;
    let map: HashMap<_, u64, u32> =
        HashMap::try_from(aya::maps::Map::HashMap(map)).map_err(&failed)?;
    map.iter().collect::<Result<_, _>>().map_err(failed)
}

/// The endpoint's addresses and its next hop's.
fn roles(state: &EndpointState) -> Vec<(AddressKey, u8)> {
    let own = state.addresses.iter().map(|ip| (ip, OWN));
    let hops = state.link.iter().flat_map(|link| &link.next_hops);
    let all = own.chain(hops.map(|ip| (ip, NEXT_HOP)));
    let keyed = all.map(|(ip, role)| {
        let key = AddressKey {
            endpoint: state.id,
            address: (*ip).into(),
        };
        (key, role)
    });
    keyed.collect()
}

/// The addresses that are the endpoint's alone: behind a link.
fn owned(state: &EndpointState) -> impl Iterator<Item = Address> {
    let link = state.link.iter();
    link.flat_map(|_| &state.addresses).map(|ip| (*ip).into())
}

/// For `map_err`: names the map.
pub(super) fn failed(name: &'static str) -> impl Fn(aya::maps::MapError) -> EnforcerError {
    move |source| EnforcerError::Map {
        name,
        source: Box::new(source),
    }
}

fn direct_key(policy: u32, entry: &DirectEntry) -> DirectKey {
    DirectKey {
        policy,
        port: entry.port,
        protocol: entry.protocol,
        reserved: 0,
        address: entry.network.network().into(),
    }
}

/// The prefix length of a network in the mapped form.
fn prefix(network: &IpNet) -> u32 {
    match network {
        IpNet::V4(network) => 96 + u32::from(network.prefix_len()),
        IpNet::V6(network) => u32::from(network.prefix_len()),
    }
}
