use std::{collections::BTreeSet, net::IpAddr};

use egress_common::{
    address::Address,
    direct::{Bucket4, Bucket6},
};
use proptest::prelude::*;

use super::*;

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn key(network: &str, bits: u8, port: u16) -> Key {
    Key {
        address: address(network).first_of(bits),
        bits,
        protocol: 6,
        port,
    }
}

/// As a program searches.
fn names<B: Bucket>(table: &Table<B>, to: &Address, protocol: u8, port: u16) -> bool {
    let words = table.buckets.iter().flat_map(B::words);
    let prefixes = words.skip(1).map_while(|word| Prefix::of_word(*word));
    let mut keys = prefixes.map(|prefix| prefix.key(to, protocol, port));
    keys.any(|key| {
        for at in table.probes(B::word(&key)) {
            let bucket = &table.buckets[at];
            if bucket.has(B::word(&key), &key.address) {
                return true;
            }
            if !bucket.is_full() {
                return false;
            }
        }
        false
    })
}

/// The prefix lengths in their order, and whether for every port.
fn prefixes<B: Bucket>(table: &Table<B>) -> Vec<(u8, bool)> {
    let words = table.buckets.iter().flat_map(B::words);
    let prefixes = words.skip(1).map_while(|word| Prefix::of_word(*word));
    prefixes
        .map(|prefix| (prefix.bits, prefix.port_mask == 0))
        .collect()
}

#[test]
fn prefix_lengths_of_most_entries_are_looked_for_first() {
    let keys = [
        key("10.0.0.0", 104, 443),
        key("192.0.2.1", 128, 443),
        key("192.0.2.2", 128, 443),
        key("192.0.2.2", 128, 0),
    ];
    let table = Table::<Bucket4>::new(&keys).unwrap();
    assert_eq!(prefixes(&table), [(128, false), (104, false), (128, true)]);
}

#[test]
fn prefix_lengths_that_are_looked_for_stay_where_they_are() {
    let mut table = Table::<Bucket4>::new(&[key("10.0.0.0", 104, 443)]).unwrap();
    let more = [
        key("192.0.2.1", 128, 0),
        key("192.0.2.2", 128, 0),
        key("10.0.0.0", 104, 0),
    ];
    assert_eq!(table.announce(&more), [(0, 2), (0, 3)]);
    let all = [(104, false), (128, true), (104, true)];
    assert_eq!(prefixes(&table), all);
    assert!(table.announce(&more).is_empty());
    assert_eq!(prefixes(&table), all);
}

#[test]
fn there_is_a_place_for_every_prefix_length() {
    let keys = (0..=128).flat_map(|bits| [key("::", bits, 1), key("::", bits, 0)]);
    let keys: Vec<Key> = keys.collect();
    let table = Table::<Bucket6>::new(&keys).unwrap();
    assert_eq!(prefixes(&table).len(), 258);
    assert!(keys.iter().all(|key| table.contains(key)));
}

/// A million that are alike fit, and half the places stay free.
#[test]
fn a_million_fit() {
    let keys = |make: fn(u32) -> Address| {
        let keys = (0..1_000_000).map(|n| Key {
            address: make(n),
            bits: 128,
            protocol: 6,
            port: 443,
        });
        keys.collect::<Vec<_>>()
    };
    let v4 = keys(|n| Address::v4((0x0b00_0000 + n).to_be_bytes()));
    let table = Table::<Bucket4>::new(&v4).unwrap();
    assert_eq!((table.len(), table.size()), (1_000_000, 1 << 18));
    let v6 = keys(|n| Address::from_words([0xb80d_0120, 0, 0, n.to_be()]));
    let table = Table::<Bucket6>::new(&v6).unwrap();
    assert_eq!((table.len(), table.size()), (1_000_000, 1 << 18));
}

#[test]
fn a_table_is_full_before_it_is_slow() {
    let keys = |range: std::ops::Range<u16>| {
        let keys = range.map(|port| key("192.0.2.1", 128, port));
        keys.collect::<Vec<_>>()
    };
    let mut table = Table::<Bucket4>::new(&keys(1..9)).unwrap();
    assert_eq!(table.size(), 2);
    let more = keys(9..100);
    let room = more.iter().take_while(|key| table.insert(key).is_some());
    assert_eq!(room.count(), 2);
    // What is given up can be taken again, and by IPv4 by any.
    for key in &keys(1..9) {
        assert!(table.remove(key).is_some() && !table.contains(key));
    }
    assert_eq!(table.remove(&more[50]), None);
    assert_eq!(table.len(), 2);
}

