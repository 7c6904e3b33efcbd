//! Direct entries in the kernel: each set has for each family a table of its own, as large as it
//! needs to be, in memory that the programs and this process share. Of a million entries only those
//! that change are written; a set that outgrows its table gets a larger one, which takes the place of
//! the other at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsFd as _,
    sync::Arc,
};

mod half;
mod memory;
mod table;
mod watch;

use aya::maps::lpm_trie::Key as TrieKey;
use egress_common::{
    direct::{Bucket4, Bucket6, Key},
    maps::{self, MAX_SETS, ReplyKey},
};
use ipnet::IpNet;

use crate::enforcer::{
    Enforcer, EnforcerError,
    direct::half::{Half, Held},
    state,
};

/// A direct entry: packets that pass beside the gateway. Of `replies` the network is who may open,
/// and the port the endpoint's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirectEntry {
    /// Where to.
    pub network: IpNet,
    /// The IP protocol number.
    pub protocol: u8,
    /// The port; 0 for every port.
    pub port: u16,
}

impl DirectEntry {
    /// As the trie of replies has it.
    pub(super) fn reply_key(&self, endpoint: u32) -> TrieKey<ReplyKey> {
        let key = ReplyKey {
            endpoint,
            port: self.port,
            protocol: self.protocol,
            reserved: 0,
            address: self.network.network().into(),
        };
        TrieKey::new(ReplyKey::HEAD_BITS + u32::from(bits(&self.network)), key)
    }

    /// As its set has it.
    fn key(&self) -> Key {
        Key {
            address: self.network.network().into(),
            bits: bits(&self.network),
            protocol: self.protocol,
            port: self.port,
        }
    }
}

/// The prefix length in the mapped form.
pub(super) fn bits(network: &IpNet) -> u8 {
    match network {
        IpNet::V4(network) => 96 + network.prefix_len(),
        IpNet::V6(network) => network.prefix_len(),
    }
}

/// Direct entries by the number of their set. Vectors, since of those the library sees that two are
/// one, and compares no further.
pub type DirectEntries = BTreeMap<u32, Arc<Vec<DirectEntry>>>;

/// A set as the kernel has it.
struct Set {
    /// Its place in [`maps::DIRECT4`] and [`maps::DIRECT6`].
    place: u32,
    v4: Half<Bucket4>,
    v6: Half<Bucket6>,
}

impl Set {
    const fn new(place: u32) -> Self {
        let (v4, v6) = (Half::NEW, Half::NEW);
        Self { place, v4, v6 }
    }
}

/// The sets of direct entries that the kernel has.
#[derive(Default)]
pub(super) struct Sets {
    by_number: BTreeMap<u32, Set>,
    /// What they were told to be last, where that is known.
    told: Option<DirectEntries>,
    /// The set that was looked at last.
    looked: u32,
}

impl Sets {
    /// Where the set of this number is; 0, where no entries are, if there is none.
    pub(super) fn place(&self, number: u32) -> u32 {
        self.by_number.get(&number).map_or(0, |set| set.place)
    }

    /// The least place that is nobody's. What was there before has been away for longer than a
    /// program runs.
    fn free_place(&self) -> Result<u32, EnforcerError> {
        let used: BTreeSet<u32> = self.by_number.values().map(|set| set.place).collect();
        let free = (1..MAX_SETS).find(|place| !used.contains(place));
        free.ok_or_else(|| {
            EnforcerError::Full(format!(
                "more than {} different sets of direct entries on one node",
                MAX_SETS - 1
            ))
        })
    }

    /// Adds what a set is missing. A new one gets its place.
    fn add(&mut self, number: u32, (v4, v6): &Keys) -> Result<&mut Set, EnforcerError> {
        let place = match self.by_number.get(&number) {
            Some(set) => set.place,
            None => self.free_place()?,
        };
        let set = self.by_number.entry(number).or_insert(Set::new(place));
        set.v4.add(maps::DIRECT4, v4)?;
        set.v6.add(maps::DIRECT6, v6)?;
        Ok(set)
    }
}

impl Enforcer {
    /// Gives these sets what they have not got yet, and only then takes what they have too much:
    /// what stays is never away. Other sets stay as they are.
    ///
    /// # Errors
    /// There is no memory, or the kernel refuses; what was written before that stays.
    pub fn set_direct(&mut self, entries: &DirectEntries) -> Result<(), EnforcerError> {
        let before = self.sets.told.take();
        let is_as_before = |number: &u32, entries: &Arc<Vec<DirectEntry>>| {
            let before = before.as_ref().and_then(|before| before.get(number));
            before.is_some_and(|it| Arc::ptr_eq(it, entries))
        };
        let mut changed = entries.clone();
        changed.retain(|number, entries| !is_as_before(number, entries));
        let mut to_shrink = Vec::new();
        for (number, entries) in &changed {
            let keys = keys(entries);
            let set = self.sets.add(*number, &keys)?;
            if set.v4.has_others(&keys.0) || set.v6.has_others(&keys.1) {
                to_shrink.push((*number, keys));
            }
        }
        self.put_new()?;
        for (number, (v4, v6)) in to_shrink {
            if let Some(set) = self.sets.by_number.get_mut(&number) {
                set.v4.keep(&v4);
                set.v6.keep(&v6);
            }
        }
        self.sets.told = before.map(|before| before.into_iter().chain(changed).collect());
        Ok(())
    }

