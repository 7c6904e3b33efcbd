//! Whether a connection begins like HTTP/1.

use std::time::Duration;

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::policy::http::is_token;

/// Methods that are known at once; others by the version at the end of their line.
const METHODS: [&str; 10] = [
    "GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "PATCH ", "OPTIONS ", "TRACE ", "CONNECT ", "PRI ",
];
/// Bytes in a method that could be one.
const METHOD_MAX: usize = 32;
/// Bytes within which a line with another method ends.
const LINE_MAX: usize = 4 << 10;

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// A request, good or bad.
    Http,
    /// Something else.
    Other,
    /// No telling yet.
    NeedMore,
}

/// Looks at the first bytes of a connection.
pub fn begin(bytes: &[u8]) -> Begin {
    if METHODS.iter().any(|it| bytes.starts_with(it.as_bytes())) {
        return Begin::Http;
    }
    let token = bytes.iter().take_while(|byte| is_method(**byte)).count();
    if token == bytes.len() && token <= METHOD_MAX {
        return Begin::NeedMore;
    }
    if token == 0 || token > METHOD_MAX || bytes[token] != b' ' {
        return Begin::Other;
    }
    let line = &bytes[..bytes.len().min(LINE_MAX)];
    match line.iter().position(|byte| *byte == b'\n') {
        Some(end) => match has_version(&line[..end]) {
            true => Begin::Http,
            false => Begin::Other,
        },
        None if bytes.len() < LINE_MAX => Begin::NeedMore,
        None => Begin::Other,
    }
}

/// Nobody's method has lower case, and many other protocols begin with it: those need not wait.
const fn is_method(byte: u8) -> bool {
    is_token(byte) && !byte.is_ascii_lowercase()
}

fn has_version(line: &[u8]) -> bool {
    let version = line.trim_ascii_end().rsplit(|byte| *byte == b' ').next();
    version.is_some_and(|version| version.starts_with(b"HTTP/"))
}

/// Whether it is HTTP, by more bytes where those that there are do not say. Silence and the end
/// say no.
pub async fn is_http(stream: &mut TcpStream, bytes: &mut Vec<u8>, limit: Duration) -> bool {
    let seen = async {
        loop {
            match begin(bytes) {
                Begin::Http => return true,
                Begin::Other => return false,
                Begin::NeedMore => match stream.read_buf(bytes).await {
                    Ok(0) | Err(_) => return false,
                    Ok(_) => {}
                },
            }
        }
    };
    timeout(limit, seen).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes() {
        for (bytes, expected) in [
            (&b""[..], Begin::NeedMore),
            (b"G", Begin::NeedMore),
            (b"GET ", Begin::Http),
            (b"GET\t", Begin::Other),
            (b"get / HTTP/1.1\n", Begin::Other),
            (b"x", Begin::Other),
            (b"PURGE /x", Begin::NeedMore),
            (b"PURGE /x HTTP/1.1\r\n", Begin::Http),
            (b"EHLO mail.test\r\n", Begin::Other),
            (b"PRI * HTTP/2.0\r\n", Begin::Http),
            (b"SSH-2.0-x\r\n", Begin::Other),
            (b"\r\nGET / HTTP/1.1\r\n", Begin::Other),
            (b"\x00\x01", Begin::Other),
        ] {
            let text = String::from_utf8_lossy(bytes);
            assert_eq!(begin(bytes), expected, "{text}");
            // No prefix says otherwise.
            for end in 0..bytes.len() {
                let early = begin(&bytes[..end]);
                assert!(
                    early == Begin::NeedMore || early == expected,
                    "{text} {end}"
                );
            }
        }
        assert_eq!(begin(&[b'A'; 40]), Begin::Other);
        assert_eq!(
            begin(&[&b"A "[..], &[b'a'; LINE_MAX]].concat()),
            Begin::Other
        );
    }
}