/// A program that has read the word of a place may read its address only after it was given up.
#[test]
fn a_place_of_ipv6_keeps_its_address() {
    let (one, other) = (key("2001:db8::1", 128, 1), key("2001:db8::2", 128, 1));
    let mut table = Table::<Bucket6>::new(&[one]).unwrap();
    for n in 2..100 {
        let at = table.remove(&key("2001:db8::1", 128, n - 1)).unwrap();
        let next = key("2001:db8::1", 128, n);
        if let Some(place) = table.insert(&next)
            && place == at
        {
            let bucket = &table.buckets[at.0];
            assert_eq!(bucket.address(at.1), one.address);
        } else if !table.contains(&next) {
            return;
        }
        // Another address never takes the place.
        let mut copy = table.clone();
        copy.remove(&next);
        assert_ne!(copy.insert(&other), Some(at));
    }
}

#[test]
fn what_another_has_written_is_a_table_or_not() {
    let keys = [key("192.0.2.1", 128, 443), key("10.0.0.0", 104, 0)];
    let mut table = Table::<Bucket4>::new(&keys).unwrap();
    table.remove(&keys[0]);
    let again = Table::of_buckets(table.buckets().to_vec()).unwrap();
    assert_eq!((again.len(), again.used), (1, 2));
    assert!(again.contains(&keys[1]) && !again.contains(&keys[0]));

    let mut other = table.buckets().to_vec();
    other[0].words_mut()[0] = 1;
    assert!(
        Table::of_buckets(other).is_none(),
        "its shift is not its own"
    );
    let short = table.buckets()[1..].to_vec();
    assert!(Table::of_buckets(short).is_none(), "it is too short");
    assert!(Table::<Bucket4>::of_buckets(Vec::new()).is_none());
}

fn keys4() -> impl Strategy<Value = Key> {
    // Few of everything, so that much coincides.
    let parts = (0..4_u8, 96..=128_u8, 0..3_u16, 0..2_u8);
    parts.prop_map(|(last, bits, port, protocol)| Key {
        address: Address::v4([192, 0, 2, last]).first_of(bits),
        bits,
        protocol,
        port,
    })
}

fn keys6() -> impl Strategy<Value = Key> {
    let parts = (0..4_u32, 0..=128_u8, 0..3_u16, 0..2_u8);
    parts.prop_map(|(last, bits, port, protocol)| Key {
        address: Address::from_words([0xb80d_0120, 0, 0, last.to_be()]).first_of(bits),
        bits,
        protocol,
        port,
    })
}

/// Adds and removes, and searches as programs do; a set does the same by looking at all.
fn behaves<B: Bucket>(steps: &[(bool, Key)], to: &[(Address, u8, u16)]) {
    let mut table = Table::<B>::new(&[]).unwrap();
    let mut naive = BTreeSet::new();
    for (is_added, key) in steps {
        if *is_added && naive.insert(*key) {
            table.announce(&[*key]);
            if table.insert(key).is_none() {
                let all: Vec<Key> = naive.iter().copied().collect();
                table = Table::new(&all).unwrap();
            }
        } else if !*is_added && naive.remove(key) {
            assert!(table.remove(key).is_some());
        }
        assert_eq!(table.len(), naive.len());
    }
    assert_eq!(table.keys().collect::<BTreeSet<_>>(), naive);
    for (to, protocol, port) in to {
        let wanted = naive.iter().any(|key| {
            key.protocol == *protocol
                && (key.port == 0 || key.port == *port)
                && to.first_of(key.bits) == key.address
        });
        assert_eq!(names(&table, to, *protocol, *port), wanted, "{to:?} {port}");
    }
}

proptest! {
    #[test]
    fn searches_find_what_is_there_and_nothing_else_of_ipv4(
        steps in prop::collection::vec((any::<bool>(), keys4()), 0..200),
        to in prop::collection::vec(keys4(), 20),
    ) {
        let to: Vec<_> = to.iter().map(|key| (key.address, key.protocol, key.port)).collect();
        behaves::<Bucket4>(&steps, &to);
    }

    #[test]
    fn searches_find_what_is_there_and_nothing_else_of_ipv6(
        steps in prop::collection::vec((any::<bool>(), keys6()), 0..200),
        to in prop::collection::vec(keys6(), 20),
    ) {
        let to: Vec<_> = to.iter().map(|key| (key.address, key.protocol, key.port)).collect();
        behaves::<Bucket6>(&steps, &to);
    }
}
