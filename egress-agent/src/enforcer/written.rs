//! What the enforcer has written into its maps, by which it sees whether that is still so.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Bound,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use egress_common::maps;

use crate::enforcer::{EnforcerError, attach::pin, bpffs, sys, tamper::Fault};

/// The maps that the enforcer alone writes, beside the sets of direct entries.
const WATCHED: [&str; 9] = [
    maps::CONFIG,
    maps::ENDPOINTS,
    maps::CGROUPS,
    maps::LINKS,
    maps::ADDRESSES,
    maps::PREFIXES,
    maps::NETWORKS,
    maps::REPLIES,
    maps::OWNERS,
];

/// BPF_MAP_TYPE_ARRAY (include/uapi/linux/bpf.h): all its keys are always there.
const ARRAY: u32 = 2;

/// What the enforcer has written into the maps that are pinned.
pub(super) struct Written(BTreeMap<&'static str, MapCopy>);

/// What one map shall hold.
pub(super) struct MapCopy {
    map: OwnedFd,
    info: sys::MapInfo,
    entries: Entries,
    /// The last of the map's keys that was looked at.
    key: Option<Vec<u8>>,
    /// The last of the entries that was looked at.
    entry: Option<Vec<u8>>,
}

/// What a map shall hold, by key.
enum Entries {
    /// Any values.
    Any(BTreeMap<Vec<u8>, Vec<u8>>),
    /// Of which only presence counts: each value is one byte, 1. A million take some 30 MB.
    Marks(BTreeSet<Mark>),
}

/// A key of such a map.
pub(super) type Mark = [u8; size_of::<maps::DirectKey>()];

/// A key as a mark.
pub(super) fn mark(key: &maps::DirectKey) -> Mark {
    let mut mark = [0; size_of::<Mark>()];
    mark.copy_from_slice(sys::bytes(key));
    mark
}

impl Entries {
    fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Any(entries) => entries.contains_key(key),
            Self::Marks(marks) => Mark::try_from(key).is_ok_and(|key| marks.contains(&key)),
        }
    }

    /// Up to so many keys and their values, from after a key or from the first.
    fn after(&self, key: Option<&[u8]>, most: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        match self {
            Self::Any(entries) => {
                let from = key.map_or(Bound::Unbounded, Bound::Excluded);
                let rest = entries.range::<[u8], _>((from, Bound::Unbounded));
                let some = rest.take(most);
                some.map(|(key, value)| (key.clone(), value.clone()))
                    .collect()
            }
            Self::Marks(marks) => {
                let key = key.and_then(|key| Mark::try_from(key).ok());
                let from = key.map_or(Bound::Unbounded, Bound::Excluded);
                let some = marks.range((from, Bound::Unbounded)).take(most);
                some.map(|mark| (mark.to_vec(), vec![1])).collect()
            }
        }
    }
}

impl Written {
    /// Of the maps that are pinned; nothing is written yet.
    pub(super) fn open(pins: &Path) -> Result<Self, EnforcerError> {
        let copies = maps::PINNED.iter().map(|name| {
            let path = bpffs::map(pins, name);
            let open = || -> io::Result<_> {
                let map = sys::get(&path)?;
                let info = sys::map_info(map.as_fd())?;
                Ok(MapCopy::new(map, info, Entries::Any(BTreeMap::new())))
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
        match &mut self.0.get_mut(name)?.entries {
            Entries::Any(entries) => Some(entries),
            Entries::Marks(_) => None,
        }
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
        watched
            .filter_map(|(name, copy)| copy.mend(name).1)
            .collect()
    }
}

impl MapCopy {
    /// Entries that one look is at: so that a look at full maps takes some ten milliseconds. Larger
    /// maps are gone through in several.
    pub(super) const AT_ONCE: usize = 2_048;

    fn new(map: OwnedFd, info: sys::MapInfo, entries: Entries) -> Self {
        Self {
            map,
            info,
            entries,
            key: None,
            entry: None,
        }
    }

    /// Of a map of marks, which has these.
    pub(super) fn of_marks(map: OwnedFd, info: sys::MapInfo, marks: BTreeSet<Mark>) -> Self {
        Self::new(map, info, Entries::Marks(marks))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }

    /// The keys of a map of marks; of another, none.
    pub(super) fn marks(&self) -> &BTreeSet<Mark> {
        static NONE: BTreeSet<Mark> = BTreeSet::new();
        match &self.entries {
            Entries::Marks(marks) => marks,
            Entries::Any(_) => &NONE,
        }
    }

    /// Notes marks that were written. Where it is much, by building the set anew, which is faster
    /// and half as large.
    pub(super) fn add(&mut self, more: Vec<Mark>) {
        if let Entries::Marks(marks) = &mut self.entries {
            if more.len() > marks.len() / 16 {
                marks.append(&mut BTreeSet::from_iter(more));
            } else {
                marks.extend(more);
            }
        }
    }

    /// Forgets marks that were removed.
    pub(super) fn remove(&mut self, gone: &[Mark]) {
        if let Entries::Marks(marks) = &mut self.entries {
            for mark in gone {
                marks.remove(mark);
            }
        }
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

    /// Whether the next look begins at the first entry.
    pub(super) fn is_gone_through(&self) -> bool {
        self.key.is_none() && self.entry.is_none()
    }

    /// Looks at some entries, and says at how many.
    pub(super) fn mend(&mut self, name: &str) -> (usize, Option<Fault>) {
        let mut found = Found::default();
        let looked = self
            .mend_entries(&mut found)
            .and_then(|()| self.remove_strange(&mut found));
        let what = match (found.is_nothing(), &looked) {
            (true, Ok(())) => return (found.looked, None),
            (true, Err(_)) => format!("map {name}: it cannot be read"),
            (false, _) => format!("map {name}: {found}"),
        };
        let fault = Fault {
            endpoint: None,
            what,
            failed: looked.err().map(|error| error.to_string()),
        };
        (found.looked, Some(fault))
    }

    /// What was written and is another, or is not there.
    fn mend_entries(&mut self, found: &mut Found) -> io::Result<()> {
        let (map, size) = (self.map.as_fd(), self.info.value_size as usize);
        let some = self.entries.after(self.entry.as_deref(), Self::AT_ONCE);
        let is_last = some.len() < Self::AT_ONCE;
        let mut last = None;
        found.looked += some.len();
        for (key, mut value) in some {
            let present = sys::lookup(map, &key, size)?;
            if present.as_ref() != Some(&value) {
                match present {
                    Some(_) => found.changed += 1,
                    None => found.missing += 1,
                }
                sys::update(map, &key, &mut value)?;
            }
            last = Some(key);
        }
        self.entry = last.filter(|_| !is_last);
        Ok(())
    }

    /// What is there and nobody has written.
    fn remove_strange(&mut self, found: &mut Found) -> io::Result<()> {
        if self.info.kind == ARRAY {
            return Ok(());
        }
        let (map, size) = (self.map.as_fd(), self.info.key_size as usize);
        for _ in 0..Self::AT_ONCE {
            let next = sys::next_key(map, self.key.as_deref(), size)?;
            let Some(key) = next else {
                self.key = None;
                return Ok(());
            };
            if self.entries.contains(&key) {
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
    /// Of what was written.
    looked: usize,
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
            ..
        } = self;
        write!(
            f,
            "{changed} entries were changed, {missing} were missing, {strange} were strange to it"
        )
    }
}
