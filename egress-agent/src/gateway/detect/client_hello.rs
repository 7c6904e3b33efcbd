//! The server name of a TLS ClientHello, from however many segments and records (RFC 8446
//! sections 4.1.2 and 5.1, RFC 6066 section 3). Pure and incremental; every byte is looked at a
//! constant number of times.

use crate::policy::host::{HostName, HostNameError};

/// Bytes of a hello, its four-byte header aside. A browser's with post-quantum key shares has
/// some 1,800; the format allows 16 MiB.
pub const HELLO_MAX: usize = 64 << 10;
/// Bytes in a plaintext record (RFC 8446 section 5.1).
const RECORD_MAX: usize = 1 << 14;

const RECORD_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
/// RFC 9849 section 4; GREASE uses the same number.
const EXTENSION_ECH: u16 = 0xfe0d;

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detected {
    /// No telling yet.
    NeedMore,
    /// A hello that names its server.
    Tls(ClientHello),
    /// A well-formed hello without a server name.
    TlsWithoutName,
    /// A hello whose server name is no host name.
    BadName(HostNameError),
    /// TLS by its first two bytes, and then not.
    Malformed(Malformed),
    /// An SSLv2 hello.
    Sslv2,
    /// Not TLS.
    NotTls,
}

/// What a hello says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name, canonical.
    pub server_name: HostName,
    /// Whether it carries Encrypted Client Hello, GREASE included.
    pub ech: bool,
    /// The application protocols, in order; what is not UTF-8 is replaced.
    pub alpn: Vec<String>,
}

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
    /// `prefix` is all that was received since the beginning, and starts with what it was
    /// before. After anything but `NeedMore` the answer is final.
    pub fn advance(&mut self, prefix: &[u8]) -> Detected {
        if self.at == 0 {
            match first_bytes(prefix) {
                Some(detected) => return detected,
                None if prefix.len() < 2 => return Detected::NeedMore,
                None => {}
            }
        }
        loop {
            match self.next_record(prefix) {
                Ok(true) => {}
                Ok(false) => return Detected::NeedMore,
                Err(malformed) => return Detected::Malformed(malformed),
            }
            match self.hello() {
                Ok(None) => {}
                Ok(Some(hello)) => return parse_hello(hello),
                Err(malformed) => return Detected::Malformed(malformed),
            }
        }
    }

    /// Takes one record if it is there as a whole.
    fn next_record(&mut self, prefix: &[u8]) -> Result<bool, Malformed> {
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
        self.message.extend_from_slice(content);
        self.at += 5 + length;
        Ok(true)
    }

    /// The body of the hello, once it is complete.
    fn hello(&self) -> Result<Option<&[u8]>, Malformed> {
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

/// What the first bytes decide by themselves.
fn first_bytes(prefix: &[u8]) -> Option<Detected> {
    match *prefix {
        [] | [RECORD_HANDSHAKE] | [RECORD_HANDSHAKE, 3, ..] => None,
        // RFC 2246 appendix E: a two-byte header with the high bit, CLIENT-HELLO, and version
        // 3.x or 0.2.
        [0x80..=0xff, _, 1, 3, ..] | [0x80..=0xff, _, 1, 0, 2, ..] => Some(Detected::Sslv2),
        [0x80..=0xff] | [0x80..=0xff, _] | [0x80..=0xff, _, 1] | [0x80..=0xff, _, 1, 0] => {
            Some(Detected::NeedMore)
        }
        [..] => Some(Detected::NotTls),
    }
}

/// Reads fields; every length is checked against what is left.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.bytes(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        let bytes = self.bytes(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn short(&mut self) -> Result<Self, Malformed> {
        let length = self.u8()?;
        self.bytes(length.into()).map(Reader)
    }

    fn long(&mut self) -> Result<Self, Malformed> {
        let length = self.u16()?;
        self.bytes(length.into()).map(Reader)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn end(&self) -> Result<(), Malformed> {
        match self.is_empty() {
            true => Ok(()),
            false => Err(Malformed::TrailingBytes),
        }
    }
}

fn parse_hello(body: &[u8]) -> Detected {
    let fields = match parse_fields(body) {
        Ok(fields) => fields,
        Err(malformed) => return Detected::Malformed(malformed),
    };
    let Some(name) = fields.server_name else {
        return Detected::TlsWithoutName;
    };
    match HostName::from_wire(name) {
        Ok(server_name) => Detected::Tls(ClientHello {
            server_name,
            ech: fields.ech,
            alpn: fields.alpn,
        }),
        Err(error) => Detected::BadName(error),
    }
}

#[derive(Default)]
struct Fields<'a> {
    server_name: Option<&'a [u8]>,
    ech: bool,
    alpn: Vec<String>,
}

fn parse_fields(body: &[u8]) -> Result<Fields<'_>, Malformed> {
    let mut reader = Reader(body);
    reader.bytes(2 + 32)?;
    if reader.short()?.0.len() > 32 {
        return Err(Malformed::Length);
    }
    let suites = reader.long()?.0.len();
    if suites == 0 || !suites.is_multiple_of(2) || reader.short()?.is_empty() {
        return Err(Malformed::Length);
    }
    let mut fields = Fields::default();
    if reader.is_empty() {
        return Ok(fields);
    }
    let mut extensions = reader.long()?;
    reader.end()?;
    let mut seen = Vec::new();
    while !extensions.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.long()?;
        seen.push(kind);
        match kind {
            // The duplicate is reported below; what counts here is that it is never used.
            EXTENSION_SERVER_NAME if fields.server_name.is_none() => {
                fields.server_name = Some(server_name(content)?);
            }
            EXTENSION_ECH => fields.ech = true,
            EXTENSION_ALPN => fields.alpn = alpn(content)?,
            _ => {}
        }
    }
    seen.sort_unstable();
    match seen.windows(2).any(|pair| pair[0] == pair[1]) {
        true => Err(Malformed::DuplicateExtension),
        false => Ok(fields),
    }
}

/// RFC 6066 section 3: at most one name of each type, and host name is the only type.
fn server_name(mut content: Reader<'_>) -> Result<&[u8], Malformed> {
    let mut list = content.long()?;
    content.end()?;
    let mut found = None;
    while !list.is_empty() {
        let kind = list.u8()?;
        let name = list.long()?;
        if kind != 0 {
            return Err(Malformed::NameType);
        }
        if found.replace(name.0).is_some() {
            return Err(Malformed::SeveralNames);
        }
    }
    found.ok_or(Malformed::Length)
}

fn alpn(mut content: Reader<'_>) -> Result<Vec<String>, Malformed> {
    let mut list = content.long()?;
    content.end()?;
    let mut protocols = Vec::new();
    while !list.is_empty() {
        let protocol = list.short()?;
        // A record shows a handful; a hello may hold thousands.
        if protocols.len() < 8 {
            protocols.push(String::from_utf8_lossy(protocol.0).into_owned());
        }
    }
    Ok(protocols)
}

#[cfg(test)]
#[allow(clippy::wildcard_enum_match_arm, reason = "a test wants one variant")]
mod tests;
