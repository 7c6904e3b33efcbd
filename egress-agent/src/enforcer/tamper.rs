//! Looks whether what was attached and written is still there, and mends it. Whoever can change
//! it is root of the node, and could end the agent as well; but accidents, other tools and half a
//! privilege do not do it unseen.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    ops::Bound,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use aya::programs::Program;
use egress_common::maps;

use crate::enforcer::{
    Enforcer, EnforcerError,
    attach::{Hook, LINK_HOOKS, pin},
    bpffs, direct, load_program, sys,
};

/// The maps that the enforcer alone writes.
const WATCHED: [&str; 10] = [
    maps::CONFIG,
    maps::ENDPOINTS,
    maps::CGROUPS,
    maps::LINKS,
    maps::ADDRESSES,
    maps::DIRECT_HOSTS,
    maps::DIRECT_NETWORKS,
    maps::NETWORKS,
    maps::REPLIES,
    maps::OWNERS,
];

/// BPF_MAP_TYPE_ARRAY (include/uapi/linux/bpf.h): all its keys are always there.
const ARRAY: u32 = 2;

/// Entries of one map that one look is at: so that a look at full maps takes some ten
/// milliseconds. Larger maps are gone through in several.
const ENTRIES: usize = 2_048;

/// A link that is attached, and what it should be.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) link: OwnedFd,
    pub(super) id: u32,
    /// The endpoint's name, or `gateway`.
    pub(super) name: String,
    pub(super) hook: Hook,
    pub(super) place: Place,
    /// As the kernel tells it.
    pub(super) target: u64,
    pub(super) program_id: u32,
}

impl Held {
    /// Whether it is attached, runs what it should and is pinned there.
    fn is_so(&self, path: &Path) -> bool {
        let info = sys::link_info(self.link.as_fd());
        let is_attached = info.is_ok_and(|info| {
            info.target() == self.target
                && info.attach_type() == self.hook.1
                && info.program == self.program_id
        });
        let pinned = || sys::get(path).and_then(|link| sys::id(link.as_fd()));
        is_attached && pinned().is_ok_and(|id| id == self.id)
    }
}

/// What is attached to.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Cgroup(PathBuf),
    Interface(u32),
}

impl Place {
    /// Whether it is still what it was when the link was attached.
    fn is_there(&self, target: u64) -> bool {
        match self {
            Self::Cgroup(path) => fs::metadata(path).is_ok_and(|found| found.ino() == target),
            Self::Interface(index) => has_interface(*index),
        }
    }
}

pub(super) fn has_interface(index: u32) -> bool {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    );
    socket.is_ok_and(|socket| rustix::net::netdevice::index_to_name(socket, index).is_ok())
}

/// Something that was not as it should be.
#[derive(Debug)]
pub struct Fault {
    /// Whose, where it is one endpoint's: its name, or `gateway`.
    pub endpoint: Option<String>,
    /// What was found.
    pub what: String,
    /// Why it is still so; `None` where it was mended.
    pub failed: Option<String>,
}

