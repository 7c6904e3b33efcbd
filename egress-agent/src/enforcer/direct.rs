//! Direct entries in the kernel: of a million, only those that change are written.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aya::maps::{LpmTrie, MapData, MapError, lpm_trie::Key};
use egress_common::maps::{self, DirectKey};
use ipnet::IpNet;

use crate::enforcer::{
    Enforcer, EnforcerError,
    state::{failed, prefix},
    sys,
    tamper::{Mark, mark},
};

/// Entries that one call writes or removes: some 100 KiB of keys.
const BATCH: usize = 4_096;

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
    /// Whether it is a single address.
    pub fn is_host(&self) -> bool {
        self.network.prefix_len() == self.network.max_prefix_len()
    }

    /// As a trie has it.
    pub(super) fn prefix_key(&self, policy: u32) -> Key<DirectKey> {
        let bits = DirectKey::HEAD_BITS + prefix(&self.network);
        Key::new(bits, self.key(policy))
    }

    fn key(&self, policy: u32) -> DirectKey {
        DirectKey {
            policy,
            port: self.port,
            protocol: self.protocol,
            reserved: 0,
            address: self.network.network().into(),
        }
    }
}

/// Direct entries by the policy's number. Vectors, since of those the library sees that two are one,
/// and compares no further.
pub type DirectEntries = BTreeMap<u32, Arc<Vec<DirectEntry>>>;

/// One of the two maps.
#[derive(Clone, Copy)]
struct Table {
    name: &'static str,
    key_size: usize,
    /// Where a key has the policy's number.
    policy_at: usize,
    hosts: bool,
}

const TABLES: [Table; 2] = [
    Table {
        name: maps::DIRECT_HOSTS,
        key_size: size_of::<DirectKey>(),
        policy_at: 0,
        hosts: true,
    },
    Table {
        name: maps::DIRECT_NETWORKS,
        key_size: size_of::<Key<DirectKey>>(),
        policy_at: 4,
        hosts: false,
    },
];

impl Table {
    fn mark(&self, policy: u32, entry: &DirectEntry) -> Mark {
        match self.hosts {
            true => mark(&entry.key(policy)),
            false => mark(&entry.prefix_key(policy)),
        }
    }

    fn policy(&self, mark: &Mark) -> u32 {
        let at = self.policy_at;
        u32::from_ne_bytes([mark[at], mark[at + 1], mark[at + 2], mark[at + 3]])
    }

    /// The keys of the entries, in order.
    fn marks(&self, entries: &DirectEntries) -> Vec<Mark> {
        let all = entries.iter().flat_map(|(policy, entries)| {
            let own = entries.iter().filter(|entry| entry.is_host() == self.hosts);
            own.map(|entry| self.mark(*policy, entry))
        });
        let mut marks: Vec<_> = all.collect();
        marks.sort_unstable();
        marks.dedup();
        marks
    }
}

impl Enforcer {
    /// Writes what these policies have not got yet, and only then removes what they have too much:
    /// what stays is never away. Other policies' entries stay.
    ///
    /// # Errors
    /// A map is full, or the kernel refuses; what was written before that stays.
    pub fn set_direct(&mut self, entries: &DirectEntries) -> Result<(), EnforcerError> {
        let before = self.direct.take();
        let is_as_before = |policy: &u32, entries: &Arc<Vec<DirectEntry>>| {
            let before = before.as_ref().and_then(|before| before.get(policy));
            before.is_some_and(|it| Arc::ptr_eq(it, entries))
        };
        let mut changed = entries.clone();
        changed.retain(|policy, entries| !is_as_before(policy, entries));
        let mut extra = Vec::new();
        for table in TABLES.iter().filter(|_| !changed.is_empty()) {
            let written = self.written.marks(table.name);
            let own = written.filter(|mark| changed.contains_key(&table.policy(mark)));
            let (missing, more) = difference(&table.marks(&changed), own);
            self.write(table, &missing)?;
            extra.push((table, more));
        }
        for (table, more) in extra {
            self.remove(table, &more)?;
        }
        self.direct = before.map(|before| before.into_iter().chain(changed).collect());
        Ok(())
    }

