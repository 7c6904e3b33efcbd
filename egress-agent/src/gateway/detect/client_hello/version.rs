//! Versions of TLS.

use std::fmt;

/// A version as in a hello, two bytes, big-endian (RFC 8446 section 4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TlsVersion(pub u16);

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0x0304 => f.write_str("1.3"),
            0x0303 => f.write_str("1.2"),
            0x0302 => f.write_str("1.1"),
            0x0301 => f.write_str("1.0"),
            0x0300 => f.write_str("ssl3"),
            other => write!(f, "{other:#06x}"),
        }
    }
}

/// Whether a version, suite, extension or signature algorithm stands for nothing (RFC 8701
/// section 2): 0x0a0a, 0x1a1a, …, 0xfafa.
pub(super) const fn is_grease(value: u16) -> bool {
    value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff
}