/// What the enforcer has written into its maps.
pub(super) struct Written(BTreeMap<&'static str, Copy>);

/// What one map shall hold.
struct Copy {
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
    /// Of which only presence counts: each value is one byte, 1. A million take some 40 MB.
    Marks(BTreeSet<Mark>),
}

/// A key of such a map; zeroes follow one that is shorter.
pub(super) type Mark = [u8; 28];

/// A key as a mark.
pub(super) fn mark<K: aya::Pod>(key: &K) -> Mark {
    const { assert!(size_of::<K>() <= size_of::<Mark>()) };
    let mut mark = [0; size_of::<Mark>()];
    mark[..size_of::<K>()].copy_from_slice(sys::bytes(key));
    mark
}

fn padded(key: &[u8]) -> Mark {
    let mut mark = [0; size_of::<Mark>()];
    mark[..key.len()].copy_from_slice(key);
    mark
}

impl Entries {
    fn of(name: &str) -> Self {
        match name {
            maps::DIRECT_HOSTS | maps::DIRECT_NETWORKS => Self::Marks(BTreeSet::new()),
            _ => Self::Any(BTreeMap::new()),
        }
    }

    fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Any(entries) => entries.contains_key(key),
            Self::Marks(marks) => marks.contains(&padded(key)),
        }
    }

    /// Up to [`ENTRIES`] keys and their values, from after a key or from the first.
    fn after(&self, key: Option<&[u8]>, key_size: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        match self {
            Self::Any(entries) => {
                let from = key.map_or(Bound::Unbounded, Bound::Excluded);
                let rest = entries.range::<[u8], _>((from, Bound::Unbounded));
                let some = rest.take(ENTRIES);
                some.map(|(key, value)| (key.clone(), value.clone()))
                    .collect()
            }
            Self::Marks(marks) => {
                let key = key.map(padded);
                let from = key.map_or(Bound::Unbounded, Bound::Excluded);
                let some = marks.range((from, Bound::Unbounded)).take(ENTRIES);
                some.map(|mark| (mark[..key_size].to_vec(), vec![1]))
                    .collect()
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
                Ok((map, info))
            };
            let (map, info) = open().map_err(|source| EnforcerError::Pin {
                path: path.clone(),
                source,
            })?;
            let copy = Copy {
                map,
                info,
                entries: Entries::of(name),
                key: None,
                entry: None,
            };
            Ok::<_, EnforcerError>((*name, copy))
        });
        Ok(Self(copies.collect::<Result<_, _>>()?))
    }

    /// A map's descriptor, whatever has become of its pin.
    pub(super) fn map(&self, name: &'static str) -> Result<BorrowedFd<'_>, EnforcerError> {
        let copy = self.0.get(name).ok_or(EnforcerError::Missing(name))?;
        Ok(copy.map.as_fd())
    }

    /// Notes what was written.
    pub(super) fn note<K: aya::Pod, V: aya::Pod>(&mut self, name: &str, key: &K, value: &V) {
        if let Some(Copy {
            entries: Entries::Any(entries),
            ..
        }) = self.0.get_mut(name)
        {
            entries.insert(sys::bytes(key).to_vec(), sys::bytes(value).to_vec());
        }
    }

    /// Forgets what was removed.
    pub(super) fn forget<K: aya::Pod>(&mut self, name: &str, key: &K) {
        if let Some(Copy {
            entries: Entries::Any(entries),
            ..
        }) = self.0.get_mut(name)
        {
            entries.remove(sys::bytes(key));
        }
    }

    /// The keys of a map of marks, in order.
    pub(super) fn marks(&self, name: &str) -> impl Iterator<Item = &Mark> {
        let marks = self.0.get(name).and_then(|copy| match &copy.entries {
            Entries::Marks(marks) => Some(marks),
            Entries::Any(_) => None,
        });
        marks.into_iter().flatten()
    }

    /// Notes what was written to a map of marks.
    pub(super) fn add_marks(&mut self, name: &str, more: Vec<Mark>) {
        if let Some(marks) = self.marks_mut(name) {
            direct::add(marks, more);
        }
    }

    /// Forgets what was removed from a map of marks.
    pub(super) fn remove_marks(&mut self, name: &str, gone: &[Mark]) {
        let Some(marks) = self.marks_mut(name) else {
            return;
        };
        for mark in gone {
            marks.remove(mark);
        }
    }

    fn marks_mut(&mut self, name: &str) -> Option<&mut BTreeSet<Mark>> {
        match &mut self.0.get_mut(name)?.entries {
            Entries::Marks(marks) => Some(marks),
            Entries::Any(_) => None,
        }
    }
}

impl Enforcer {
    /// Looks at everything that this enforcer has attached, pinned and written, and mends what is
    /// another. Call it every second, once all is attached; it takes bounded time.
    pub fn mend(&mut self) -> Vec<Fault> {
        let mut faults = self.mend_links();
        faults.extend(self.mend_order());
        faults.extend(self.mend_filters());
        faults.extend(self.mend_own());
        let pins = self.pins.clone();
        let mut changed = Vec::new();
        for (name, copy) in &mut self.written.0 {
            faults.extend(copy.mend_pin(name, &bpffs::map(&pins, name)));
            if WATCHED.contains(name) {
                changed.extend(copy.mend(name));
            }
        }
        // What was allowed by what was strange is not allowed any longer.
        if !changed.is_empty()
            && let Err(error) = self.forget_decisions()
        {
            changed.push(Fault {
                endpoint: None,
                what: "what sockets remember to be allowed could not be taken back".into(),
                failed: Some(error.to_string()),
            });
        }
        faults.extend(changed);
        faults
    }

    fn mend_links(&mut self) -> Vec<Fault> {
        // Of thousands of links, all but a few are as they should be.
        let other = self.held.iter().filter(|(path, held)| !held.is_so(path));
        let pins: Vec<PathBuf> = other.map(|(path, _)| path.clone()).collect();
        let faults = pins.into_iter().filter_map(|pin| self.mend_link(&pin));
        faults.collect()
    }

