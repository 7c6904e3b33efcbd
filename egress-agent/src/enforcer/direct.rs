//! Direct entries in the kernel: each set is a hash of its own, as large as it needs to be. Of a
//! million entries only those that change are written; a set that outgrows its map gets a larger
//! one, which takes the place of the other at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
};

mod prefixes;
mod watch;

use aya::maps::{Array, MapData, lpm_trie::Key};
use egress_common::maps::{self, DirectKey, MAX_SETS, Prefixes, Present, ReplyKey};
use ipnet::IpNet;

use crate::enforcer::{
    Enforcer, EnforcerError,
    attach::pin as pin_again,
    bpffs,
    direct::prefixes::extended,
    own::{failed, is_in_place},
    state, sys,
    written::{MapCopy, Mark, mark},
};

/// Entries that one call writes or removes: some 80 KiB of keys.
const BATCH: usize = 4_096;

/// The least that a map has room for.
const LEAST: u32 = 16;

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
    pub(super) fn reply_key(&self, endpoint: u32) -> Key<ReplyKey> {
        let key = ReplyKey {
            endpoint,
            port: self.port,
            protocol: self.protocol,
            reserved: 0,
            address: self.network.network().into(),
        };
        Key::new(ReplyKey::HEAD_BITS + u32::from(bits(&self.network)), key)
    }

    /// As its set has it.
    pub fn key(&self) -> DirectKey {
        DirectKey {
            port: self.port,
            protocol: self.protocol,
            bits: bits(&self.network),
            address: self.network.network().into(),
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

/// How a map with room for so many entries is made.
fn shape(entries: u32) -> sys::Shape {
    sys::Shape::of::<DirectKey, Present>(sys::HASH, entries, sys::NO_PREALLOC)
}

/// For how many entries there is to be room where there are so many.
fn room(entries: usize) -> u32 {
    let entries = u32::try_from(entries).unwrap_or(maps::MAX_DIRECT);
    entries.max(LEAST).next_power_of_two()
}

/// A set as the kernel has it.
struct Set {
    /// Its place in [`maps::DIRECT`] and [`maps::PREFIXES`].
    place: u32,
    /// Its map; none where it is not known what an earlier agent has put there.
    held: Option<Held>,
    prefixes: Prefixes,
}

struct Held {
    copy: MapCopy,
    id: u32,
    room: u32,
}

impl Held {
    /// Of an open map, and the entries that it has.
    fn new(map: OwnedFd, marks: BTreeSet<Mark>) -> io::Result<Self> {
        let info = sys::map_info(map.as_fd())?;
        let (id, room) = (info.id, info.max_entries);
        let copy = MapCopy::of_marks(map, info, marks);
        Ok(Self { copy, id, room })
    }

    /// Whether it is to have just these entries by what is added and removed.
    fn is_of_size(&self, wanted: &[Mark], missing: &[Mark]) -> bool {
        self.copy.marks().len() + missing.len() <= self.room as usize
            && room(wanted.len()) >= self.room / 8
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
        let (mut extra, mut new) = (Vec::new(), Vec::new());
        for (number, entries) in &changed {
            let wanted = marks(entries);
            self.announce(*number, entries)?;
            let held = self.held(*number);
            let (missing, more) = held.map_or_else(Default::default, |held| {
                difference(&wanted, held.copy.marks())
            });
            if held.is_some_and(|held| held.is_of_size(&wanted, &missing)) {
                self.write(*number, &missing)?;
                extra.push((*number, more));
            } else {
                new.push((*number, filled(wanted).map_err(failed(maps::DIRECT))?));
            }
        }
        self.put(new)?;
        for (number, more) in extra {
            self.remove(number, &more)?;
        }
        self.sets.told = before.map(|before| before.into_iter().chain(changed).collect());
        Ok(())
    }

    /// Removes all sets but these, which are written.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn retain_direct(&mut self, entries: &DirectEntries) -> Result<(), EnforcerError> {
        self.sets.told = None;
        let numbers = self.sets.by_number.keys().copied();
        let gone: Vec<u32> = numbers.filter(|it| !entries.contains_key(it)).collect();
        if !gone.is_empty() {
            self.clear(&gone)?;
        }
        self.sets.told = Some(entries.clone());
        Ok(())
    }

    /// Takes over what an earlier agent wrote. Where endpoints have a set of which there is no pin,
    /// or another map's, it is written anew.
    pub(super) fn adopt_direct(&mut self) -> Result<(), EnforcerError> {
        let used = state::pinned_sets(&self.pins)?;
        let used: BTreeSet<u32> = used.into_values().collect();
        let all: Array<&mut MapData, Prefixes> = self.map(maps::PREFIXES)?;
        let prefixes = |place: &u32| all.get(place, 0).map(|prefixes| (*place, prefixes));
        let prefixes: Result<Vec<_>, _> = (1..MAX_SETS).map(|place| prefixes(&place)).collect();
        let prefixes = prefixes.map_err(state::failed(maps::PREFIXES))?;
        for (place, prefixes) in prefixes {
            let held = self.adopted(place).map_err(failed(maps::DIRECT))?;
            if held.is_none() && !used.contains(&place) {
                continue;
            }
            self.written.note(maps::PREFIXES, &place, &prefixes);
            let set = Set {
                place,
                held,
                prefixes,
            };
            self.sets.by_number.insert(place, set);
        }
        Ok(())
    }

    /// The map that is pinned for a place, if it is the one that is there.
    fn adopted(&self, place: u32) -> io::Result<Option<Held>> {
        let Ok(map) = sys::get(&self.set_pin(place)) else {
            return Ok(None);
        };
        let outer = self.written.map(maps::DIRECT);
        let outer = outer.map_err(|error| io::Error::other(error.to_string()))?;
        let info = sys::map_info(map.as_fd())?;
        if !is_in_place(outer, place, info.id) {
            return Ok(None);
        }
        // SAFETY: key and value are those of the map, and any bytes are such.
        let entries = unsafe { sys::entries::<Mark, u8>(map.as_fd(), info.max_entries) }?;
        let marks = entries.into_iter().map(|(mark, _)| mark).collect();
        Held::new(map, marks).map(Some)
    }

    /// Has the programs look for the prefix lengths of these entries, too. A new set gets its place.
    fn announce(&mut self, number: u32, entries: &[DirectEntry]) -> Result<(), EnforcerError> {
        let place = match self.sets.by_number.get(&number) {
            Some(set) => set.place,
            None => self.sets.free_place()?,
        };
        let set = self.sets.by_number.entry(number).or_insert(Set {
            place,
            held: None,
            prefixes: Prefixes::NONE,
        });
        let prefixes = extended(&set.prefixes, entries);
        if prefixes != set.prefixes {
            set.prefixes = prefixes;
            self.set_prefixes(place, &prefixes)?;
        }
        Ok(())
    }

    fn set_prefixes(&mut self, place: u32, prefixes: &Prefixes) -> Result<(), EnforcerError> {
        let mut map: Array<&mut MapData, Prefixes> = self.map(maps::PREFIXES)?;
        map.set(place, prefixes, 0)
            .map_err(state::failed(maps::PREFIXES))?;
        self.written.note(maps::PREFIXES, &place, prefixes);
        Ok(())
    }

    fn held(&self, number: u32) -> Option<&Held> {
        self.sets.by_number.get(&number)?.held.as_ref()
    }

    /// Puts full maps in the places of their sets, each at once in the place of what is there. All
    /// by one call, since the kernel waits for running programs once a call.
    fn put(&mut self, new: Vec<(u32, Held)>) -> Result<(), EnforcerError> {
        let outer = self.written.map(maps::DIRECT)?;
        let there = new.iter().map(|(number, held)| {
            let place = self.sets.place(*number);
            (place, held.copy.fd().as_raw_fd())
        });
        let put = sys::put_maps(outer, &there.collect::<Vec<_>>());
        for (number, held) in new {
            let place = self.sets.place(number);
            let pinned = match &put {
                Ok(()) => pin_again(held.copy.fd(), &self.set_pin(place)),
                Err(_) => Ok(()),
            };
            if let Some(set) = self.sets.by_number.get_mut(&number) {
                // Whether it is there is not known where that has failed: it is written anew then.
                set.held = put.is_ok().then_some(held);
            }
            pinned.map_err(failed(maps::DIRECT))?;
        }
        put.map_err(failed(maps::DIRECT))
    }

    /// Nobody has these sets any more.
    fn clear(&mut self, numbers: &[u32]) -> Result<(), EnforcerError> {
        let nothing = filled(Vec::new()).map_err(failed(maps::DIRECT))?;
        let outer = self.written.map(maps::DIRECT)?;
        let places: Vec<u32> = numbers.iter().map(|it| self.sets.place(*it)).collect();
        let map = nothing.copy.fd().as_raw_fd();
        let there: Vec<_> = places.iter().map(|place| (*place, map)).collect();
        sys::put_maps(outer, &there).map_err(failed(maps::DIRECT))?;
        for (number, place) in numbers.iter().zip(places) {
            match std::fs::remove_file(self.set_pin(place)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(maps::DIRECT)(error));
                }
                Ok(()) | Err(_) => {}
            }
            self.set_prefixes(place, &Prefixes::NONE)?;
            self.sets.by_number.remove(number);
        }
        Ok(())
    }

    fn write(&mut self, number: u32, marks: &[Mark]) -> Result<(), EnforcerError> {
        let Some(held) = self.held_mut(number) else {
            return Ok(());
        };
        let (done, result) = written(held.copy.fd(), marks);
        held.copy.add(marks[..done].to_vec());
        result.map_err(failed(maps::DIRECT))
    }

    fn remove(&mut self, number: u32, marks: &[Mark]) -> Result<(), EnforcerError> {
        let Some(held) = self.held_mut(number) else {
            return Ok(());
        };
        for chunk in marks.chunks(BATCH) {
            let (done, result) =
                sys::delete_all(held.copy.fd(), chunk.as_flattened(), size_of::<Mark>());
            held.copy.remove(&chunk[..done]);
            result.map_err(failed(maps::DIRECT))?;
        }
        Ok(())
    }

    fn held_mut(&mut self, number: u32) -> Option<&mut Held> {
        self.sets.by_number.get_mut(&number)?.held.as_mut()
    }

    fn set_pin(&self, place: u32) -> PathBuf {
        bpffs::map(&self.pins, &pin_name(place))
    }
}

