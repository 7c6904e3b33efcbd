//! A table of direct entries, filled: the layout of [`egress_common::direct`], by whoever writes it.

use std::{cmp::Reverse, collections::BTreeMap};

use egress_common::direct::{Bucket, GONE, HEAD, Key, MAX_PREFIXES, PLACES, PROBES, Prefix, index};

/// The least number of buckets that have places.
const LEAST: usize = 2;
/// The most: eight million places for [`MAX_DIRECT`](egress_common::maps::MAX_DIRECT) entries.
const MOST: usize = 1 << 20;

/// A table, and how much of it is in use.
#[derive(Clone, Debug)]
pub(super) struct Table<B> {
    buckets: Vec<B>,
    entries: usize,
    /// Places that are taken or were.
    used: usize,
}

/// Where something was written: a bucket, and a place in it.
pub(super) type At = (usize, usize);

impl<B: Bucket> Table<B> {
    /// As large as these keys need it to be, each of which is there once. `None` where that would be
    /// too large.
    pub(super) fn new(keys: &[Key]) -> Option<Self> {
        let mut size = buckets(keys.len());
        while size <= MOST {
            if let Some(table) = Self::of_size(size, keys) {
                return Some(table);
            }
            size *= 2;
        }
        None
    }

    fn of_size(size: usize, keys: &[Key]) -> Option<Self> {
        let mut table = Self {
            buckets: vec![B::EMPTY; HEAD as usize + size + PROBES as usize - 1],
            entries: 0,
            used: 0,
        };
        table.buckets[0].words_mut()[0] = u64::from(64 - size.trailing_zeros());
        table.announce(keys);
        let mut keys = keys.iter();
        keys.all(|key| table.insert(key).is_some()).then_some(table)
    }

    /// What somebody else has written; `None` where that is no table.
    pub(super) fn of_buckets(buckets: Vec<B>) -> Option<Self> {
        let around = HEAD as usize + PROBES as usize - 1;
        let size = buckets.len().checked_sub(around)?;
        let shift = buckets[0].words()[0];
        if !size.is_power_of_two() || size < LEAST || shift != u64::from(64 - size.trailing_zeros())
        {
            return None;
        }
        let mut table = Self {
            buckets,
            entries: 0,
            used: 0,
        };
        let words = table.buckets[HEAD as usize..].iter().flat_map(B::words);
        table.used = words.filter(|word| **word != 0).count();
        table.entries = table.keys().count();
        Some(table)
    }

    pub(super) fn buckets(&self) -> &[B] {
        &self.buckets
    }

    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// The keys that are there, in no order.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        let buckets = self.buckets[HEAD as usize..].iter();
        buckets.flat_map(|bucket| (0..PLACES).filter_map(|place| bucket.key(place)))
    }

    /// Whether a table for so many entries is to be of this one's size.
    pub(super) fn is_for(&self, entries: usize) -> bool {
        buckets(entries) >= self.size() / 8
    }

    fn size(&self) -> usize {
        self.buckets.len() - HEAD as usize - (PROBES as usize - 1)
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.find(key).is_some()
    }

    fn find(&self, key: &Key) -> Option<At> {
        let word = B::word(key);
        for at in self.probes(word) {
            let bucket = &self.buckets[at];
            if let Some(place) = (0..PLACES).find(|place| bucket.key(*place) == Some(*key)) {
                return Some((at, place));
            }
            if !bucket.is_full() {
                return None;
            }
        }
        None
    }

    /// The buckets that a word may be in.
    fn probes(&self, word: u64) -> std::ops::Range<usize> {
        let shift = self.buckets[0].words()[0];
        let first = (HEAD + index(word, shift)) as usize;
        first..first + PROBES as usize
    }

    /// Puts a key that is not there where there is room for it; `None` where there is none.
    pub(super) fn insert(&mut self, key: &Key) -> Option<At> {
        // Where more is in use than this, searches take longer than they should.
        if self.used >= self.size() * PLACES / 8 * 5 {
            return None;
        }
        let word = B::word(key);
        for at in self.probes(word) {
            let bucket = &mut self.buckets[at];
            for place in 0..PLACES {
                let before = bucket.words()[place];
                if !may_take(bucket, place, key) {
                    continue;
                }
                bucket.set_address(place, key.address);
                bucket.words_mut()[place] = word;
                self.entries += 1;
                self.used += usize::from(before == 0);
                return Some((at, place));
            }
        }
        None
    }

    /// Removes a key; `None` where it is not there.
    pub(super) fn remove(&mut self, key: &Key) -> Option<At> {
        let (at, place) = self.find(key)?;
        self.buckets[at].words_mut()[place] = GONE;
        self.entries -= 1;
        Some((at, place))
    }

    /// Has the prefix lengths of these keys looked for, those of most first, after those that are.
    pub(super) fn announce(&mut self, keys: &[Key]) -> Vec<At> {
        let mut counts = BTreeMap::<u64, usize>::new();
        for key in keys {
            *counts.entry(prefix(key).word()).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| Reverse(*count));
        let words = counts.into_iter().map(|(word, _)| word);
        words.filter_map(|word| self.announce_one(word)).collect()
    }

    fn announce_one(&mut self, prefix: u64) -> Option<At> {
        for n in 1..=MAX_PREFIXES as usize {
            let (at, place) = (n / PLACES, n % PLACES);
            let word = &mut self.buckets[at].words_mut()[place];
            if *word == prefix {
                return None;
            }
            if *word == 0 {
                *word = prefix;
                return Some((at, place));
            }
        }
        // There is a place for each; what somebody else has written there is mended by another.
        None
    }
}

/// How many buckets so many entries need: half of their places stay free.
fn buckets(entries: usize) -> usize {
    (entries * 2)
        .div_ceil(PLACES)
        .next_power_of_two()
        .max(LEAST)
}

/// Whether a place is free for a key.
fn may_take<B: Bucket>(bucket: &B, place: usize, key: &Key) -> bool {
    match bucket.words()[place] {
        0 => true,
        GONE => bucket.may_be(place, &key.address),
        _ => false,
    }
}

/// The prefix length of an entry.
fn prefix(key: &Key) -> Prefix {
    Prefix {
        bits: key.bits,
        port_mask: if key.port == 0 { 0 } else { u16::MAX },
    }
}

#[cfg(test)]
mod tests;
