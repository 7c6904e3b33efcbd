//! One family's half of a set.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use egress_common::direct::{Bucket, Key};

use crate::enforcer::{
    EnforcerError,
    attach::pin as pin_again,
    bpffs,
    direct::{
        memory::Memory,
        table::{At, Table},
    },
    own::{failed, is_in_place},
    sys,
    tamper::Fault,
};

/// Bytes of tables that one look is at, and what is left of the set that it comes to: some
/// milliseconds, and a million entries in three looks.
pub(super) const BYTES_AT_ONCE: usize = 8 << 20;

/// A table in the kernel, and what is to be in it.
pub(super) struct Held<B> {
    memory: Memory<B>,
    table: Table<B>,
}

impl<B: Bucket> Held<B> {
    pub(super) fn new(name: &'static str, keys: &[Key]) -> Result<Self, EnforcerError> {
        let table = Table::new(keys).ok_or_else(|| {
            EnforcerError::Full(format!("no table for {} direct entries", keys.len()))
        })?;
        let memory = Memory::new(name, table.buckets()).map_err(failed(name))?;
        Ok(Self { memory, table })
    }

    /// `None` where somebody else has made it something else.
    fn of_map(map: OwnedFd) -> Option<Self> {
        let memory = Memory::of_map(map).ok()?;
        let table = Table::of_buckets(memory.read())?;
        Some(Self { memory, table })
    }

    /// Has the programs look into it for the set of this place.
    pub(super) fn put(&self, outer: BorrowedFd<'_>, place: u32) -> io::Result<()> {
        sys::put_map(outer, place, self.memory.fd())
    }

    /// Adds what is missing; whether there was room.
    pub(super) fn add(&mut self, keys: &[Key]) -> bool {
        for at in self.table.announce(keys) {
            self.write(at);
        }
        keys.iter().all(|key| {
            self.table.contains(key) || self.table.insert(key).map(|at| self.write(at)).is_some()
        })
    }

    /// Removes all but these, which are in order.
    fn keep(&mut self, keys: &[Key]) {
        let all = self.table.keys();
        let extra: Vec<Key> = all.filter(|key| keys.binary_search(key).is_err()).collect();
        for key in extra {
            self.remove(&key);
        }
    }

    pub(super) fn remove(&mut self, key: &Key) {
        if let Some(at) = self.table.remove(key) {
            self.write(at);
        }
    }

    /// Tells the kernel of a place.
    fn write(&self, at: At) {
        self.memory.write(at, &self.table.buckets()[at.0]);
    }
}

/// The entries of one family that a set has.
pub(super) struct Half<B> {
    /// None where it is not known what an earlier agent has put there.
    held: Option<Held<B>>,
    /// What is to take its place.
    next: Option<Held<B>>,
    /// The bucket that is looked at next.
    looked: usize,
}

impl<B: Bucket> Half<B> {
    /// Of a new set.
    pub(super) const NEW: Self = Self {
        held: None,
        next: None,
        looked: 0,
    };

    /// Of an earlier agent's set: what is pinned for a place, if it is what is there.
    pub(super) fn adopted(outer: BorrowedFd<'_>, place: u32, pin: &Path) -> Self {
        let pinned = sys::get(pin).ok().and_then(Held::of_map);
        Self {
            held: pinned.filter(|it| is_in_place(outer, place, it.memory.id)),
            ..Self::NEW
        }
    }

    /// Whether it was taken over.
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Adds what is missing, in place or in a new table that [`put`] puts there.
    pub(super) fn add(&mut self, name: &'static str, keys: &[Key]) -> Result<(), EnforcerError> {
        // Of an earlier attempt, which has failed before that was put there.
        self.next = None;
        let held = self.held.as_mut();
        if !held.is_some_and(|held| held.table.is_for(keys.len()) && held.add(keys)) {
            self.next = Some(Held::new(name, keys)?);
        }
        Ok(())
    }

    /// Whether it has others than these, which it has.
    pub(super) fn has_others(&self, keys: &[Key]) -> bool {
        let held = self.next.as_ref().or(self.held.as_ref());
        held.is_some_and(|held| held.table.len() > keys.len())
    }

    /// Removes all but these, which are in order.
    pub(super) fn keep(&mut self, keys: &[Key]) {
        if let Some(held) = &mut self.held {
            held.keep(keys);
        }
    }

