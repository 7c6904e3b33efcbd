//! What the enforcer has written into its maps, by which it sees whether that is still so.

use std::{
    collections::BTreeMap,
    io,
    ops::Bound,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use egress_common::maps;

use crate::enforcer::{EnforcerError, attach::pin, bpffs, sys, tamper::Fault};

/// The maps that the enforcer alone writes, beside the sets of direct entries.
const WATCHED: [&str; 10] = [
    maps::CONFIG,
    maps::ENDPOINTS,
    maps::CGROUPS,
    maps::LINKS,
    maps::ADDRESSES,
    maps::NETWORKS,
    maps::REACH,
    maps::NAMED,
    maps::REPLIES,
    maps::OWNERS,
];

/// What the enforcer has written into the maps that are pinned.
pub(super) struct Written(BTreeMap<&'static str, MapCopy>);

/// What one map shall hold.
struct MapCopy {
    map: OwnedFd,
    info: sys::MapInfo,
    /// What it shall hold, by key.
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The last of the map's keys that was looked at.
    key: Option<Vec<u8>>,
    /// The last of the entries that was looked at.
    entry: Option<Vec<u8>>,
}

impl Written {
    /// Of the maps that are pinned; nothing is written yet.
    pub(super) fn open(pins: &Path) -> Result<Self, EnforcerError> {
        let copies = maps::PINNED.iter().map(|name| {
            let path = bpffs::map(pins, name);
            let open = || -> io::Result<_> {
                let map = sys::get(&path)?;
                let info = sys::map_info(map.as_fd())?;
                Ok(MapCopy::new(map, info))
            };
            let copy = open().map_err(|source| EnforcerError::Pin {
                path: path.clone(),
                source,
            })?;
            Ok::<_, EnforcerError>((*name, copy))
        });
        Ok(Self(copies.collect::<Result<_, _>>()?))
    }

    /// A map's descriptor, whatever has become of its pin.
    pub(super) fn map(&self, name: &'static str) -> Result<BorrowedFd<'_>, EnforcerError> {
        let copy = self.0.get(name).ok_or(EnforcerError::Missing(name))?;
        Ok(copy.fd())
    }

    /// Notes what was written.
    pub(super) fn note<K: aya::Pod, V: aya::Pod>(&mut self, name: &str, key: &K, value: &V) {
        if let Some(entries) = self.entries_mut(name) {
            entries.insert(sys::bytes(key).to_vec(), sys::bytes(value).to_vec());
        }
    }

    /// Forgets what was removed.
    pub(super) fn forget<K: aya::Pod>(&mut self, name: &str, key: &K) {
        if let Some(entries) = self.entries_mut(name) {
            entries.remove(sys::bytes(key));
        }
    }

    fn entries_mut(&mut self, name: &str) -> Option<&mut BTreeMap<Vec<u8>, Vec<u8>>> {
        Some(&mut self.0.get_mut(name)?.entries)
    }

    /// Looks whether the pins are there, and mends them.
    pub(super) fn mend_pins(&self, pins: &Path) -> Vec<Fault> {
        let all = self.0.iter();
        let faults = all.filter_map(|(name, copy)| copy.mend_pin(name, &bpffs::map(pins, name)));
        faults.collect()
    }

    /// Looks at some of what the maps hold, and mends it.
    pub(super) fn mend(&mut self) -> Vec<Fault> {
        let all = self.0.iter_mut();
        let watched = all.filter(|(name, _)| WATCHED.contains(name));
        watched.filter_map(|(name, copy)| copy.mend(name)).collect()
    }
}

impl MapCopy {
    /// Entries that one look is at: so that a look at full maps takes some ten milliseconds. Larger
    /// maps are gone through in several.
    const AT_ONCE: usize = 2_048;

    fn new(map: OwnedFd, info: sys::MapInfo) -> Self {
        Self {
            map,
            info,
            entries: BTreeMap::new(),
            key: None,
            entry: None,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }

    fn mend_pin(&self, name: &str, path: &Path) -> Option<Fault> {
        let pinned = sys::get(path).and_then(|map| sys::id(map.as_fd()));
        if pinned.is_ok_and(|id| id == self.info.id) {
            return None;
        }
        let again = pin(self.fd(), path);
        Some(Fault {
            endpoint: None,
            what: format!("map {name}: its pin was gone or another's"),
            failed: again.err().map(|error| error.to_string()),
        })
    }

    /// Looks at some entries.
    fn mend(&mut self, name: &str) -> Option<Fault> {
        let mut found = Found::default();
        let looked = self
            .mend_entries(&mut found)
            .and_then(|()| self.remove_strange(&mut found));
        let what = match (found.is_nothing(), &looked) {
            (true, Ok(())) => return None,
            (true, Err(_)) => format!("map {name}: it cannot be read"),
            (false, _) => format!("map {name}: {found}"),
        };
        Some(Fault {
            endpoint: None,
            what,
            failed: looked.err().map(|error| error.to_string()),
        })
    }

    /// What was written and is another, or is not there.
    fn mend_entries(&mut self, found: &mut Found) -> io::Result<()> {
        let (map, size) = (self.map.as_fd(), self.info.value_size as usize);
        let from = match &self.entry {
            Some(key) => Bound::Excluded(key.as_slice()),
            None => Bound::Unbounded,
        };
        let some = self.entries.range::<[u8], _>((from, Bound::Unbounded));
        let (mut last, mut count) = (None, 0);
        for (key, value) in some.take(Self::AT_ONCE) {
            count += 1;
            let present = sys::lookup(map, key, size)?;
            if present.as_ref() != Some(value) {
                match present {
                    Some(_) => found.changed += 1,
                    None => found.missing += 1,
                }
                sys::update(map, key, &mut value.clone())?;
            }
            last = Some(key.clone());
        }
        self.entry = last.filter(|_| count == Self::AT_ONCE);
        Ok(())
    }

    /// What is there and nobody has written.
    fn remove_strange(&mut self, found: &mut Found) -> io::Result<()> {
        // All the keys of an array are always there.
        if self.info.kind == sys::ARRAY {
            return Ok(());
        }
        let (map, size) = (self.map.as_fd(), self.info.key_size as usize);
        for _ in 0..Self::AT_ONCE {
            let next = sys::next_key(map, self.key.as_deref(), size)?;
            let Some(key) = next else {
                self.key = None;
                return Ok(());
            };
            if self.entries.contains_key(&key) {
                self.key = Some(key);
            } else {
                found.strange += 1;
                sys::delete(map, &key)?;
            }
        }
        Ok(())
    }
}

/// What a look at a map has found.
#[derive(Debug, Default)]
struct Found {
    changed: usize,
    missing: usize,
    strange: usize,
}

impl Found {
    fn is_nothing(&self) -> bool {
        self.changed + self.missing + self.strange == 0
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            changed,
            missing,
            strange,
        } = self;
        write!(
            f,
            "{changed} entries were changed, {missing} were missing, {strange} were strange to it"
        )
    }
}
