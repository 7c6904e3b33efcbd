//! How the bytes of a connection arrive.

use crate::detect::detector::{Detected, Detector};

/// The first two bytes say in which reads the others come.
const HEAD: usize = 2;

/// The bytes of a connection and what they are, whichever way they arrive.
///
/// # Panics
/// Where it matters how they arrive.
pub(crate) fn detect(data: &[u8]) -> Option<(&[u8], Detected)> {
    let (head, bytes) = data.split_first_chunk::<HEAD>()?;
    let whole = Detector::default().advance(bytes);
    let first = usize::from(u16::from_be_bytes(*head)) % (bytes.len() + 1);
    let size = 1 + usize::from(head[1]);
    let mut detector = Detector::default();
    let mut decided = detector.advance(&bytes[..first]);
    let mut end = first;
    while decided == Detected::NeedMore && end < bytes.len() {
        end = bytes.len().min(end + size);
        decided = detector.advance(&bytes[..end]);
    }
    assert_eq!(whole, decided, "first {first} bytes, then {size} at a time");
    Some((bytes, whole))
}
