//! What is done to bytes.

use super::super::choices::Choices;

/// Flips, overwrites, cuts, lengthens, drops, repeats or splices.
pub(super) fn mutate(from: &mut Choices<'_>, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = from.below(bytes.len().max(1)).min(bytes.len());
    match from.below(8) {
        0 => flip(bytes, at, from.below(8)),
        1 => {
            let byte = from.pick(&[0, 1, 0x7f, 0x80, 0xff, 6, 17, 58, 44]);
            overwrite(bytes, at, &[byte]);
        }
        2 => overwrite(bytes, at, &from.array::<4>()),
        3 => bytes.truncate(at),
        4 => {
            let length = from.below(1_500);
            bytes.resize(bytes.len() + length, 0);
        }
        5 => {
            let end = bytes.len().min(at + 1 + from.below(20));
            bytes.drain(at..end);
        }
        6 => {
            let repeated = bytes[at..bytes.len().min(at + 8)].to_vec();
            bytes.splice(at..at, repeated);
        }
        _ => {
            let skipped = from.below(other.len().max(1));
            bytes.truncate(at);
            bytes.extend(other.iter().skip(skipped));
        }
    }
}

fn flip(bytes: &mut [u8], at: usize, bit: usize) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << bit;
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (byte, new) in bytes.iter_mut().skip(at).zip(with) {
        *byte = *new;
    }
}
