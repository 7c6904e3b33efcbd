//! Where a request's body ends (RFC 9112 sections 6 and 7), strictly, so that the next request
//! begins for everybody at the same byte.

use super::{
    bad::Bad,
    fields::{Fields, is_of_connection},
    head::{Lines, Version},
};

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// Methods whose requests have no body that a server would have to expect.
const BODILESS: [&str; 5] = ["GET", "HEAD", "OPTIONS", "TRACE", "DELETE"];

/// Whether servers may not expect a body in requests of this method.
pub fn is_bodiless(method: &str) -> bool {
    BODILESS.contains(&method)
}

impl Framing {
    pub(super) fn of(fields: &Fields<'_>, method: &str, version: Version) -> Result<Self, Bad> {
        let length = fields.only("content-length");
        if fields.has("transfer-encoding") {
            return match (length, fields.only("transfer-encoding")) {
                (Ok(Some(_)) | Err(_), _) => Err(Bad::LengthAndEncoding),
                (Ok(None), Ok(Some(value))) if value.eq_ignore_ascii_case(b"chunked") => {
                    chunked(method, version)
                }
                (Ok(None), Ok(_) | Err(_)) => Err(Bad::Encoding),
            };
        }
        match length {
            Ok(None) => Ok(Self::Empty),
            Ok(Some(value)) => match decimal(value)? {
                0 => Ok(Self::Empty),
                length => Ok(Self::Length(length)),
            },
            Err(_several) => Err(Bad::SeveralLengths),
        }
    }
}

fn chunked(method: &str, version: Version) -> Result<Framing, Bad> {
    match version {
        Version::Http10 => Err(Bad::Encoding),
        Version::Http11 if is_bodiless(method) => Err(Bad::EncodingOfBodiless),
        Version::Http11 => Ok(Framing::Chunked),
    }
}

fn decimal(value: &[u8]) -> Result<u64, Bad> {
    let text = std::str::from_utf8(value).map_err(|_utf8| Bad::Length)?;
    // A leading zero is octal to some.
    let is_plain = text == "0" || !text.starts_with('0');
    match is_plain && text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().map_err(|_empty_or_large| Bad::Length),
        false => Err(Bad::Length),
    }
}

/// Hexadecimal digits in a chunk's size: as many as a u64 holds.
const SIZE_DIGITS: u32 = 16;
/// Bytes in a trailer section.
const TRAILERS_MAX: usize = 8 << 10;

/// Follows a body to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body(State);

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    Size { digits: u32, value: u64 },
    SizeEnd(u64),
    Data(u64),
    DataCr,
    DataLf,
    Trailers(Vec<u8>),
    Done,
}

impl Body {
    /// Of a head.
    pub fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::Empty => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::SIZE,
        })
    }

    /// Whether it is at its end.
    pub fn is_done(&self) -> bool {
        self.0 == State::Done
    }

    /// How many of these bytes are the body's.
    ///
    /// # Errors
    /// The first byte that must not be there.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, Bad> {
        let mut at = 0;
        while at < bytes.len() && !self.is_done() {
            at += self.0.step(&bytes[at..])?;
        }
        Ok(at)
    }
}

impl State {
    const SIZE: Self = Self::Size {
        digits: 0,
        value: 0,
    };

    /// Takes at least one of the bytes, of which there is one.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Bad> {
        let byte = bytes[0];
        let next = match self {
            Self::Length(left) | Self::Data(left) => {
                let taken = take(left, bytes.len());
                if *left == 0 {
                    self.end_data();
                }
                return Ok(taken);
            }
            Self::Size { digits, value } => match (char::from(byte).to_digit(16), byte) {
                (Some(digit), _) if *digits < SIZE_DIGITS => Self::Size {
                    digits: *digits + 1,
                    value: *value << 4 | u64::from(digit),
                },
                (None, b'\r') if *digits > 0 => Self::SizeEnd(*value),
                (Some(_) | None, _) => return Err(Bad::ChunkSize),
            },
            Self::SizeEnd(size) => match (byte, *size) {
                (b'\n', 0) => Self::Trailers(Vec::new()),
                (b'\n', size) => Self::Data(size),
                (_, _) => return Err(Bad::ChunkSize),
            },
            Self::DataCr if byte == b'\r' => Self::DataLf,
            Self::DataLf if byte == b'\n' => Self::SIZE,
            Self::DataCr | Self::DataLf => return Err(Bad::ChunkEnd),
            Self::Trailers(section) => {
                section.push(byte);
                match trailers(section)? {
                    true => Self::Done,
                    false => return Ok(1),
                }
            }
            Self::Done => return Ok(0),
        };
        *self = next;
        Ok(1)
    }

    /// Behind the last byte of data.
    fn end_data(&mut self) {
        let is_chunk = matches!(self, Self::Data(_));
        *self = if is_chunk { Self::DataCr } else { Self::Done };
    }
}

fn take(left: &mut u64, there: usize) -> usize {
    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(there);
    *left -= taken as u64;
    taken
}

/// Whether the section is complete.
fn trailers(section: &[u8]) -> Result<bool, Bad> {
    if section.len() > TRAILERS_MAX {
        return Err(Bad::LongHead);
    }
    match section.last() {
        Some(0) => return Err(Bad::Nul),
        Some(b'\n') if !section.ends_with(b"\r\n") => return Err(Bad::BareLf),
        Some(b'\n') => {}
        Some(_) if section.len() > 1 && section[section.len() - 2] == b'\r' => {
            return Err(Bad::BareCr);
        }
        Some(_) | None => return Ok(false),
    }
    if section == b"\r\n" {
        return Ok(true);
    }
    let Some(fields) = section.strip_suffix(b"\r\n\r\n") else {
        return Ok(false);
    };
    for (name, _) in Fields::parse(Lines(Some(fields)))?.iter() {
        let frames = matches!(name.as_str(), "host" | "content-length" | "trailer");
        if frames || is_of_connection(name, &[]) {
            return Err(Bad::Trailer);
        }
    }
    Ok(true)
}

#[cfg(test)]
#[path = "framing/tests.rs"]
mod tests;