    fn put_new(&mut self) -> Result<(), EnforcerError> {
        let (v4, v6) = (
            self.written.map(maps::DIRECT4)?,
            self.written.map(maps::DIRECT6)?,
        );
        let sets = self.sets.by_number.values_mut();
        let halves = sets.map(|set| (set.place, &mut set.v4));
        half::put(maps::DIRECT4, v4, &self.pins, halves)?;
        let sets = self.sets.by_number.values_mut();
        let halves = sets.map(|set| (set.place, &mut set.v6));
        half::put(maps::DIRECT6, v6, &self.pins, halves)
    }

    /// Removes all sets but these, which are written.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn retain_direct(&mut self, entries: &DirectEntries) -> Result<(), EnforcerError> {
        self.sets.told = None;
        let sets = self.sets.by_number.iter();
        let gone = sets.filter(|(number, _)| !entries.contains_key(number));
        let gone: Vec<u32> = gone.map(|(_, set)| set.place).collect();
        if !gone.is_empty() {
            let (v4, v6) = (
                self.written.map(maps::DIRECT4)?,
                self.written.map(maps::DIRECT6)?,
            );
            half::clear::<Bucket4>(maps::DIRECT4, v4, &self.pins, &gone)?;
            half::clear::<Bucket6>(maps::DIRECT6, v6, &self.pins, &gone)?;
            self.sets
                .by_number
                .retain(|number, _| entries.contains_key(number));
        }
        self.sets.told = Some(entries.clone());
        Ok(())
    }

    /// Takes over what an earlier agent wrote. Where endpoints have a set of which there is no pin,
    /// or another map's, it is written anew.
    pub(super) fn adopt_direct(&mut self) -> Result<(), EnforcerError> {
        let used = state::pinned_sets(&self.pins)?;
        let used: BTreeSet<u32> = used.into_values().collect();
        let (v4, v6) = (
            self.written.map(maps::DIRECT4)?,
            self.written.map(maps::DIRECT6)?,
        );
        for place in 1..MAX_SETS {
            let pin = |name| half::pin(&self.pins, name, place);
            let set = Set {
                place,
                v4: Half::adopted(v4, place, &pin(maps::DIRECT4)),
                v6: Half::adopted(v6, place, &pin(maps::DIRECT6)),
            };
            if used.contains(&place) || set.v4.is_held() || set.v6.is_held() {
                self.sets.by_number.insert(place, set);
            }
        }
        Ok(())
    }
}

/// A set where there is no instance: for tests and measurements. Nothing is pinned.
pub struct Given {
    v4: Held<Bucket4>,
    v6: Held<Bucket6>,
}

impl Given {
    /// A set of these entries, at this place.
    ///
    /// # Errors
    /// The kernel refuses, or they are too many.
    pub fn new(ebpf: &aya::Ebpf, place: u32, entries: &[DirectEntry]) -> io::Result<Self> {
        let outer = |name| match ebpf.map(name) {
            Some(aya::maps::Map::ArrayOfMaps(outer)) => Ok(outer.fd().as_fd()),
            Some(_) | None => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        let (v4, v6) = keys(entries);
        let v4 = Held::new(maps::DIRECT4, &v4).map_err(io::Error::other)?;
        let v6 = Held::new(maps::DIRECT6, &v6).map_err(io::Error::other)?;
        v4.put(outer(maps::DIRECT4)?, place)?;
        v6.put(outer(maps::DIRECT6)?, place)?;
        Ok(Self { v4, v6 })
    }

    /// One more; whether there is room for it.
    pub fn add(&mut self, entry: &DirectEntry) -> bool {
        let key = entry.key();
        match key.is_v4() {
            true => self.v4.add(&[key]),
            false => self.v6.add(&[key]),
        }
    }

    /// One less.
    pub fn remove(&mut self, entry: &DirectEntry) {
        let key = entry.key();
        match key.is_v4() {
            true => self.v4.remove(&key),
            false => self.v6.remove(&key),
        }
    }
}

/// Of IPv4 and of IPv6, in order and each once.
type Keys = (Vec<Key>, Vec<Key>);

fn keys(entries: &[DirectEntry]) -> Keys {
    let mut keys: Vec<Key> = entries.iter().map(DirectEntry::key).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter().partition(Key::is_v4)
}