    /// Has the next look begin anew.
    pub(super) fn rewind(&mut self) {
        self.looked = 0;
    }

    /// Looks whether it is where it should be and holds what it should, and mends it. Says at how
    /// many bytes it has looked, and whether there are more; after the last it stays there, see
    /// [`Self::rewind`].
    pub(super) fn mend(&mut self, outer: BorrowedFd<'_>, place: u32, pin: &Path) -> Looked {
        // Buckets that one look is at.
        let at_once = BYTES_AT_ONCE / size_of::<B>();
        let mut looked = Looked::default();
        let Some(held) = &self.held else {
            return looked;
        };
        let wanted = held.table.buckets();
        let end = wanted.len().min(self.looked + at_once);
        let changed = held.memory.mend(self.looked..end, wanted);
        looked.bytes = (end - self.looked) * size_of::<B>();
        looked.is_more = end < wanted.len();
        self.looked = end;
        let name = pin.file_name().unwrap_or_default().to_string_lossy();
        if changed > 0 {
            looked.faults.push(Fault {
                endpoint: None,
                what: format!("map {name}: {changed} entries were changed"),
                failed: None,
            });
        }
        looked.faults.extend(held.mend_place(outer, place, pin));
        looked
    }
}

/// What came of a look.
#[derive(Default)]
pub(super) struct Looked {
    pub(super) faults: Vec<Fault>,
    pub(super) bytes: usize,
    pub(super) is_more: bool,
}

impl<B: Bucket> Held<B> {
    fn mend_place(&self, outer: BorrowedFd<'_>, place: u32, pin: &Path) -> Option<Fault> {
        let what = if !is_in_place(outer, place, self.memory.id) {
            "it was gone or another"
        } else if !sys::get(pin)
            .is_ok_and(|map| sys::id(map.as_fd()).is_ok_and(|id| id == self.memory.id))
        {
            "its pin was gone or another's"
        } else {
            return None;
        };
        let mended = self
            .put(outer, place)
            .and_then(|()| pin_again(self.memory.fd(), pin));
        let name = pin.file_name().unwrap_or_default().to_string_lossy();
        Some(Fault {
            endpoint: None,
            what: format!("map {name}: {what}"),
            failed: mended.err().map(|error| error.to_string()),
        })
    }
}

/// Puts new tables in the places of their sets, each at once in the place of what is there. All by
/// one call, since the kernel waits for running programs once a call.
pub(super) fn put<'a, B: Bucket + 'a>(
    name: &'static str,
    outer: BorrowedFd<'_>,
    pins: &Path,
    halves: impl Iterator<Item = (u32, &'a mut Half<B>)>,
) -> Result<(), EnforcerError> {
    let mut new = Vec::new();
    for (place, half) in halves {
        if let Some(next) = half.next.take() {
            new.push((place, half, next));
        }
    }
    let there = new
        .iter()
        .map(|(place, _, next)| (*place, next.memory.fd().as_raw_fd()));
    let put = sys::put_maps(outer, &there.collect::<Vec<_>>());
    let mut pinned = Ok(());
    for (place, half, next) in new {
        if put.is_ok() {
            pinned = pinned.and(pin_again(next.memory.fd(), &pin(pins, name, place)));
        }
        // Whether it is there is not known where that has failed: it is written anew then.
        half.held = put.is_ok().then_some(next);
        half.looked = 0;
    }
    put.and(pinned).map_err(failed(name))
}

/// Puts empty tables in places that are nobody's any more.
pub(super) fn clear<B: Bucket>(
    name: &'static str,
    outer: BorrowedFd<'_>,
    pins: &Path,
    places: &[u32],
) -> Result<(), EnforcerError> {
    let nothing = Held::<B>::new(name, &[])?;
    let map = nothing.memory.fd().as_raw_fd();
    let there: Vec<_> = places.iter().map(|place| (*place, map)).collect();
    sys::put_maps(outer, &there).map_err(failed(name))?;
    for place in places {
        match std::fs::remove_file(pin(pins, name, *place)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(name)(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Where a set's table is pinned.
pub(super) fn pin(pins: &Path, name: &str, place: u32) -> std::path::PathBuf {
    bpffs::map(pins, &format!("{name}-{place}"))
}
