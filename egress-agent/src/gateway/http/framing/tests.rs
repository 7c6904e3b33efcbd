use proptest::prelude::*;

use super::*;

/// What is behind the body, or what is wrong with it; fed in pieces of this size.
fn rest(framing: Framing, raw: &[u8], piece: usize) -> Result<Option<Vec<u8>>, Bad> {
    let (mut body, mut at) = (Body::new(framing), 0);
    while !body.is_done() && at < raw.len() {
        let end = raw.len().min(at + piece);
        at += body.advance(&raw[at..end])?;
    }
    Ok(body.is_done().then(|| raw[at..].to_vec()))
}

#[test]
fn where_bodies_end() {
    for (framing, raw, expected) in [
        (Framing::Empty, &b"next"[..], Some(&b"next"[..])),
        (Framing::Length(3), b"abcnext", Some(b"next")),
        (Framing::Length(5), b"abc", None),
        (Framing::Chunked, b"0\r\n\r\nnext", Some(b"next")),
        (
            Framing::Chunked,
            b"3\r\nabc\r\nA\r\n0123456789\r\n000\r\n\r\nnext",
            Some(b"next"),
        ),
        (
            Framing::Chunked,
            b"0\r\nX-Sum: 1\r\nY: 2\r\n\r\nnext",
            Some(b"next"),
        ),
        (Framing::Chunked, b"3\r\nabc\r\n", None),
    ] {
        for piece in [1, 2, 100] {
            let expected = expected.map(<[u8]>::to_vec);
            assert_eq!(
                rest(framing, raw, piece),
                Ok(expected),
                "{}",
                raw.escape_ascii()
            );
        }
    }
}

#[test]
fn chunks_that_are_refused() {
    for (raw, expected) in [
        (&b"\r\n"[..], Bad::ChunkSize),
        (b"g\r\n", Bad::ChunkSize),
        (b"+3\r\nabc\r\n", Bad::ChunkSize),
        (b"-1\r\n", Bad::ChunkSize),
        (b"0x3\r\nabc\r\n", Bad::ChunkSize),
        (b" 3\r\nabc\r\n", Bad::ChunkSize),
        (b"3 \r\nabc\r\n", Bad::ChunkSize),
        (b"3;a=b\r\nabc\r\n", Bad::ChunkSize),
        (b"3\nabc\r\n", Bad::ChunkSize),
        (b"3\r\rabc", Bad::ChunkSize),
        (b"00000000000000003\r\nabc\r\n", Bad::ChunkSize),
        (b"3\r\nabcd\r\n", Bad::ChunkEnd),
        (b"3\r\nabc\n0\r\n\r\n", Bad::ChunkEnd),
        (b"0\r\nX: 1\n\r\n", Bad::BareLf),
        (b"0\r\n\n", Bad::BareLf),
        (b"0\r\nX: 1\rY: 2\r\n\r\n", Bad::BareCr),
        (b"0\r\nX: \0\r\n\r\n", Bad::Nul),
        (b"0\r\n X: 1\r\n\r\n", Bad::Fold),
        (b"0\r\nX : 1\r\n\r\n", Bad::SpaceBeforeColon),
        (b"0\r\nContent-Length: 3\r\n\r\n", Bad::Trailer),
        (b"0\r\nTransfer-Encoding: chunked\r\n\r\n", Bad::Trailer),
        (b"0\r\nHost: b.test\r\n\r\n", Bad::Trailer),
        (b"0\r\nGET / HTTP/1.1\r\n\r\n", Bad::FieldName),
    ] {
        for piece in [1, 100] {
            assert_eq!(
                rest(Framing::Chunked, raw, piece),
                Err(expected),
                "{}",
                raw.escape_ascii()
            );
        }
    }
    let long = [&b"0\r\nX: "[..], &[b'a'; TRAILERS_MAX]].concat();
    assert_eq!(rest(Framing::Chunked, &long, 100), Err(Bad::LongHead));
}

proptest! {
    /// The obvious encoder, whatever the pieces.
    #[test]
    fn chunks_end_where_they_were_ended(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
        behind in prop::collection::vec(any::<u8>(), 0..20),
        piece in 1..30_usize,
    ) {
        let mut raw = Vec::new();
        for chunk in &chunks {
            raw.extend(format!("{:x}\r\n", chunk.len()).bytes());
            raw.extend(chunk);
            raw.extend(b"\r\n");
        }
        raw.extend(b"0\r\n\r\n");
        raw.extend(&behind);
        prop_assert_eq!(rest(Framing::Chunked, &raw, piece), Ok(Some(behind)));
    }

    #[test]
    fn it_does_not_matter_how_bytes_arrive(raw in "(0|3|a|;|\r\n|\n|\r|x){0,12}", piece in 1..5_usize) {
        let raw = raw.as_bytes();
        prop_assert_eq!(rest(Framing::Chunked, raw, piece), rest(Framing::Chunked, raw, 1000));
    }
}
