//! The detection of HTTP/1 against httparse.

use httparse::{Request, Status};

use crate::{cuts, detect::detector::Detected};

/// Bytes of a method that are taken; httparse takes any number.
const METHOD_MAX: usize = 32;

/// # Panics
/// Where it matters how the bytes arrive, or httparse reads a request line where we read none or
/// another method. What we take and it does not is for whoever serves HTTP to refuse.
pub fn check(data: &[u8]) {
    let Some((bytes, ours)) = cuts::detect(data) else {
        return;
    };
    let Some(theirs) = by_httparse(bytes) else {
        return;
    };
    match &ours {
        Detected::Http1(method) => assert_eq!(method.as_str(), theirs),
        Detected::Connect => assert_eq!(theirs, "CONNECT"),
        Detected::NeedMore
        | Detected::Tls(_)
        | Detected::TlsWithoutName(_)
        | Detected::BadName(..)
        | Detected::Malformed(_)
        | Detected::Sslv2
        | Detected::Http2
        | Detected::Opaque => {
            let is_method = !theirs.bytes().any(|byte| byte.is_ascii_lowercase());
            assert!(
                !is_method || theirs.len() > METHOD_MAX,
                "{ours:?}: {theirs}"
            );
        }
    }
}

/// The method, where it takes the first line, with no header behind it.
fn by_httparse(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let head = [&bytes[..=end], b"\r\n"].concat();
    let mut request = Request::new(&mut []);
    match request.parse(&head) {
        Ok(Status::Complete(_)) => request.method.map(str::to_owned),
        Ok(Status::Partial) | Err(_) => None,
    }
}
