//! Host names in the one form that is matched, logged and dialled, and patterns over them.

use std::{borrow::Borrow, fmt, net::Ipv4Addr, net::Ipv6Addr, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes in a label (RFC 1035 section 2.3.4).
const LABEL_MAX: usize = 63;
/// Characters in a name without its trailing dot: 255 bytes on the wire less the first length
/// and the root (RFC 1035 section 2.3.4).
const NAME_MAX: usize = 253;

/// A DNS host name: lower-case A-labels joined by single dots, no trailing dot, never an IP
/// address. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(Arc<str>);

/// Why bytes are not a host name. Each variant has a stable name, see [`HostNameError::reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HostNameError {
    /// Nothing, or a lone dot.
    #[error("the host name is empty")]
    Empty,
    /// A NUL byte.
    #[error("the host name holds a NUL byte")]
    Nul,
    /// A percent sign: URL escapes and zone ids are no part of a host name.
    #[error("the host name holds a percent sign")]
    Percent,
    /// White space.
    #[error("the host name holds white space")]
    Space,
    /// A square bracket.
    #[error("the host name holds a bracket")]
    Bracket,
    /// A colon: a port belongs beside the name.
    #[error("the host name holds a colon; a port is written separately")]
    Port,
    /// Two dots in a row, or a dot at the front.
    #[error("the host name has an empty label")]
    EmptyLabel,
    /// A label of more than 63 bytes.
    #[error("a label of the host name is longer than 63 bytes")]
    LongLabel,
    /// More than 253 characters.
    #[error("the host name is longer than 253 characters")]
    LongName,
    /// Bytes outside ASCII: on the wire names are A-labels.
    #[error("the host name is not ASCII; on the wire it must be in A-label (xn--) form")]
    NotAscii,
    /// An IP address, in any notation that a resolver would take for one.
    #[error("an IP address is no host name")]
    IpLiteral,
    /// Any other character that no host name has.
    #[error("the host name holds a character that none may have")]
    Character,
}

impl HostNameError {
    /// The stable name in records and counters.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Empty => "name_empty",
            Self::Nul => "name_nul",
            Self::Percent => "name_percent",
            Self::Space => "name_space",
            Self::Bracket => "name_bracket",
            Self::Port => "name_port",
            Self::EmptyLabel => "name_empty_label",
            Self::LongLabel => "name_long_label",
            Self::LongName => "name_too_long",
            Self::NotAscii => "name_not_ascii",
            Self::IpLiteral => "name_ip_literal",
            Self::Character => "name_character",
        }
    }
}

impl HostName {
    /// From the bytes of a server name or of a DNS question. Upper case is lowered and one
    /// trailing dot removed; everything else that is not a plain host name is an error.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, HostNameError> {
        for &byte in bytes {
            check_byte(byte, bytes)?;
        }
        let text = std::str::from_utf8(bytes).map_err(|_utf8| HostNameError::NotAscii)?;
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(HostNameError::Empty);
        }
        if text.len() > NAME_MAX {
            return Err(HostNameError::LongName);
        }
        for label in text.split('.') {
            if label.is_empty() {
                return Err(HostNameError::EmptyLabel);
            }
            if label.len() > LABEL_MAX {
                return Err(HostNameError::LongLabel);
            }
        }
        if ends_in_number(text) {
            return Err(HostNameError::IpLiteral);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// From text that a person wrote: as [`HostName::from_wire`], with U-labels converted
    /// (UTS 46, as in idna).
    ///
    /// # Errors
    /// As [`HostName::from_wire`]; text that has no A-label form is [`HostNameError::Character`].
    pub fn from_text(text: &str) -> Result<Self, HostNameError> {
        if text.is_ascii() {
            return Self::from_wire(text.as_bytes());
        }
        let ascii = idna::domain_to_ascii(text).map_err(|_uts46| HostNameError::Character)?;
        Self::from_wire(ascii.as_bytes())
    }

    /// The name, canonical.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Every proper suffix at a label boundary, longest first: `b.c`, `c` for `a.b.c`.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('.').map(|(dot, _)| &self.0[dot + 1..])
    }

    /// Whether this is `localhost` or below it (RFC 6761 section 6.3).
    pub fn is_localhost(&self) -> bool {
        &*self.0 == "localhost" || self.0.ends_with(".localhost")
    }
}

fn check_byte(byte: u8, all: &[u8]) -> Result<(), HostNameError> {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => Ok(()),
        0 => Err(HostNameError::Nul),
        b'%' => Err(HostNameError::Percent),
        b' ' | b'\t' | b'\r' | b'\n' => Err(HostNameError::Space),
        b'[' | b']' if is_ipv6(all) => Err(HostNameError::IpLiteral),
        b'[' | b']' => Err(HostNameError::Bracket),
        b':' if is_ipv6(all) => Err(HostNameError::IpLiteral),
        b':' => Err(HostNameError::Port),
        0x80.. => Err(HostNameError::NotAscii),
        _ => Err(HostNameError::Character),
    }
}

