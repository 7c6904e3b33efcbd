//! The request target and the authority (RFC 9112 sections 3.2 and 3.3).

use super::bad::Bad;
use crate::policy::host::HostName;

/// The parts of a target.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    /// Of the absolute form.
    pub(super) authority: Option<&'a [u8]>,
    /// Begins with a slash, or is `*`.
    pub(super) path: &'a [u8],
    /// Without its question mark.
    pub(super) query: Option<&'a [u8]>,
}

impl<'a> Target<'a> {
    pub(super) fn parse(target: &'a [u8], method: &str) -> Result<Self, Bad> {
        if target == b"*" {
            return match method {
                "OPTIONS" => Ok(Self {
                    authority: None,
                    path: target,
                    query: None,
                }),
                _ => Err(Bad::RequestLine),
            };
        }
        if target.starts_with(b"/") {
            let (path, query) = split(target, b'?');
            return Ok(Self {
                authority: None,
                path,
                query,
            });
        }
        let scheme = target.windows(3).position(|part| part == b"://");
        let (scheme, rest) = target.split_at(scheme.ok_or(Bad::RequestLine)?);
        if !scheme.eq_ignore_ascii_case(b"http") {
            return Err(Bad::Scheme);
        }
        let rest = &rest[3..];
        let end = rest
            .iter()
            .position(|byte| matches!(byte, b'/' | b'?' | b'#'));
        let (authority, rest) = rest.split_at(end.unwrap_or(rest.len()));
        if authority.contains(&b'@') {
            return Err(Bad::Scheme);
        }
        let (path, query) = split(rest, b'?');
        Ok(Self {
            authority: Some(authority),
            path: if path.is_empty() { b"/" } else { path },
            query,
        })
    }
}

fn split(bytes: &[u8], at: u8) -> (&[u8], Option<&[u8]>) {
    match bytes.iter().position(|byte| *byte == at) {
        Some(end) => (&bytes[..end], Some(&bytes[end + 1..])),
        None => (bytes, None),
    }
}

/// Of `http` (RFC 9110 section 4.2.1).
pub(super) const DEFAULT_PORT: u16 = 80;

/// The host of an authority, and its port where it has one.
pub(super) fn authority(authority: &[u8]) -> Result<(HostName, Option<u16>), Bad> {
    if authority.starts_with(b"[") {
        let end = authority.iter().position(|byte| *byte == b']');
        let literal = &authority[..end.map_or(authority.len(), |end| end + 1)];
        let literal = HostName::from_wire(literal).map_err(Bad::Host)?;
        return Ok((literal, None));
    }
    let (host, text) = split(authority, b':');
    let host = HostName::from_wire(host).map_err(Bad::Host)?;
    text.map(port).transpose().map(|port| (host, port))
}

/// In decimal, as everybody writes it.
fn port(text: &[u8]) -> Result<u16, Bad> {
    let number = std::str::from_utf8(text)
        .ok()
        .and_then(|it| it.parse().ok());
    match number {
        Some(port) if port > 0 && u16::to_string(&port).as_bytes() == text => Ok(port),
        Some(_) | None => Err(Bad::Port),
    }
}
