//! The JA4 fingerprint of a ClientHello, as FoxIO's `technical_details/JA4.md` defines it: who
//! sends the same hello has the same fingerprint, whatever order its extensions come in and
//! whatever name it asks for.

use sha2::{Digest as _, Sha256};

use super::{
    fields::{EXTENSION_ALPN, EXTENSION_SERVER_NAME, Fields},
    version::is_grease,
};

/// A count is told in two digits.
const COUNT_MAX: usize = 99;
/// Hexadecimal digits of a hash.
const HASH: usize = 12;

/// `t13d1516h2_8daaf6152771_e5627efa2ab1`.
pub(super) fn fingerprint(hello: &Fields<'_>) -> String {
    let mut suites = without_grease(&hello.suites);
    // Of at most 2^15.
    suites.sort_unstable();
    let extensions = without_grease(&hello.extensions);
    let destination = match hello.server_name {
        Some(_) => 'd',
        None => 'i',
    };
    let [suites_count, extensions_count] = [&suites, &extensions].map(|l| l.len().min(COUNT_MAX));
    let [first, last] = alpn(hello.alpn.first().copied().unwrap_or_default());
    format!(
        "t{}{destination}{suites_count:02}{extensions_count:02}{first}{last}_{}_{}",
        version(hello),
        hash(&suites, &[]),
        extensions_hash(extensions, &hello.signature_algorithms),
    )
}

fn without_grease(values: &[u16]) -> Vec<u16> {
    let real = values.iter().copied();
    real.filter(|&value| !is_grease(value)).collect()
}

/// The highest that is offered.
fn version(hello: &Fields<'_>) -> &'static str {
    match hello.versions().max().map(|version| version.0) {
        Some(0x0304) => "13",
        Some(0x0303) => "12",
        Some(0x0302) => "11",
        Some(0x0301) => "10",
        Some(0x0300) => "s3",
        Some(0x0002) => "s2",
        Some(0xfeff) => "d1",
        Some(0xfefd) => "d2",
        Some(0xfefc) => "d3",
        Some(_) | None => "00",
    }
}

/// The first and the last character of the first protocol; where one of them is neither letter
/// nor digit, the first and the last of its hexadecimal digits. So says the definition; not every
/// implementation does it.
fn alpn(protocol: &[u8]) -> [char; 2] {
    let (Some(&first), Some(&last)) = (protocol.first(), protocol.last()) else {
        return ['0', '0'];
    };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return [first.into(), last.into()];
    }
    [first >> 4, last & 0xf].map(|digit| hex_digit(digit).into())
}

fn extensions_hash(mut extensions: Vec<u16>, signature_algorithms: &[u16]) -> String {
    // The first part tells of them.
    extensions.retain(|&kind| kind != EXTENSION_SERVER_NAME && kind != EXTENSION_ALPN);
    hash(&extensions, &without_grease(signature_algorithms))
}

/// Of the values, with commas between them, and then an underscore and the others, if any.
fn hash(values: &[u16], others: &[u16]) -> String {
    if values.is_empty() {
        return "0".repeat(HASH);
    }
    let mut state = Sha256::new();
    add(&mut state, values);
    if !others.is_empty() {
        state.update("_");
        add(&mut state, others);
    }
    let digits = state.finalize().into_iter().flat_map(hex_digits);
    digits.take(HASH).map(char::from).collect()
}

fn add(state: &mut Sha256, values: &[u16]) {
    for (number, value) in values.iter().enumerate() {
        if number > 0 {
            state.update(",");
        }
        for byte in value.to_be_bytes() {
            state.update(hex_digits(byte));
        }
    }
}

fn hex_digits(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 0xf].map(hex_digit)
}

const fn hex_digit(digit: u8) -> u8 {
    b"0123456789abcdef"[digit as usize]
}

#[cfg(test)]
#[path = "ja4/tests.rs"]
mod tests;
