//! Heads and bodies of requests, against httparse.

use crate::http1::{
    framing::{Body, Framing},
    head::{self, Head},
};

/// The first two bytes: where the connection was cut in two reads.
const HEAD: usize = 2;
/// The port that was dialled.
const PORT: u16 = 80;
/// Fields of a head, at most.
const FIELDS: usize = 100;

/// # Panics
/// Where it matters how the bytes arrive, or httparse reads what we accept in another way.
pub fn check(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first_chunk::<HEAD>() else {
        return;
    };
    let cut = usize::from(u16::from_be_bytes(*cut)) % (bytes.len() + 1);
    let whole = head::end(bytes, 0);
    let at_once = match head::end(&bytes[..cut], 0) {
        Ok(None) => head::end(bytes, cut),
        decided => decided,
    };
    assert_eq!(whole, at_once, "cut at {cut}");
    let Ok(Some(end)) = whole else {
        return;
    };
    if let Ok(head) = head::parse(&bytes[..end], PORT) {
        compare(&head, &bytes[..end]);
        check_body(head.framing, &bytes[end..], cut);
    }
}

fn compare(ours: &Head, bytes: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut theirs = httparse::Request::new(&mut fields);
    let parsed = theirs.parse(bytes);
    assert_eq!(parsed, Ok(httparse::Status::Complete(bytes.len())));
    assert_eq!(theirs.method, Some(ours.request.method.as_str()));
    let all = |name: &str| {
        let of_name = theirs
            .headers
            .iter()
            .filter(|it| it.name.eq_ignore_ascii_case(name));
        of_name.map(|it| it.value).collect::<Vec<_>>()
    };
    let host = all("host");
    assert_eq!(host.len(), 1, "one host");
    let host = String::from_utf8_lossy(host[0]).to_ascii_lowercase();
    let host = host.split(':').next().unwrap_or_default();
    assert_eq!(
        host.strip_suffix('.').unwrap_or(host),
        ours.request.host.as_str()
    );
    let (length, encoding) = (all("content-length"), all("transfer-encoding"));
    match ours.framing {
        Framing::Empty => assert!(encoding.is_empty()),
        Framing::Length(length_of) => {
            assert_eq!(length, [length_of.to_string().as_bytes()]);
            assert!(encoding.is_empty());
        }
        Framing::Chunked => assert!(length.is_empty() && encoding.len() == 1),
    }
    for (name, value) in &ours.request.fields {
        assert!(all(name).contains(&value.as_slice()), "{name}");
    }
}

/// Where the body ends, or that it is refused, does not depend on how it arrives; and by chunk
/// sizes that another implementation reads it ends there, too.
fn check_body(framing: Framing, bytes: &[u8], piece: usize) {
    let whole = follow(framing, bytes, bytes.len().max(1));
    assert_eq!(
        whole,
        follow(framing, bytes, piece.max(1)),
        "in pieces of {piece}"
    );
    if let (Framing::Chunked, Ok(Some(end))) = (framing, whole) {
        assert_eq!(by_httparse(bytes), Some(end));
    }
}

fn follow(framing: Framing, bytes: &[u8], piece: usize) -> Result<Option<usize>, &'static str> {
    let (mut body, mut at) = (Body::new(framing), 0);
    while !body.is_done() && at < bytes.len() {
        let end = bytes.len().min(at + piece);
        at += body.advance(&bytes[at..end]).map_err(|bad| bad.reason())?;
    }
    Ok(body.is_done().then_some(at))
}

fn by_httparse(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(&bytes[at..])
        else {
            return None;
        };
        at += line;
        if size == 0 {
            let mut fields = [httparse::EMPTY_HEADER; FIELDS];
            return match httparse::parse_headers(&bytes[at..], &mut fields) {
                Ok(httparse::Status::Complete((section, _))) => Some(at + section),
                Ok(httparse::Status::Partial) | Err(_) => None,
            };
        }
        at = at
            .checked_add(usize::try_from(size).ok()?)?
            .checked_add(2)?;
        if bytes.get(at - 2..at)? != b"\r\n" {
            return None;
        }
    }
}
