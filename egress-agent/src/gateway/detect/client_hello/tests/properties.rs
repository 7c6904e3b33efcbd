//! Whatever a hello says, in whatever records and reads it comes.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

/// Extensions that are read, and others.
fn extension_of_any_kind() -> impl Strategy<Value = Vec<u8>> {
    let kinds = select(vec![0, 10, 13, 16, 21, 43, 0x0a0a, 0xfe0d]);
    (kinds, vec(any::<u8>(), 0..40)).prop_map(|(kind, content)| extension(kind, &content))
}

fn name_of_any_kind() -> impl Strategy<Value = Vec<u8>> {
    let name = "[a-zA-Z0-9.%:-]{0,20}(test|192\\.0\\.2\\.1)[.]?";
    name.prop_map(|name| names(&[(0, name.as_bytes())]))
}

/// A message: of a real client, or made up, good or bad.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let real: Vec<_> = captured::hellos()
        .map(|(capture, _)| one_record(&capture.bytes))
        .collect();
    let made_up = (name_of_any_kind(), vec(extension_of_any_kind(), 0..8));
    let made_up =
        made_up.prop_map(|(name, others)| message(Some(&[name, others.concat()].concat())));
    prop_oneof![select(real), made_up]
}

/// In records of these sizes, again and again.
fn in_records(mut message: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for size in sizes.iter().cycle() {
        let (part, rest) = message.split_at(message.len().min(*size));
        bytes.extend(records(part, RECORD_MAX));
        message = rest;
        if message.is_empty() {
            break;
        }
    }
    bytes
}

proptest! {
    #[test]
    fn segments_and_records_change_nothing(
        message in messages(),
        sizes in vec(1..600_usize, 1..5),
        reads in vec(1..2_000_usize, 1..5),
    ) {
        let whole = detect(&records(&message, RECORD_MAX));
        let bytes = in_records(&message, &sizes);
        let mut detector = Detector::default();
        let (mut end, mut count) = (0, 0);
        work::take();
        for read in reads.iter().cycle() {
            end = bytes.len().min(end + read);
            count += 1;
            let detected = detector.advance(&bytes[..end]);
            if end == bytes.len() {
                prop_assert_eq!(detected, whole);
                break;
            }
            prop_assert_eq!(detected, Detected::NeedMore, "{}", end);
        }
        let least = sizes.iter().min().expect("there is one");
        let most = 6 * message.len() + 9 * (message.len() / least + count + 2);
        let looked = work::take();
        prop_assert!(looked <= most, "{} of {}", looked, most);
    }
}