    fn mend_link(&mut self, path: &Path) -> Option<Fault> {
        let held = self.held.get(path)?;
        let (program, attach_type) = held.hook;
        let fault = |what: &str, mended: Result<(), String>| {
            Some(Fault {
                endpoint: Some(held.name.clone()),
                what: format!("{program}: {what}"),
                failed: mended.err(),
            })
        };
        let text = |error: io::Error| error.to_string();
        let info = match sys::link_info(held.link.as_fd()) {
            Ok(info) => info,
            Err(error) => return fault("its link cannot be read", Err(error.to_string())),
        };
        if info.target() != held.target || info.attach_type() != attach_type {
            if !held.place.is_there(held.target) {
                // Nobody has detached it: there is nothing any more to be attached to.
                return None;
            }
            let held = self.held.remove(path)?;
            let again = self.attach_again(&held).map_err(|error| error.to_string());
            let (name, failed) = (held.name.clone(), again.err());
            if failed.is_some() {
                // To be tried again at the next look.
                self.held.insert(path.to_owned(), held);
            }
            return Some(Fault {
                endpoint: Some(name),
                what: format!("{program}: it was detached"),
                failed,
            });
        }
        if info.program != held.program_id {
            let ours = self.program_fd(program).map_err(|error| error.to_string());
            let put = ours.and_then(|ours| {
                sys::link_update(held.link.as_fd(), ours.as_fd()).map_err(text)?;
                sys::id(ours.as_fd()).map_err(text)
            });
            let what = format!("{program}: another program was in its place");
            let held = self.held.get_mut(path)?;
            let failed = put.map(|id| held.program_id = id).err();
            return Some(Fault {
                endpoint: Some(held.name.clone()),
                what,
                failed,
            });
        }
        let pinned = sys::get(path).and_then(|link| sys::id(link.as_fd()));
        if pinned.is_ok_and(|id| id == held.id) {
            return None;
        }
        let again = pin(held.link.as_fd(), path).map_err(text);
        fault("the pin of its link was gone or another's", again)
    }

    /// Whether the link programs are the first of their hooks.
    fn mend_order(&mut self) -> Vec<Fault> {
        let mut late = Vec::new();
        for (path, held) in &self.held {
            let Place::Interface(index) = held.place else {
                continue;
            };
            let Ok(ids) = sys::programs(index, held.hook.1) else {
                // The interface has gone.
                continue;
            };
            let first = ids.first();
            if first.is_some_and(|first| *first != held.program_id)
                && ids.contains(&held.program_id)
            {
                late.push(path.clone());
            }
        }
        let faults = late.into_iter().filter_map(|path| {
            let (name, program) = {
                let held = self.held.get(&path)?;
                (held.name.clone(), held.hook.0)
            };
            let failed = self.move_to_head(&path).err();
            Some(Fault {
                endpoint: Some(name),
                what: format!("{program}: another program was ahead of it"),
                failed,
            })
        });
        faults.collect()
    }

    /// Attaches ahead of all, and only then gives the old link up. The kernel takes a program once
    /// on a hook, so that it is a new copy of it.
    fn move_to_head(&mut self, path: &Path) -> Result<(), String> {
        let held = self.held.get(path).ok_or("its link has gone")?;
        let hook = LINK_HOOKS.iter().find(|hook| **hook == held.hook);
        let (program, attach_type) = *hook.ok_or("it is on no link")?;
        let Place::Interface(index) = held.place else {
            return Err("it is on no link".into());
        };
        match self.ebpf.program_mut(program) {
            Some(Program::SchedClassifier(classifier)) => {
                classifier.unload().map_err(|error| error.to_string())?;
            }
            Some(_) | None => return Err("the object has no such program".into()),
        }
        let copy = self.ebpf.program_mut(program);
        load_program(copy.ok_or("the object has no such program")?)
            .map_err(|error| error.to_string())?;
        let new = self
            .program_fd(program)
            .map_err(|error| error.to_string())?;
        let text = |error: io::Error| error.to_string();
        let link = sys::link_create(new.as_fd(), index, attach_type, sys::BEFORE).map_err(text)?;
        pin(link.as_fd(), path).map_err(text)?;
        let (id, program_id) = (
            sys::id(link.as_fd()).map_err(text)?,
            sys::id(new.as_fd()).map_err(text)?,
        );
        let held = self.held.get_mut(path).ok_or("its link has gone")?;
        (held.link, held.id, held.program_id) = (link, id, program_id);
        Ok(())
    }
}

impl Copy {
    fn mend_pin(&self, name: &str, path: &Path) -> Option<Fault> {
        let pinned = sys::get(path).and_then(|map| sys::id(map.as_fd()));
        if pinned.is_ok_and(|id| id == self.info.id) {
            return None;
        }
        let again = pin(self.map.as_fd(), path);
        Some(Fault {
            endpoint: None,
            what: format!("map {name}: its pin was gone or another's"),
            failed: again.err().map(|error| error.to_string()),
        })
    }

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
        let key_size = self.info.key_size as usize;
        let some = self.entries.after(self.entry.as_deref(), key_size);
        let is_last = some.len() < ENTRIES;
        let mut last = None;
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
        for _ in 0..ENTRIES {
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