/// Fills a set where there is no instance: for tests and measurements. Nothing is pinned.
///
/// # Errors
/// The kernel refuses.
pub fn give(ebpf: &mut aya::Ebpf, place: u32, entries: &[DirectEntry]) -> io::Result<OwnedFd> {
    let marks = marks(entries);
    let map = sys::map_create(maps::DIRECT, &shape(room(marks.len())))?;
    written(map.as_fd(), &marks).1?;
    let Some(aya::maps::Map::ArrayOfMaps(outer)) = ebpf.map(maps::DIRECT) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    sys::put_map(outer.fd().as_fd(), place, map.as_fd())?;
    let all = ebpf
        .map_mut(maps::PREFIXES)
        .ok_or(io::ErrorKind::NotFound)?;
    let mut all: Array<&mut MapData, Prefixes> = all.try_into().map_err(io::Error::other)?;
    let prefixes = extended(&Prefixes::NONE, entries);
    all.set(place, prefixes, 0).map_err(io::Error::other)?;
    Ok(map)
}

/// The name of a set's pin.
fn pin_name(place: u32) -> String {
    format!("{}-{place}", maps::DIRECT)
}

/// The keys of the entries, in order and each once.
fn marks(entries: &[DirectEntry]) -> Vec<Mark> {
    let mut marks: Vec<_> = entries.iter().map(|entry| mark(&entry.key())).collect();
    marks.sort_unstable();
    marks.dedup();
    marks
}