    /// Removes the direct entries of all policies but these, which are written.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn retain_direct(&mut self, entries: &DirectEntries) -> Result<(), EnforcerError> {
        let known = self.direct.as_ref();
        if known.is_some_and(|known| known.keys().eq(entries.keys())) {
            return Ok(());
        }
        self.direct = None;
        for table in &TABLES {
            let written = self.written.marks(table.name);
            let others = written.filter(|mark| !entries.contains_key(&table.policy(mark)));
            let others: Vec<_> = others.copied().collect();
            self.remove(table, &others)?;
        }
        self.direct = Some(entries.clone());
        Ok(())
    }

    fn write(&mut self, table: &Table, marks: &[Mark]) -> Result<(), EnforcerError> {
        let mut written = Vec::with_capacity(marks.len());
        let mut outcome = Ok(());
        for chunk in marks.chunks(BATCH) {
            let keys = keys(table, chunk);
            let map = self.written.map(table.name)?;
            let (done, result) = sys::update_all(map, &keys, table.key_size, &vec![1; chunk.len()]);
            written.extend_from_slice(&chunk[..done]);
            if let Err(error) = result {
                outcome = Err(refused(table.name, error));
                break;
            }
        }
        self.written.add_marks(table.name, written);
        outcome
    }

    fn remove(&mut self, table: &Table, marks: &[Mark]) -> Result<(), EnforcerError> {
        for chunk in marks.chunks(BATCH) {
            let map = self.written.map(table.name)?;
            let (done, result) = sys::delete_all(map, &keys(table, chunk), table.key_size);
            self.written.remove_marks(table.name, &chunk[..done]);
            result.map_err(|error| refused(table.name, error))?;
        }
        Ok(())
    }

    /// Takes over what an earlier agent wrote.
    pub(super) fn adopt_direct(&mut self) -> Result<(), EnforcerError> {
        let hosts: aya::maps::HashMap<&mut MapData, DirectKey, u8> =
            self.map(maps::DIRECT_HOSTS)?;
        let hosts = hosts.keys().map(|key| Ok(mark(&key?)));
        let hosts: Result<Vec<_>, MapError> = hosts.collect();
        let hosts = hosts.map_err(failed(maps::DIRECT_HOSTS))?;
        let networks: LpmTrie<&mut MapData, DirectKey, u8> = self.map(maps::DIRECT_NETWORKS)?;
        let networks = networks.keys().map(|key| Ok(mark(&key?)));
        let networks: Result<Vec<_>, MapError> = networks.collect();
        let networks = networks.map_err(failed(maps::DIRECT_NETWORKS))?;
        self.written.add_marks(maps::DIRECT_HOSTS, hosts);
        self.written.add_marks(maps::DIRECT_NETWORKS, networks);
        Ok(())
    }
}

fn keys(table: &Table, marks: &[Mark]) -> Vec<u8> {
    let keys = marks.iter().flat_map(|mark| &mark[..table.key_size]);
    keys.copied().collect()
}

fn refused(name: &'static str, io_error: std::io::Error) -> EnforcerError {
    failed(name)(MapError::SyscallError(aya::sys::SyscallError {
        call: "bpf_map_batch",
        io_error,
    }))
}

/// What is wanted and not written, and what is written and not wanted; both in order.
fn difference<'a>(
    wanted: &[Mark],
    written: impl Iterator<Item = &'a Mark>,
) -> (Vec<Mark>, Vec<Mark>) {
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

/// Adds to a set; where it is much, by building it anew, which is faster and half as large.
pub(super) fn add(set: &mut BTreeSet<Mark>, more: Vec<Mark>) {
    if more.len() > set.len() / 16 {
        set.append(&mut BTreeSet::from_iter(more));
    } else {
        set.extend(more);
    }
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
            let found = difference(&marks(wanted), marks(written).iter());
            assert_eq!(
                found,
                (marks(missing), marks(extra)),
                "{wanted:?} {written:?}"
            );
        }
    }
}
