//! The fields of a ClientHello (RFC 8446 section 4.1.2) and of the extensions that matter here.

use super::{
    super::{detector::Detected, work},
    ClientHello, Malformed, OFFER_MAX, Offer, TlsVersion, ja4,
    version::is_grease,
};
use crate::policy::host::HostName;

/// RFC 6066 section 3.
pub(super) const EXTENSION_SERVER_NAME: u16 = 0;
/// RFC 8446 section 4.2.3.
const EXTENSION_SIGNATURE_ALGORITHMS: u16 = 13;
/// RFC 7301 section 3.1.
pub(super) const EXTENSION_ALPN: u16 = 16;
/// RFC 8446 section 4.2.1.
const EXTENSION_SUPPORTED_VERSIONS: u16 = 43;
/// RFC 9849 section 5; GREASE uses the same number.
const EXTENSION_ECH: u16 = 0xfe0d;

/// Bytes of a random, and the most of a session id.
const RANDOM: usize = 32;
const SESSION_ID_MAX: usize = 32;

/// What there is in a hello, as it was sent.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub(super) legacy_version: u16,
    pub(super) suites: Vec<u16>,
    /// Sorted; each stands once.
    pub(super) extensions: Vec<u16>,
    pub(super) server_name: Option<&'a [u8]>,
    pub(super) alpn: Vec<&'a [u8]>,
    pub(super) supported_versions: Option<Vec<u16>>,
    pub(super) signature_algorithms: Vec<u16>,
    pub(super) ech: bool,
}

/// A whole hello, without its header.
pub(super) fn read(body: &[u8]) -> Detected {
    let fields = match parse(body) {
        Ok(fields) => fields,
        Err(malformed) => return Detected::Malformed(malformed),
    };
    let offer = fields.offer();
    match fields.server_name.map(HostName::from_wire) {
        None => Detected::TlsWithoutName(offer),
        Some(Ok(server_name)) => Detected::Tls(ClientHello { server_name, offer }),
        Some(Err(error)) => Detected::BadName(error, offer),
    }
}

impl Fields<'_> {
    fn offer(&self) -> Offer {
        let alpn = self.alpn.iter().take(OFFER_MAX);
        Offer {
            versions: self.versions().take(OFFER_MAX).collect(),
            alpn: alpn
                .map(|protocol| String::from_utf8_lossy(protocol).into_owned())
                .collect(),
            ech: self.ech,
            ja4: ja4::fingerprint(self),
        }
    }

    /// The versions that are offered, without GREASE.
    pub(super) fn versions(&self) -> impl Iterator<Item = TlsVersion> {
        let legacy = std::slice::from_ref(&self.legacy_version);
        let versions = self.supported_versions.as_deref().unwrap_or(legacy);
        let real = versions.iter().filter(|&&version| !is_grease(version));
        real.map(|&version| TlsVersion(version))
    }
}

fn parse(body: &[u8]) -> Result<Fields<'_>, Malformed> {
    let mut reader = Reader(body);
    let mut fields = Fields {
        legacy_version: reader.u16()?,
        ..Fields::default()
    };
    reader.bytes(RANDOM)?;
    if reader.short()?.0.len() > SESSION_ID_MAX {
        return Err(Malformed::Length);
    }
    fields.suites = reader.long()?.u16s()?;
    // At least one suite, and one way of compression, which is none.
    if fields.suites.is_empty() || reader.short()?.is_empty() {
        return Err(Malformed::Length);
    }
    // Before TLS 1.3 the extensions may be left out altogether.
    if !reader.is_empty() {
        let extensions = reader.long()?;
        reader.end()?;
        fields.parse_extensions(extensions)?;
    }
    Ok(fields)
}

impl<'a> Fields<'a> {
    fn parse_extensions(&mut self, mut extensions: Reader<'a>) -> Result<(), Malformed> {
        while !extensions.is_empty() {
            let kind = extensions.u16()?;
            let content = extensions.long()?;
            self.extensions.push(kind);
            self.parse_extension(kind, content)?;
        }
        // What a duplicate says has been read, but it is never used.
        self.extensions.sort_unstable();
        match self.extensions.windows(2).any(|pair| pair[0] == pair[1]) {
            true => Err(Malformed::DuplicateExtension),
            false => Ok(()),
        }
    }

    fn parse_extension(&mut self, kind: u16, mut content: Reader<'a>) -> Result<(), Malformed> {
        match kind {
            EXTENSION_SERVER_NAME => self.server_name = Some(server_name(content)?),
            EXTENSION_SIGNATURE_ALGORITHMS => {
                self.signature_algorithms = content.only_long()?.u16s()?;
            }
            EXTENSION_ALPN => self.alpn = protocols(content)?,
            EXTENSION_SUPPORTED_VERSIONS => {
                let list = content.short()?;
                content.end()?;
                self.supported_versions = Some(list.u16s()?);
            }
            EXTENSION_ECH => self.ech = true,
            _ => {}
        }
        Ok(())
    }
}

/// RFC 6066 section 3: at most one name of each type, and host name is the only type.
fn server_name(mut content: Reader<'_>) -> Result<&[u8], Malformed> {
    let mut list = content.only_long()?;
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

fn protocols(mut content: Reader<'_>) -> Result<Vec<&[u8]>, Malformed> {
    let mut list = content.only_long()?;
    let mut protocols = Vec::new();
    while !list.is_empty() {
        protocols.push(list.short()?.0);
    }
    Ok(protocols)
}

/// Reads fields; every length is checked against what is left.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed::Length)?;
        work::looked_at(count);
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

    /// A field with its length in one byte.
    fn short(&mut self) -> Result<Self, Malformed> {
        let length = self.u8()?;
        self.bytes(length.into()).map(Reader)
    }

    /// A field with its length in two bytes.
    fn long(&mut self) -> Result<Self, Malformed> {
        let length = self.u16()?;
        self.bytes(length.into()).map(Reader)
    }

    /// The same, and nothing behind it.
    fn only_long(&mut self) -> Result<Self, Malformed> {
        let field = self.long()?;
        self.end()?;
        Ok(field)
    }

    /// All that is left, as numbers of two bytes.
    fn u16s(mut self) -> Result<Vec<u16>, Malformed> {
        let mut numbers = Vec::with_capacity(self.0.len() / 2);
        while !self.is_empty() {
            numbers.push(self.u16()?);
        }
        Ok(numbers)
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
