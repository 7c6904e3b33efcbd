//! Whether a connection begins with an HTTP request line (RFC 9112 section 3). It is only told
//! apart from other protocols here, by its method and its version: whoever serves it judges
//! whether it is a good one.

use super::{detector::Detected, work};

/// Bytes of a request line: RFC 9112 section 3 recommends at least 8,000, and servers take up to
/// this. What has no line end by then is opaque.
const REQUEST_LINE_MAX: usize = 16 << 10;
/// Bytes of a method. The longest that is registered with IANA has 17.
const METHOD_MAX: usize = 32;

/// The method of a request, as it was sent: it is case-sensitive (RFC 9110 section 9.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(String);

impl Method {
    /// The token.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Looks for the end of the first line in a growing prefix.
#[derive(Debug, Default)]
pub struct Scanner {
    /// How many bytes have been looked at.
    at: usize,
    /// Of them, how many are the method's, once it has ended.
    method: Option<usize>,
}

/// Whether a byte may be the first of a request.
pub const fn may_begin_with(byte: u8) -> bool {
    is_of_method(byte)
}

impl Scanner {
    /// As [`super::detector::Detector::advance`]; never TLS.
    pub fn advance(&mut self, prefix: &[u8]) -> Detected {
        let rest = prefix.get(self.at..).unwrap_or_default();
        for &byte in rest {
            work::looked_at(1);
            match self.method {
                None if byte == b' ' && self.at > 0 => self.method = Some(self.at),
                None if is_of_method(byte) && self.at < METHOD_MAX => {}
                Some(method) if byte == b'\n' => return request(&prefix[..self.at], method),
                Some(_) if is_text(byte) && self.at < REQUEST_LINE_MAX => {}
                None | Some(_) => return Detected::Opaque,
            }
            self.at += 1;
        }
        Detected::NeedMore
    }
}

/// What a whole line is, of which so many bytes are a method.
fn request(line: &[u8], method: usize) -> Detected {
    let (method, rest) = line.split_at(method);
    let rest = rest.trim_ascii_end();
    let Some((_, [separator, version @ ..])) = rest.split_last_chunk::<9>() else {
        return Detected::Opaque;
    };
    if !matches!(separator, b' ' | b'\t') {
        return Detected::Opaque;
    }
    match version {
        b"HTTP/2.0" if method == b"PRI" => Detected::Http2,
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9'] => http1(method),
        _ => Detected::Opaque,
    }
}

fn http1(method: &[u8]) -> Detected {
    match method {
        b"CONNECT" => Detected::Connect,
        _ => Detected::Http1(Method(String::from_utf8_lossy(method).into_owned())),
    }
}

/// RFC 9110 section 5.6.2, `tchar`, without lower case: no method has that, and other protocols that
/// begin with it need not wait for the end of a line.
const fn is_of_method(byte: u8) -> bool {
    byte.is_ascii_uppercase()
        || byte.is_ascii_digit()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

/// What there may be in a line of text, good or bad: no control character, but for tabs and
/// carriage returns.
const fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\r' | b' '..=b'~' | 0x80..)
}

#[cfg(test)]
#[path = "http1/tests.rs"]
mod tests;