/// A map of its own size with these entries.
fn filled(marks: Vec<Mark>) -> io::Result<Held> {
    let map = sys::map_create(maps::DIRECT, &shape(room(marks.len())))?;
    written(map.as_fd(), &marks).1?;
    Held::new(map, marks.into_iter().collect())
}

/// Writes entries; returns how many were before the first that was refused.
fn written(map: BorrowedFd<'_>, marks: &[Mark]) -> (usize, io::Result<()>) {
    let mut done = 0;
    for chunk in marks.chunks(BATCH) {
        let (more, result) = sys::update_all(
            map,
            chunk.as_flattened(),
            size_of::<Mark>(),
            &vec![1; chunk.len()],
        );
        done += more;
        if result.is_err() {
            return (done, result);
        }
    }
    (done, Ok(()))
}

/// What is wanted and not written, and what is written and not wanted; both in order.
fn difference(wanted: &[Mark], written: &BTreeSet<Mark>) -> (Vec<Mark>, Vec<Mark>) {
    let (mut missing, mut extra) = (Vec::new(), Vec::new());
    let mut wanted = wanted.iter().copied().peekable();
    for mark in written {
        while let Some(next) = wanted.next_if(|next| next < mark) {
            missing.push(next);
        }
        if wanted.next_if_eq(mark).is_none() {
            extra.push(*mark);
        }
    }
    missing.extend(wanted);
    (missing, extra)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_difference_is_written() {
        let marks = |numbers: &[u8]| -> Vec<Mark> {
            let numbers = numbers.iter();
            numbers.map(|number| [*number; size_of::<Mark>()]).collect()
        };
        for (wanted, written, missing, extra) in [
            (&[1, 2, 3][..], &[1, 2, 3][..], &[][..], &[][..]),
            (&[1, 2, 3], &[], &[1, 2, 3], &[]),
            (&[], &[1, 2, 3], &[], &[1, 2, 3]),
            (&[1, 3, 4], &[1, 2, 4], &[3], &[2]),
            (&[1, 2], &[3, 4], &[1, 2], &[3, 4]),
            (&[3, 4], &[1, 2], &[3, 4], &[1, 2]),
        ] {
            let written = marks(written).into_iter().collect();
            let found = difference(&marks(wanted), &written);
            assert_eq!(
                found,
                (marks(missing), marks(extra)),
                "{wanted:?} {written:?}"
            );
        }
    }
}
