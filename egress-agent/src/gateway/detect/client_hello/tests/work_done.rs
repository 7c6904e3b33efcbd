//! The work is linear in the bytes that arrive, however they do.

use super::*;

/// A hello of as many bytes as are taken.
fn longest() -> Vec<u8> {
    let name = names(&[(0, b"a.test")]);
    let rest = HELLO_MAX - (message(Some(&name)).len() - MESSAGE_HEADER) - MESSAGE_HEADER;
    // An extension's length has two bytes, and so has that of all.
    let filler = extension(0x0a0a, &vec![0; rest.min(0xffff - name.len() - 4)]);
    message(Some(&[filler, name].concat()))
}

/// What is looked at beside what is in the fields: the headers.
const HEADERS: usize = RECORD_HEADER + MESSAGE_HEADER;

#[test]
fn one_byte_at_a_time_is_linear_work() {
    let message = longest();
    assert!(message.len() > 65_000, "{}", message.len());
    for size in [1, 5, 100, 1_000, RECORD_MAX] {
        let bytes = records(&message, size);
        for step in [1, 7, 1_448] {
            let (mut detector, mut looked) = (Detector::default(), 0);
            work::take();
            for (read, end) in (0..bytes.len()).step_by(step).enumerate() {
                assert_eq!(detector.advance(&bytes[..end]), Detected::NeedMore, "{end}");
                looked += work::take();
                // Each byte once, with its record, and headers once a record and once a read.
                let most = end + HEADERS * (end / size + read + 2);
                assert!(looked <= most, "{size}, {step}: {looked} of {most}");
            }
            assert_eq!(name_of(&detector.advance(&bytes)), Some("a.test"));
            // The fields, once more for what they contain.
            let rest = work::take();
            let most = RECORD_MAX + 4 * message.len() + HEADERS * (step + 2);
            assert!(rest <= most, "{size}, {step}: {rest} of {most}");
        }
    }
}

/// The same for lists of as many entries as there can be.
#[test]
fn the_work_on_long_lists_is_linear() {
    let numbers: Vec<u8> = (0..15_000_u16).flat_map(u16::to_be_bytes).collect();
    let number_list = [&30_000_u16.to_be_bytes()[..], &numbers].concat();
    let protocols = [&[0xea, 0x60][..], &[1, b'x'].repeat(30_000)].concat();
    let empty = (100..16_000)
        .flat_map(|kind| extension(kind, b""))
        .collect();
    let lists = [
        extension(13, &number_list),
        extension(16, &protocols),
        empty,
    ];
    for extensions in lists {
        let bytes = hello(&extensions);
        work::take();
        assert!(matches!(detect(&bytes), Detected::TlsWithoutName(_)));
        let looked = work::take();
        assert!(looked <= 8 * bytes.len(), "{looked} of {}", bytes.len());
    }
}
