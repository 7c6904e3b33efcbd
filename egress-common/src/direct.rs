//! A set of direct entries as the kernel holds it: for each family a table in one piece of memory,
//! made so that a look-up touches one line of the processor's cache whatever the number of entries.
//!
//! A table is an array of buckets. The first [`HEAD`] of them hold words that say how it is to be
//! searched, the others eight places each. A key has one bucket that its word leads to; where that is
//! full it may be in one of the next [`PROBES`]. A place is taken and given up by one store of its
//! word, so that programs may search while user space writes.

use crate::address::Address;

/// Places of a bucket: as many words as a cache line has.
pub const PLACES: usize = 8;
/// Buckets that a key may be in.
pub const PROBES: u32 = 16;
/// Prefix lengths of IPv6, each with single ports and with every port; IPv4 has fewer.
pub const MAX_PREFIXES: u32 = 129 * 2;
/// Buckets before the first that has entries: their words are [`index`]'s shift, then each
/// [`Prefix`], up to one that is 0.
pub const HEAD: u32 = (1 + MAX_PREFIXES).div_ceil(PLACES as u32);

/// The word of a place that was given up; the bucket stays as full as it was. No key has it: there
/// are no 254 bits.
pub const GONE: u64 = 0xff << BITS;

/// Where a word has its parts.
const PROTOCOL: u32 = 16;
const BITS: u32 = 24;
const UPPER: u32 = 32;

/// An entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Key {
    /// The network's first address.
    pub address: Address,
    /// How many bits of it are the network's, in the mapped form: 0 to 128.
    pub bits: u8,
    /// The IP protocol number.
    pub protocol: u8,
    /// Host byte order; 0 stands for every port.
    pub port: u16,
}

impl Key {
    /// Whether IPv4 destinations are what it names.
    pub const fn is_v4(&self) -> bool {
        self.address.is_v4() && self.bits >= 96
    }

    /// Of this word and address: what [`Bucket::word`] was made of.
    fn of_word(word: u64, address: Address) -> Self {
        Self {
            address,
            bits: ((word >> BITS) as u8).wrapping_sub(1),
            protocol: (word >> PROTOCOL) as u8,
            port: word as u16,
        }
    }
}

/// A prefix length that entries of a table have, with one port each or for every port.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Prefix {
    /// [`Key::bits`].
    pub bits: u8,
    /// The bits of a port that count: all, or none where the entries are for every port.
    pub port_mask: u16,
}

impl Prefix {
    /// Never 0.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.port_mask as u64 | (self.bits as u64 + 1) << BITS
    }

    /// From a word; `None` from 0, which ends the list.
    #[inline(always)]
    pub const fn of_word(word: u64) -> Option<Self> {
        match word {
            0 => None,
            _ => Some(Self {
                bits: ((word >> BITS) as u8).wrapping_sub(1),
                port_mask: word as u16,
            }),
        }
    }

    /// The key that an entry of this prefix has where it names the destination.
    #[inline(always)]
    pub fn key(self, address: &Address, protocol: u8, port: u16) -> Key {
        Key {
            address: address.first_of(self.bits),
            bits: self.bits,
            protocol,
            port: port & self.port_mask,
        }
    }
}

/// Two odd numbers without a pattern: the fractional parts of the golden ratio and of the square root
/// of 3.
const FACTORS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xbb67_ae85_84ca_a73b];

/// The bucket that a word leads to, after the head. There are 2 to the power of `64 - shift`.
#[inline(always)]
pub const fn index(word: u64, shift: u64) -> u32 {
    let mixed = word.wrapping_mul(FACTORS[0]);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(FACTORS[1]);
    (mixed >> (shift & 63)) as u32
}

/// A bucket of either family.
pub trait Bucket: Copy {
    /// Without entries.
    const EMPTY: Self;

    /// Of each place: 0 where it was never taken, [`GONE`] or a key's.
    fn words(&self) -> &[u64; PLACES];

    /// The same.
    fn words_mut(&mut self) -> &mut [u64; PLACES];

    /// The upper half of the words of keys with this address.
    fn upper(address: &Address) -> u32;

    /// A key's word: never 0. Of IPv4 it is all that there is to say; of IPv6 the upper half is not
    /// the address, but made from it.
    #[inline(always)]
    fn word(key: &Key) -> u64 {
        u64::from(key.port)
            | u64::from(key.protocol) << PROTOCOL
            | (u64::from(key.bits) + 1) << BITS
            | u64::from(Self::upper(&key.address)) << UPPER
    }

