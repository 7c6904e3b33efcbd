//! Which prefix lengths are looked for in a set.

use std::{cmp::Reverse, collections::BTreeMap};

use egress_common::{
    address::Address,
    maps::{Prefix, Prefixes},
};

use crate::enforcer::direct::{DirectEntry, bits};

/// With the prefix lengths of these entries, those of most entries first; what is known stays where
/// it is.
pub(super) fn extended(known: &Prefixes, entries: &[DirectEntry]) -> Prefixes {
    let (mut v4, mut v6) = (Counts::new(), Counts::new());
    for entry in entries {
        let address = Address::from(entry.network.network());
        let bits = bits(&entry.network);
        let counts = match address.is_v4() && bits >= 96 {
            true => &mut v4,
            false => &mut v6,
        };
        *counts.entry((bits, entry.port == 0)).or_default() += 1;
    }
    let mut prefixes = *known;
    extend(&mut prefixes.v4, v4);
    extend(&mut prefixes.v6, v6);
    prefixes
}

/// How many entries there are of a prefix length, for single ports or for every port.
type Counts = BTreeMap<(u8, bool), usize>;

fn extend(list: &mut [Prefix], counts: Counts) {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| Reverse(*count));
    for ((bits, is_every_port), _) in counts {
        let prefix = Prefix {
            bits_and_one: bits + 1,
            reserved: 0,
            port_mask: if is_every_port { 0 } else { u16::MAX },
        };
        // There is a place for each.
        let place = list
            .iter_mut()
            .find(|it| **it == prefix || **it == Prefix::END);
        if let Some(place) = place {
            *place = prefix;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(networks: &[(&str, u16)]) -> Vec<DirectEntry> {
        let networks = networks.iter();
        let entries = networks.map(|(network, port)| DirectEntry {
            network: network.parse().unwrap(),
            protocol: 6,
            port: *port,
        });
        entries.collect()
    }

    /// Prefix lengths, and whether for every port.
    fn lists(prefixes: &Prefixes) -> [Vec<(u8, bool)>; 2] {
        let list = |all: &[Prefix]| {
            let all = all.iter().take_while(|prefix| **prefix != Prefix::END);
            all.map(|prefix| (prefix.bits_and_one - 1, prefix.port_mask == 0))
                .collect()
        };
        [list(&prefixes.v4), list(&prefixes.v6)]
    }

    #[test]
    fn prefix_lengths_of_most_entries_are_looked_for_first() {
        let found = extended(
            &Prefixes::NONE,
            &entries(&[
                ("10.0.0.0/8", 443),
                ("192.0.2.1/32", 443),
                ("192.0.2.2/32", 443),
                ("192.0.2.2/32", 0),
                ("2001:db8::/32", 0),
                ("::/0", 53),
            ]),
        );
        assert_eq!(
            lists(&found),
            [
                vec![(128, false), (104, false), (128, true)],
                vec![(0, false), (32, true)]
            ]
        );
    }

    #[test]
    fn prefix_lengths_that_are_looked_for_stay_where_they_are() {
        let first = extended(&Prefixes::NONE, &entries(&[("10.0.0.0/8", 443)]));
        let more = entries(&[("192.0.2.1/32", 0), ("192.0.2.2/32", 0), ("10.0.0.0/8", 0)]);
        assert_eq!(
            lists(&extended(&first, &more))[0],
            [(104, false), (128, true), (104, true)]
        );
        assert_eq!(lists(&extended(&first, &[])), lists(&first));
    }

    #[test]
    fn there_is_a_place_for_every_prefix_length() {
        let v4 = (0..=32).map(|bits| format!("0.0.0.0/{bits}"));
        let v6 = (0..=128).map(|bits| format!("::/{bits}"));
        let all: Vec<String> = v4.chain(v6).collect();
        let all = all.iter().flat_map(|it| [(it.as_str(), 1), (it, 0)]);
        let all: Vec<(&str, u16)> = all.collect();
        let [v4, v6] = lists(&extended(&Prefixes::NONE, &entries(&all)));
        assert_eq!((v4.len(), v6.len()), (66, 258));
    }
}
