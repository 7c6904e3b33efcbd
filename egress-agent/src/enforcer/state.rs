//! What the maps hold: the instance's configuration, endpoints, links, networks.

use crate::enforcer::{
    Enforcer, EnforcerError, bpffs,
    cgroup::CgroupId,
    direct::{DirectEntry, bits},
    node,
};
use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, MapData, MapError, lpm_trie::Key},
};
use egress_common::{
    address::Address,
    attempt::TCP,
    endpoint::{Endpoint, Gateway, LINK_ADDRESSES, Link, MAX_ENDPOINTS},
    maps::{self, AddressKey, Class, Config, NEXT_HOP, OWN, ReplyKey},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    path::Path,
};

/// An endpoint as the maps shall hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointState {
    /// 1 to [`MAX_ENDPOINTS`] - 1.
    pub id: u32,
    /// The number of its direct entries, see [`Enforcer::set_direct`].
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

impl Enforcer {
    /// Writes the instance's configuration. `levels` has bit n set where an endpoint's cgroup
    /// lies n levels deep.
    pub fn set_config(&mut self, gateway: Gateway, levels: u32) -> Result<(), EnforcerError> {
        let config = Config {
            gateway,
            cgroup_levels: levels,
            reserved: 0,
            generation: new_generation()?,
        };
        let mut map: Array<&mut MapData, Config> = self.map(maps::CONFIG)?;
        map.set(0, config, 0).map_err(failed(maps::CONFIG))?;
        self.written.note(maps::CONFIG, &0_u32, &config);
        Ok(())
    }

    /// Has the programs judge anew what they remember to have allowed: after a change.
    pub fn forget_decisions(&mut self) -> Result<(), EnforcerError> {
        let map: Array<&mut MapData, Config> = self.map(maps::CONFIG)?;
        let config = map.get(&0, 0).map_err(failed(maps::CONFIG))?;
        self.set_config(config.gateway, config.cgroup_levels)
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
            direct: self.sets.place(state.policy),
            mode: state.mode,
            flags: state.flags,
            reserved: [0; 2],
            generation: state.generation,
            cgroup: state.cgroup_id(),
            namespace: node::namespace().map_err(EnforcerError::Namespace)?,
        };
        self.give_own(&[state.id])?;
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
            own: first_addresses(&state.addresses),
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
        let cgroups: HashSet<_> = states.iter().map(EndpointState::cgroup_id).collect();
        self.retain::<u64, u32>(maps::CGROUPS, |key| cgroups.contains(key))?;
        let addresses: HashSet<_> = states.iter().flat_map(roles).map(|(key, _)| key).collect();
        self.retain::<AddressKey, u8>(maps::ADDRESSES, |key| addresses.contains(key))?;
        let owned: HashSet<_> = states.iter().flat_map(owned).collect();
        self.retain::<Address, u32>(maps::OWNERS, |key| owned.contains(key))?;
        let links = states.iter().filter_map(|state| state.link.as_ref());
        let links: HashSet<_> = links.map(|link| link.interface).collect();
        self.retain::<u32, Link>(maps::LINKS, |key| links.contains(key))?;
        let ids: BTreeSet<_> = states.iter().map(|state| state.id).collect();
        for id in (0..MAX_ENDPOINTS).filter(|id| !ids.contains(id)) {
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

    /// Writes who may open flows to the endpoints of these ids, and forgets the rest, with the flows
    /// that were opened by it. `inside` is the node and the cluster.
    pub fn set_replies(
        &mut self,
        entries: &[(u32, DirectEntry)],
        inside: &[(IpNet, Class)],
    ) -> Result<(), EnforcerError> {
        let mut wanted = HashSet::new();
        for (id, entry) in entries {
            let key = entry.reply_key(*id);
            self.insert_prefix(maps::REPLIES, &key, 1)?;
            wanted.insert((key.prefix_len(), key.data()));
        }
        let gone = self.retain_prefixes::<ReplyKey>(maps::REPLIES, |key| {
            wanted.contains(&(key.prefix_len(), key.data()))
        })?;
        let lost: BTreeSet<_> = gone.iter().map(|key| key.data().endpoint).collect();
        for id in lost {
            self.retain_flows(id, |key, _| {
                let remote = key.remote.to_ip();
                let is_inside = || inside.iter().any(|(network, _)| network.contains(&remote));
                let mut entries = entries.iter();
                key.protocol == TCP && is_inside()
                    || entries.any(|(of, entry)| {
                        *of == id
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
            .map(|(network, class)| {
                let bits = u32::from(bits(network));
                (bits, Address::from(network.network()), *class)
            })
            .collect();
        for (bits, address, class) in &wanted {
            let key = Key::new(*bits, *address);
            self.insert_prefix(maps::NETWORKS, &key, *class as u8)?;
        }
        let kept = wanted.iter().map(|(bits, address, _)| (*bits, *address));
        let kept: HashSet<(u32, Address)> = kept.collect();
        self.retain_prefixes::<Address>(maps::NETWORKS, |key| {
            kept.contains(&(key.prefix_len(), key.data()))
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

    pub(super) fn insert_prefix<K: Pod>(
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

    /// Removes the prefixes that are not kept, and says which.
    pub(super) fn retain_prefixes<K: Pod>(
        &mut self,
        name: &'static str,
        keep: impl Fn(&Key<K>) -> bool,
    ) -> Result<Vec<Key<K>>, EnforcerError> {
        let map: LpmTrie<&mut MapData, K, u8> = self.map(name)?;
        let gone: Vec<_> = map
            .keys()
            .filter_map(Result::ok)
            .filter(|key| !keep(key))
            .collect();
        for key in &gone {
            let mut map: LpmTrie<&mut MapData, K, u8> = self.map(name)?;
            map.remove(key).map_err(failed(name))?;
            self.written.forget(name, key);
        }
        Ok(gone)
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

/// The sets of direct entries that an earlier agent gave, by endpoint.
pub fn pinned_sets(pins: &Path) -> Result<BTreeMap<u32, u32>, EnforcerError> {
    let pin = bpffs::map(pins, maps::ENDPOINTS);
    if !pin.exists() {
        return Ok(BTreeMap::new());
    }
    let failed = failed(maps::ENDPOINTS);
    let map = MapData::from_pin(pin).map_err(&failed)?;
    let map: Array<_, Endpoint> = Array::try_from(aya::maps::Map::Array(map)).map_err(&failed)?;
    let endpoints: Vec<Endpoint> = map.iter().collect::<Result<_, _>>().map_err(failed)?;
    let endpoints = endpoints.into_iter().filter(|endpoint| endpoint.id != 0);
    Ok(endpoints.map(|it| (it.id, it.direct)).collect())
}

/// A number that no other agent or moment has had.
fn new_generation() -> Result<u64, EnforcerError> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| failed(maps::CONFIG)(MapError::IoError(error.into())))?;
    // 0 is nobody's.
    Ok(u64::from_ne_bytes(bytes).max(1))
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

/// As many as a link's entry has.
fn first_addresses(addresses: &[IpAddr]) -> [Address; LINK_ADDRESSES] {
    let mut first = [Address::UNSPECIFIED; LINK_ADDRESSES];
    for (place, address) in first.iter_mut().zip(addresses) {
        *place = (*address).into();
    }
    first
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