    /// The address at a place that was taken.
    fn address(&self, place: usize) -> Address;

    /// Makes it so, where the words are not all. While programs search, only where the place was
    /// never taken.
    fn set_address(&mut self, place: usize, address: Address);

    /// Whether a place that was given up may be taken with this address: a program that has read
    /// the word that was there may not have read the address yet.
    fn may_be(&self, place: usize, address: &Address) -> bool;

    /// The key at a place, if there is one.
    fn key(&self, place: usize) -> Option<Key> {
        match self.words()[place] {
            0 | GONE => None,
            word => Some(Key::of_word(word, self.address(place))),
        }
    }

    /// Whether it has the key of this word and address.
    fn has(&self, word: u64, address: &Address) -> bool;

    /// Whether a key that is not here may be in the next one. Places are taken in their order.
    #[inline(always)]
    fn is_full(&self) -> bool {
        self.words()[PLACES - 1] != 0
    }
}

/// A bucket of IPv4: one cache line.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Bucket4 {
    words: [u64; PLACES],
}

/// A bucket of IPv6: the words' line, and two with addresses, of which one is read where a word is
/// found.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "user"), derive(Debug))]
pub struct Bucket6 {
    words: [u64; PLACES],
    addresses: [Address; PLACES],
}

impl Bucket for Bucket4 {
    const EMPTY: Self = Self { words: [0; PLACES] };

    #[inline(always)]
    fn words(&self) -> &[u64; PLACES] {
        &self.words
    }

    #[inline(always)]
    fn words_mut(&mut self) -> &mut [u64; PLACES] {
        &mut self.words
    }

    #[inline(always)]
    fn upper(address: &Address) -> u32 {
        let [.., last] = address.words();
        last
    }

    fn address(&self, place: usize) -> Address {
        Address::v4(((self.words[place] >> UPPER) as u32).to_ne_bytes())
    }

    fn set_address(&mut self, _: usize, _: Address) {}

    fn may_be(&self, _: usize, _: &Address) -> bool {
        true
    }

    // Without a branch at each place: which it is cannot be foreseen.
    #[inline(always)]
    fn has(&self, word: u64, _: &Address) -> bool {
        let mut all_differ = 1;
        let mut place = 0;
        while place < PLACES {
            let other = self.words[place] ^ word;
            all_differ &= (other | other.wrapping_neg()) >> 63;
            place += 1;
        }
        all_differ == 0
    }
}

impl Bucket for Bucket6 {
    const EMPTY: Self = Self {
        words: [0; PLACES],
        addresses: [Address::UNSPECIFIED; PLACES],
    };

    #[inline(always)]
    fn words(&self) -> &[u64; PLACES] {
        &self.words
    }

    #[inline(always)]
    fn words_mut(&mut self) -> &mut [u64; PLACES] {
        &mut self.words
    }

    #[inline(always)]
    fn upper(address: &Address) -> u32 {
        let [a, b, c, d] = address.words();
        let high = u64::from(a) << 32 | u64::from(b);
        let low = u64::from(c) << 32 | u64::from(d);
        let mixed = high.wrapping_mul(FACTORS[0]) ^ low;
        (mixed ^ mixed >> 32)
            .wrapping_mul(FACTORS[1])
            .wrapping_shr(32) as u32
    }

    fn address(&self, place: usize) -> Address {
        self.addresses[place]
    }

    fn set_address(&mut self, place: usize, address: Address) {
        self.addresses[place] = address;
    }

    fn may_be(&self, place: usize, address: &Address) -> bool {
        self.addresses[place] == *address
    }

    #[inline(always)]
    fn has(&self, word: u64, address: &Address) -> bool {
        let mut place = 0;
        while place < PLACES {
            if self.words[place] == word && self.addresses[place] == *address {
                return true;
            }
            place += 1;
        }
        false
    }
}

const _: () = assert!(size_of::<Bucket4>() == 64 && align_of::<Bucket4>() == 8);
const _: () = assert!(size_of::<Bucket6>() == 192 && align_of::<Bucket6>() == 8);

#[cfg(test)]
mod tests {
    use super::*;
    use core::{array::from_fn, net::IpAddr};

    fn key(address: &str, bits: u8, protocol: u8, port: u16) -> Key {
        let address = Address::from(address.parse::<IpAddr>().unwrap());
        Key {
            address: address.first_of(bits),
            bits,
            protocol,
            port,
        }
    }

    /// In the one table or the other.
    fn word(key: &Key) -> u64 {
        match key.address.is_v4() {
            true => Bucket4::word(key),
            false => Bucket6::word(key),
        }
    }