fn is_ipv6(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| {
        let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        inner.unwrap_or(text).parse::<Ipv6Addr>().is_ok()
    })
}

/// Whether the last label is a number: then resolvers and URL parsers read the whole as an IPv4
/// address, in dotted, octal, hexadecimal or short form (WHATWG URL, "ends in a number").
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex = last
        .strip_prefix("0x")
        .or_else(|| last.strip_prefix("0X"))
        .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    hex || last.bytes().all(|b| b.is_ascii_digit()) || name.parse::<Ipv4Addr>().is_ok()
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for HostName {
    type Error = HostNameError;
    fn try_from(text: String) -> Result<Self, HostNameError> {
        Self::from_text(&text)
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.as_str().to_owned()
    }
}

/// What a policy says about names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostPattern {
    /// This name and no other.
    Exact(HostName),
    /// `*.` before this name: one or more whole labels before it, never the name itself.
    Subdomains(HostName),
}

/// Why text is no host pattern; the message says what to write.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HostPatternError {
    /// `*` alone.
    #[error(
        "\"*\" would allow every host; write the hosts, or \"*.\" before a name such as \"*.example.com\""
    )]
    Everything,
    /// `a*.b`, `a.*.b`.
    #[error(
        "{0:?}: \"*\" may only be the whole first label; write the hosts one by one, or \"*.\" before a name such as \"*.example.com\""
    )]
    Wildcard(String),
    /// `*.com`, `*.co.uk`, `*.github.io`.
    #[error(
        "{pattern:?}: anyone can register a name below the public suffix {suffix:?}; write a name below it, such as \"*.example.{suffix}\""
    )]
    PublicSuffix {
        /// What was written.
        pattern: String,
        /// The suffix.
        suffix: String,
    },
    /// An IP address.
    #[error(
        "{0:?} is an IP address; write it under \"cidrs\" (or --allow-cidr), or write the host's name"
    )]
    Address(String),
    /// A URL or a port.
    #[error(
        "{0:?}: write the host name alone; a port goes under \"ports\", and a scheme or path is not written"
    )]
    Url(String),
    /// Anything else.
    #[error("{text:?}: {error}; write a DNS name such as \"api.example.com\"")]
    Name {
        /// What was written.
        text: String,
        /// What is wrong with it.
        error: HostNameError,
    },
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        if text == "*" || text == "*." {
            return Err(HostPatternError::Everything);
        }
        let rest = text.strip_prefix("*.");
        let name = rest.unwrap_or(text);
        if name.contains('*') {
            return Err(HostPatternError::Wildcard(text.to_owned()));
        }
        if name.contains('/') {
            return Err(HostPatternError::Url(text.to_owned()));
        }
        let name = HostName::from_text(name).map_err(|error| named(text, error))?;
        if rest.is_none() {
            return Ok(Self::Exact(name));
        }
        match public_suffix(&name) {
            Some(suffix) => Err(HostPatternError::PublicSuffix {
                pattern: text.to_owned(),
                suffix,
            }),
            None => Ok(Self::Subdomains(name)),
        }
    }
}

fn named(text: &str, error: HostNameError) -> HostPatternError {
    match error {
        HostNameError::IpLiteral => HostPatternError::Address(text.to_owned()),
        HostNameError::Port => HostPatternError::Url(text.to_owned()),
        HostNameError::Empty
        | HostNameError::Nul
        | HostNameError::Percent
        | HostNameError::Space
        | HostNameError::Bracket
        | HostNameError::EmptyLabel
        | HostNameError::LongLabel
        | HostNameError::LongName
        | HostNameError::NotAscii
        | HostNameError::Character => HostPatternError::Name {
            text: text.to_owned(),
            error,
        },
    }
}

/// The name itself where it is a public suffix (publicsuffix.org, private section included:
/// what hangs below those belongs to strangers too).
fn public_suffix(name: &HostName) -> Option<String> {
    let suffix = psl::suffix_str(name.as_str())?;
    (suffix == name.as_str()).then(|| suffix.to_owned())
}

impl HostPattern {
    /// Whether the pattern covers this name.
    pub fn matches(&self, name: &HostName) -> bool {
        match self {
            Self::Exact(host) => host == name,
            Self::Subdomains(base) => name
                .as_str()
                .strip_suffix(base.as_str())
                .is_some_and(|front| front.len() > 1 && front.ends_with('.')),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Subdomains(name) => write!(f, "*.{name}"),
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = HostPatternError;
    fn try_from(text: String) -> Result<Self, HostPatternError> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
#[path = "host/tests.rs"]
mod tests;
