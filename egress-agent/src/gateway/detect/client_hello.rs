//! A TLS ClientHello, from however many segments and records (RFC 8446 sections 4.1.2 and 5.1).
//! Pure and incremental; every byte is looked at a constant number of times.

use super::{detector::Detected, work};
use crate::policy::host::HostName;

mod fields;
mod ja4;
mod version;

pub use version::TlsVersion;

/// Bytes of a hello, its four-byte header aside. A browser's with post-quantum key shares has
/// some 1,800; the format allows 16 MiB.
pub const HELLO_MAX: usize = 64 << 10;
/// Bytes in front of a hello: its type, and its length in three bytes.
pub const MESSAGE_HEADER: usize = 4;
/// Bytes in a plaintext record (RFC 8446 section 5.1).
const RECORD_MAX: usize = 1 << 14;
/// Bytes in front of a record's: its type, a version that says nothing, its length in two bytes.
pub const RECORD_HEADER: usize = 5;

const RECORD_ALERT: u8 = 21;
const RECORD_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// What a hello says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name, canonical.
    pub server_name: HostName,
    /// Everything else.
    pub offer: Offer,
}

/// What a client offers. A hello may hold thousands of each: of lists there are the first
/// [`OFFER_MAX`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The TLS versions, in order, without GREASE.
    pub versions: Vec<TlsVersion>,
    /// The application protocols, in order; what is not UTF-8 is replaced.
    pub alpn: Vec<String>,
    /// Whether there is an Encrypted Client Hello, GREASE included.
    pub ech: bool,
    /// The JA4 fingerprint: 36 ASCII characters.
    pub ja4: String,
}

/// So many versions and protocols are told of.
pub const OFFER_MAX: usize = 8;

/// How a hello is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A handshake record without content.
    EmptyRecord,
    /// A record beyond 2^14 bytes.
    LongRecord,
    /// Another record within the hello.
    OtherRecord,
    /// The first handshake message is not a ClientHello.
    NotClientHello,
    /// The hello is beyond 64 KiB.
    LongHello,
    /// A length that leads beyond its container.
    Length,
    /// Bytes after the last field.
    TrailingBytes,
    /// An extension twice.
    DuplicateExtension,
    /// More than one server name.
    SeveralNames,
    /// A server name of another type than host name.
    NameType,
}

impl Malformed {
    /// The stable name in records.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::EmptyRecord => "hello_empty_record",
            Self::LongRecord => "hello_long_record",
            Self::OtherRecord => "hello_other_record",
            Self::NotClientHello => "hello_other_message",
            Self::LongHello => "hello_too_long",
            Self::Length => "hello_length",
            Self::TrailingBytes => "hello_trailing_bytes",
            Self::DuplicateExtension => "hello_duplicate_extension",
            Self::SeveralNames => "hello_several_names",
            Self::NameType => "hello_name_type",
        }
    }
}

/// Looks at a growing prefix of a connection.
#[derive(Debug, Default)]
pub struct Parser {
    /// Where the next record begins in the prefix.
    at: usize,
    /// The handshake bytes of the whole records so far.
    message: Vec<u8>,
}

impl Parser {
    /// As [`super::detector::Detector::advance`]; never HTTP.
    pub fn advance(&mut self, prefix: &[u8]) -> Detected {
        if self.at == 0
            && let Some(detected) = first_bytes(prefix)
        {
            return detected;
        }
        loop {
            match self.next_record(prefix) {
                Ok(true) => {}
                Ok(false) => return Detected::NeedMore,
                Err(malformed) => return Detected::Malformed(malformed),
            }
            match self.hello() {
                Ok(None) => {}
                Ok(Some(hello)) => return fields::read(hello),
                Err(malformed) => return Detected::Malformed(malformed),
            }
        }
    }

    /// Takes one record if it is there as a whole.
    fn next_record(&mut self, prefix: &[u8]) -> Result<bool, Malformed> {
        work::looked_at(RECORD_HEADER);
        let rest = prefix.get(self.at..).unwrap_or_default();
        if rest.first().is_some_and(|&kind| kind != RECORD_HANDSHAKE) {
            return Err(Malformed::OtherRecord);
        }
        let &[_, _, _, high, low, ref content @ ..] = rest else {
            return Ok(false);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 {
            return Err(Malformed::EmptyRecord);
        }
        if length > RECORD_MAX {
            return Err(Malformed::LongRecord);
        }
        let Some(content) = content.get(..length) else {
            return Ok(false);
        };
        work::looked_at(length);
        self.message.extend_from_slice(content);
        self.at += RECORD_HEADER + length;
        Ok(true)
    }

    /// The body of the hello, once it is complete.
    fn hello(&self) -> Result<Option<&[u8]>, Malformed> {
        work::looked_at(MESSAGE_HEADER);
        if self
            .message
            .first()
            .is_some_and(|&kind| kind != CLIENT_HELLO)
        {
            return Err(Malformed::NotClientHello);
        }
        let &[_, high, middle, low, ref body @ ..] = self.message.as_slice() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        if length > HELLO_MAX {
            return Err(Malformed::LongHello);
        }
        if body.len() > length {
            return Err(Malformed::TrailingBytes);
        }
        Ok((body.len() == length).then_some(body))
    }
}

/// What the first bytes decide by themselves; `None` where a record begins.
fn first_bytes(prefix: &[u8]) -> Option<Detected> {
    match *prefix {
        [RECORD_HANDSHAKE, 3, ..] => None,
        // There are servers that do not mind the version of a record, below 16, nor a warning in
        // front of the hello.
        [RECORD_HANDSHAKE, 0..=15, _, _, _, CLIENT_HELLO, ..] => None,
        [RECORD_ALERT, 0..=15, _, 0, 2, ..] => Some(Detected::Malformed(Malformed::OtherRecord)),
        []
        | [RECORD_HANDSHAKE | RECORD_ALERT]
        | [RECORD_HANDSHAKE | RECORD_ALERT, 0..=15]
        | [RECORD_HANDSHAKE | RECORD_ALERT, 0..=15, _]
        | [RECORD_HANDSHAKE, 0..=15, _, _]
        | [RECORD_HANDSHAKE, 0..=15, _, _, _]
        | [RECORD_ALERT, 0..=15, _, 0] => Some(Detected::NeedMore),
        // RFC 2246 appendix E: a two-byte header with the high bit, CLIENT-HELLO, and version
        // 3.x or 0.2.
        [0x80..=0xff, _, 1, 3, ..] | [0x80..=0xff, _, 1, 0, 2, ..] => Some(Detected::Sslv2),
        [0x80..=0xff] | [0x80..=0xff, _] | [0x80..=0xff, _, 1] | [0x80..=0xff, _, 1, 0] => {
            Some(Detected::NeedMore)
        }
        [..] => Some(Detected::Opaque),
    }
}

#[cfg(test)]
#[allow(clippy::wildcard_enum_match_arm, reason = "a test wants one variant")]
mod tests;