    #[test]
    fn a_word_tells_keys_apart_and_is_none_that_has_a_meaning() {
        let keys = [
            key("10.1.2.3", 128, 6, 443),
            key("10.1.2.3", 128, 17, 443),
            key("10.1.2.3", 128, 6, 0),
            key("10.1.2.3", 104, 6, 443),
            key("0.0.0.0", 96, 6, 443),
            key("2001:db8::1", 128, 6, 443),
            key("2001:db8::2", 128, 6, 443),
            key("::", 0, 0, 0),
        ];
        for (n, one) in keys.iter().enumerate() {
            assert!(!matches!(word(one), 0 | GONE), "{one:?}");
            for (m, other) in keys.iter().enumerate() {
                assert_eq!(n == m, word(one) == word(other), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_prefix_makes_the_key_of_its_entry() {
        let wanted = key("10.0.0.0", 104, 6, 443);
        let prefix = |port_mask| Prefix {
            bits: 104,
            port_mask,
        };
        let to = key("10.1.2.3", 128, 0, 0).address;
        assert_eq!(prefix(u16::MAX).key(&to, 6, 443), wanted);
        assert_eq!(prefix(0).key(&to, 6, 443), Key { port: 0, ..wanted });
        for prefix in [prefix(0), prefix(u16::MAX)] {
            assert_eq!(Prefix::of_word(prefix.word()), Some(prefix));
        }
        assert_eq!(Prefix::of_word(0), None);
    }

    fn has_all<B: Bucket>(keys: [Key; PLACES], not: Key) {
        let mut bucket = B::EMPTY;
        for (place, key) in keys.iter().enumerate() {
            assert!(!bucket.has(B::word(key), &key.address));
            assert!(!bucket.is_full());
            bucket.set_address(place, key.address);
            bucket.words_mut()[place] = B::word(key);
            assert_eq!(bucket.key(place), Some(*key));
        }
        assert!(bucket.is_full());
        assert!(!bucket.has(B::word(&not), &not.address));
        for (place, key) in keys.iter().enumerate() {
            assert!(bucket.has(B::word(key), &key.address), "{place}");
            bucket.words_mut()[place] = GONE;
            assert!(!bucket.has(B::word(key), &key.address), "{place}");
            assert_eq!(bucket.key(place), None);
        }
        assert!(bucket.is_full());
    }

    #[test]
    fn a_bucket_has_what_is_at_any_of_its_places() {
        let many = |address: &str| from_fn(|n| key(address, 128, 6, n as u16 + 1));
        let none = |address: &str| key(address, 128, 6, 9);
        has_all::<Bucket4>(many("192.0.2.1"), none("192.0.2.1"));
        has_all::<Bucket6>(many("2001:db8::1"), none("2001:db8::1"));
    }

    #[test]
    fn the_word_of_another_address_is_not_enough() {
        let (one, other) = (
            key("2001:db8::1", 128, 6, 443),
            key("2001:db8::2", 128, 6, 443),
        );
        let mut bucket = Bucket6::EMPTY;
        bucket.set_address(0, one.address);
        bucket.words_mut()[0] = Bucket6::word(&one);
        assert!(bucket.has(Bucket6::word(&one), &one.address));
        assert!(!bucket.has(Bucket6::word(&one), &other.address));
    }

    /// However alike keys are, they are spread over the buckets: as many as there are places for
    /// have more than two buckets' worth of room nowhere.
    #[test]
    fn keys_that_are_alike_lead_to_different_buckets() {
        const SHIFT: u64 = 64 - 10;
        let mut counts = [[0_u32; 1 << 10]; 4];
        for n in 0..4_096_u32 {
            let v6 = |high: u32, low: u32| Key {
                address: Address::from_words([0x20, high.to_be(), 0, low.to_be()]),
                bits: 128,
                protocol: 6,
                port: 443,
            };
            let v4 = |word: u32| Key {
                address: Address::v4(word.to_be_bytes()),
                bits: 128,
                protocol: 6,
                port: 443,
            };
            let keys = [
                v4(0x0a00_0000 | n),
                v4(0x0a00_0000 | n << 12),
                v6(0, n),
                v6(n, 1),
            ];
            for (counts, key) in counts.iter_mut().zip(keys) {
                counts[index(word(&key), SHIFT) as usize] += 1;
            }
        }
        for counts in &counts {
            assert!(counts.iter().all(|count| *count <= 16));
        }
    }
}
