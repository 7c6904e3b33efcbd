//! The head of a request, strictly (RFC 9112). Whatever passes here is read by every server as
//! it was read here; whatever two servers might read differently does not pass. Pure.

use super::{
    bad::Bad,
    fields::{Fields, is_of_connection},
    framing::Framing,
    target::{DEFAULT_PORT, Target, authority},
};
use crate::policy::{
    http::{Request, is_token},
    path::Path,
};

/// Bytes in a head.
pub const HEAD_MAX: usize = 32 << 10;
/// Bytes in a method: longer ones are nobody's.
const METHOD_MAX: usize = 32;

/// What a head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// What policy is asked about.
    pub request: Request,
    /// With its question mark; empty where there is none.
    pub query: String,
    /// Where the body ends.
    pub framing: Framing,
}

/// Where the head ends, if that is there: behind the first empty line. `from` is how far was
/// looked before.
///
/// # Errors
/// A byte that no head has.
pub fn end(bytes: &[u8], from: usize) -> Result<Option<usize>, Bad> {
    for (at, byte) in bytes.iter().enumerate().skip(from) {
        let before = at.checked_sub(1).map(|at| bytes[at]);
        match byte {
            0 => return Err(Bad::Nul),
            b'\n' if before != Some(b'\r') => return Err(Bad::BareLf),
            b'\n' if bytes[..=at].ends_with(b"\r\n\r\n") => return Ok(Some(at + 1)),
            b'\n' => {}
            _ if before == Some(b'\r') => return Err(Bad::BareCr),
            _ => {}
        }
        if at >= HEAD_MAX {
            return Err(Bad::LongHead);
        }
    }
    Ok(None)
}

/// Reads a whole head, its empty line included. `port` is the one that was dialled; a request with
/// an absolute URI is meant for the port in that, as a proxy's are.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(head: &[u8], port: u16) -> Result<Head, Bad> {
    let text = head.strip_suffix(b"\r\n\r\n").ok_or(Bad::Truncated)?;
    let mut lines = Lines(Some(text));
    let line = lines.next().unwrap_or_default();
    let (method, target, version) = request_line(line)?;
    let fields = Fields::parse(lines)?;
    let target = Target::parse(target, method)?;
    let (host, own_port) = match fields.only("host") {
        Ok(Some(value)) if !value.is_empty() => authority(value)?,
        Ok(_) => return Err(Bad::NoHost),
        Err(_several) => return Err(Bad::SeveralHosts),
    };
    let port = match target.authority {
        Some(named) => {
            let (named, named_port) = authority(named)?;
            let (own, port) = (
                own_port.unwrap_or(DEFAULT_PORT),
                named_port.unwrap_or(DEFAULT_PORT),
            );
            if named != host || own != port {
                return Err(Bad::TargetDisagrees);
            }
            port
        }
        None if own_port.is_none_or(|own| own == port) => port,
        None => return Err(Bad::Port),
    };
    let framing = Framing::of(&fields, method, version)?;
    expect(&fields)?;
    let websocket = websocket(&fields, method, version, framing)?;
    let path = match target.path {
        b"*" => Path::asterisk(),
        path => Path::normalise(path).map_err(Bad::Path)?,
    };
    Ok(Head {
        request: Request {
            host,
            port,
            method: method.to_owned(),
            path,
            fields: fields.of_request(),
            websocket,
        },
        query: query(target.query)?,
        framing,
    })
}

/// The versions that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

pub(super) fn request_line(line: &[u8]) -> Result<(&str, &[u8], Version), Bad> {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Bad::RequestLine);
    };
    let is_method = !method.is_empty() && method.len() <= METHOD_MAX;
    let text = std::str::from_utf8(method).map_err(|_utf8| Bad::RequestLine)?;
    if !is_method || !method.iter().all(|byte| is_token(*byte)) || target.is_empty() {
        return Err(Bad::RequestLine);
    }
    match version {
        b"HTTP/1.1" => Ok((text, target, Version::Http11)),
        b"HTTP/1.0" => Ok((text, target, Version::Http10)),
        b"HTTP/2.0" if method == b"PRI" => Err(Bad::PriorKnowledge),
        version if version.starts_with(b"HTTP/") => Err(Bad::Version),
        _ => Err(Bad::RequestLine),
    }
}

fn query(query: Option<&[u8]>) -> Result<String, Bad> {
    let Some(query) = query else {
        return Ok(String::new());
    };
    // Wider than RFC 3986 section 3.4, by what clients send unencoded.
    let plain = |byte: &u8| matches!(byte, 0x21..=0x7e) && !b"\"#<>".contains(byte);
    match query.iter().all(plain) {
        true => Ok(format!("?{}", String::from_utf8_lossy(query))),
        false => Err(Bad::Query),
    }
}

fn expect(fields: &Fields<'_>) -> Result<(), Bad> {
    match fields.only("expect") {
        Ok(None) => Ok(()),
        Ok(Some(value)) if value.eq_ignore_ascii_case(b"100-continue") => Ok(()),
        Ok(Some(_)) | Err(_) => Err(Bad::Expect),
    }
}

/// Whether a WebSocket is asked for (RFC 6455 section 4.1). Other upgrades are not passed on, and
/// so are not granted.
fn websocket(
    fields: &Fields<'_>,
    method: &str,
    version: Version,
    framing: Framing,
) -> Result<bool, Bad> {
    let wanted: Vec<_> = fields.list("upgrade").collect();
    let is_h2c = |it: &&[u8]| it.eq_ignore_ascii_case(b"h2c") || it.eq_ignore_ascii_case(b"h2");
    if wanted.iter().any(is_h2c) || fields.has("http2-settings") {
        return Err(Bad::H2cUpgrade);
    }
    if !wanted
        .iter()
        .any(|it| it.eq_ignore_ascii_case(b"websocket"))
    {
        return Ok(false);
    }
    let named = fields
        .list("connection")
        .any(|it| it.eq_ignore_ascii_case(b"upgrade"));
    let is_plain = wanted.len() == 1 && framing == Framing::Empty;
    match named && is_plain && method == "GET" && version == Version::Http11 {
        true => Ok(true),
        false => Err(Bad::Upgrade),
    }
}

/// Lines between CR LF.
pub(super) struct Lines<'a>(pub(super) Option<&'a [u8]>);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0?;
        let end = rest.windows(2).position(|pair| pair == b"\r\n");
        self.0 = end.map(|end| &rest[end + 2..]);
        Some(&rest[..end.unwrap_or(rest.len())])
    }
}

impl Fields<'_> {
    /// The fields that go on to the server, as policy is asked about them.
    fn of_request(&self) -> Vec<(String, Vec<u8>)> {
        let nominated: Vec<_> = self.list("connection").collect();
        self.iter()
            .filter(|(name, _)| !is_of_connection(name, &nominated))
            .map(|(name, value)| (name.clone(), value.to_vec()))
            .collect()
    }
}

#[cfg(test)]
#[path = "head/tests.rs"]
mod tests;
