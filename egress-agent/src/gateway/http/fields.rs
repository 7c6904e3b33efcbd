//! Field lines, strictly (RFC 9112 section 5).

use super::{bad::Bad, head::Lines};
use crate::policy::http::is_token;

/// Fields in a head, or in a trailer section.
pub const FIELDS_MAX: usize = 100;

/// Fields that are the connection's, and are not passed on (RFC 9110 section 7.6.1).
const OF_CONNECTION: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "te",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// Whether a field of this name, in lower case, stays behind; `nominated` is what `Connection`
/// lists.
pub fn is_of_connection(name: &str, nominated: &[&[u8]]) -> bool {
    let name_is = |it: &&[u8]| it.eq_ignore_ascii_case(name.as_bytes());
    OF_CONNECTION.contains(&name) || nominated.iter().any(name_is)
}

/// All fields of a head: names in lower case, values without the white space around them.
pub(super) struct Fields<'a>(Vec<(String, &'a [u8])>);

/// A field is there more than once.
pub(super) struct Several;

impl<'a> Fields<'a> {
    pub(super) fn parse(lines: Lines<'a>) -> Result<Self, Bad> {
        let mut fields = Vec::new();
        for line in lines {
            if fields.len() == FIELDS_MAX {
                return Err(Bad::ManyFields);
            }
            fields.push(field(line)?);
        }
        Ok(Self(fields))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(String, &'a [u8])> {
        self.0.iter()
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |it| it.0 == name).map(|it| it.1)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// The value of a field that may be there once.
    pub(super) fn only(&self, name: &str) -> Result<Option<&'a [u8]>, Several> {
        let mut all = self.all(name);
        match (all.next(), all.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(Several),
        }
    }

    /// The members of a comma-separated list, empty ones left out.
    pub(super) fn list(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.all(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|member| !member.is_empty())
    }
}

fn field(line: &[u8]) -> Result<(String, &[u8]), Bad> {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Err(Bad::Fold);
    }
    let colon = line.iter().position(|byte| *byte == b':');
    let (name, value) = line.split_at(colon.ok_or(Bad::FieldName)?);
    if name.ends_with(b" ") || name.ends_with(b"\t") {
        return Err(Bad::SpaceBeforeColon);
    }
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(Bad::FieldName);
    }
    let value = &value[1..];
    if !value
        .iter()
        .all(|byte| matches!(byte, b'\t' | b' '..=0x7e | 0x80..))
    {
        return Err(Bad::FieldValue);
    }
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    Ok((name, value.trim_ascii()))
}
