use super::{super::detector::Detector, *};
use crate::{gateway::detect::captured, policy::host::HostNameError};

mod agreement;
mod properties;
mod work_done;

/// Those of real clients that name `api.repo.test`.
fn real_hellos() -> Vec<Vec<u8>> {
    let named = captured::hellos().filter(|(_, hello)| hello.server_name.is_some());
    named.map(|(capture, _)| capture.bytes).collect()
}

fn detect(bytes: &[u8]) -> Detected {
    Detector::default().advance(bytes)
}

fn name_of(detected: &Detected) -> Option<&str> {
    match detected {
        Detected::Tls(hello) => Some(hello.server_name.as_str()),
        _ => None,
    }
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_be_bytes().to_vec();
    bytes.extend((content.len() as u16).to_be_bytes());
    bytes.extend(content);
    bytes
}

fn names(names: &[(u8, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, name) in names {
        list.push(*kind);
        list.extend((name.len() as u16).to_be_bytes());
        list.extend(*name);
    }
    let mut content = (list.len() as u16).to_be_bytes().to_vec();
    content.extend(list);
    extension(0, &content)
}

fn message(extensions: Option<&[u8]>) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    if let Some(extensions) = extensions {
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
    }
    let mut message = vec![1];
    message.extend(&(body.len() as u32).to_be_bytes()[1..]);
    message.extend(body);
    message
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in message.chunks(size) {
        bytes.extend([22, 3, 1]);
        bytes.extend((part.len() as u16).to_be_bytes());
        bytes.extend(part);
    }
    bytes
}

fn hello(extensions: &[u8]) -> Vec<u8> {
    records(&message(Some(extensions)), RECORD_MAX)
}

fn offer_of(detected: &Detected) -> Option<&Offer> {
    match detected {
        Detected::Tls(hello) => Some(&hello.offer),
        Detected::TlsWithoutName(offer) | Detected::BadName(_, offer) => Some(offer),
        _ => None,
    }
}

/// Each as tshark and ja4plus read it.
#[test]
fn real_clients_are_understood() {
    let mut count = 0;
    for (capture, expected) in captured::hellos() {
        let (name, detected) = (&capture.name, detect(&capture.bytes));
        assert_eq!(
            name_of(&detected),
            expected.server_name.as_deref(),
            "{name}"
        );
        let offer = offer_of(&detected).expect("a hello");
        let versions: Vec<_> = offer.versions.iter().map(ToString::to_string).collect();
        assert_eq!(versions, expected.versions(), "{name}");
        assert_eq!(offer.alpn, expected.alpn, "{name}");
        assert_eq!(offer.ech, expected.ech, "{name}");
        assert_eq!(offer.ja4, expected.ja4, "{name}");
        count += 1;
    }
    assert!(count >= 19, "{count}");
}

/// The message, without the headers of records.
fn one_record(mut bytes: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let [_, _, _, high, low, rest @ ..] = bytes {
        let (content, rest) = rest.split_at(u16::from_be_bytes([*high, *low]).into());
        message.extend(content);
        bytes = rest;
    }
    message
}

#[test]
fn any_number_of_records() {
    for bytes in real_hellos() {
        for size in [1, 2, 3, 7, 100, 511] {
            let split = records(&one_record(&bytes), size);
            assert_eq!(name_of(&detect(&split)), Some("api.repo.test"), "{size}");
        }
    }
}

#[test]
fn bytes_behind_the_hello_change_nothing() {
    for mut bytes in real_hellos() {
        bytes.extend([23, 3, 3, 0, 3, 1, 2, 3]);
        assert_eq!(name_of(&detect(&bytes)), Some("api.repo.test"));
    }
}

#[test]
fn a_name_far_behind_in_a_large_hello() {
    let filler = extension(0x0a0a, &[0; 60_000]);
    let bytes = hello(&[filler, names(&[(0, b"a.test")])].concat());
    assert_eq!(name_of(&detect(&bytes)), Some("a.test"));
    assert_eq!(detect(&bytes[..bytes.len() - 1]), Detected::NeedMore);
}

#[test]
fn what_is_denied_has_its_own_name() {
    use Malformed as M;
    let good = names(&[(0, b"a.test")]);
    let list_of_nothing = extension(0, &[0, 0]);
    let mut trailing_in_list = good.clone();
    trailing_in_list.push(0);
    trailing_in_list[3] += 1;
    let mut after = message(Some(&good));
    after.extend([0]);
    let mut behind_extensions = message(Some(&good));
    behind_extensions.push(0);
    behind_extensions[3] += 1;
    let mut overlong = good.clone();
    overlong[8] = 0xff;
    let malformed = [
        (
            hello(&[good.clone(), good.clone()].concat()),
            M::DuplicateExtension,
        ),
        (
            hello(&[extension(9, b""), extension(9, b"")].concat()),
            M::DuplicateExtension,
        ),
        (
            hello(&names(&[(0, b"a.test"), (0, b"b.test")])),
            M::SeveralNames,
        ),
        (hello(&names(&[(1, b"a.test")])), M::NameType),
        (hello(&list_of_nothing), M::Length),
        (hello(&trailing_in_list), M::TrailingBytes),
        (records(&after, RECORD_MAX), M::TrailingBytes),
        (records(&behind_extensions, RECORD_MAX), M::TrailingBytes),
        (hello(&overlong), M::Length),
        (vec![22, 3, 1, 0, 0], M::EmptyRecord),
        (vec![22, 3, 1, 0x40, 1], M::LongRecord),
        (vec![22, 3, 1, 0, 1, 2], M::NotClientHello),
        (vec![22, 3, 1, 0, 4, 1, 1, 0, 1], M::LongHello),
        (vec![22, 3, 1, 0, 1, 1, 23], M::OtherRecord),
        (
            [&[21, 3, 1, 0, 2, 1, 90], &hello(&good)[..]].concat(),
            M::OtherRecord,
        ),
        (vec![21, 0, 0, 0, 2], M::OtherRecord),
    ];
    for (bytes, expected) in malformed {
        assert_eq!(detect(&bytes), Detected::Malformed(expected), "{bytes:x?}");
    }
    let others = [
        (vec![0x80, 0x2e, 1, 3, 1], Detected::Sslv2),
        (vec![0x80, 0x2e, 1, 0, 2], Detected::Sslv2),
        (vec![0x80, 0x2e, 1], Detected::NeedMore),
        (vec![0x80, 0x2e, 2], Detected::Opaque),
        (vec![22, 2, 0, 0, 9, 2], Detected::Opaque),
        (vec![22, 2, 0, 0, 9], Detected::NeedMore),
        (vec![22, 16], Detected::Opaque),
        (vec![22], Detected::NeedMore),
        (vec![21, 3, 1, 0], Detected::NeedMore),
        (vec![21, 3, 1, 1], Detected::Opaque),
        (vec![21, 16], Detected::Opaque),
        (vec![], Detected::NeedMore),
    ];
    for (bytes, expected) in others {
        assert_eq!(detect(&bytes), expected, "{bytes:x?}");
    }
}

/// Go's server takes any version below 16 for one that it will see about later.
#[test]
fn a_record_of_another_version_is_one() {
    for major in 0..=15 {
        let mut bytes = hello(&names(&[(0, b"a.test")]));
        bytes[1] = major;
        assert!(matches!(detect(&bytes), Detected::Tls(_)), "{major}");
    }
}

#[test]
fn a_hello_without_a_name() {
    for bytes in [hello(b""), records(&message(None), 99)] {
        assert!(matches!(detect(&bytes), Detected::TlsWithoutName(_)));
    }
}

#[test]
fn a_name_that_is_no_host_name() {
    use HostNameError as E;
    let label = format!("{}.test", "a".repeat(64));
    let long = "a23456789.".repeat(26);
    let bad: [(&[u8], E); 14] = [
        (b"192.0.2.1", E::IpLiteral),
        (b"2001:db8::1", E::IpLiteral),
        (b"[2001:db8::1]", E::IpLiteral),
        (b"0x7f.1", E::IpLiteral),
        (b"", E::Empty),
        (b".", E::Empty),
        (b"a\0.test", E::Nul),
        (b"a%2e.test", E::Percent),
        (b"a .test", E::Space),
        (b"[a.test]", E::Bracket),
        (b"a.test:443", E::Port),
        (b"a..test", E::EmptyLabel),
        (label.as_bytes(), E::LongLabel),
        (long.as_bytes(), E::LongName),
    ];
    for (name, expected) in bad.into_iter().chain([("ä.test".as_bytes(), E::NotAscii)]) {
        let detected = detect(&hello(&names(&[(0, name)])));
        let found = match &detected {
            Detected::BadName(error, _) => Some(*error),
            _ => None,
        };
        assert_eq!(found, Some(expected), "{}", name.escape_ascii());
    }
}

#[test]
fn a_name_is_canonical() {
    for name in [&b"A.Test"[..], b"a.test.", b"A.TEST."] {
        let detected = detect(&hello(&names(&[(0, name)])));
        assert_eq!(name_of(&detected), Some("a.test"));
    }
}

#[test]
fn versions_are_those_of_the_extension_or_else_the_legacy_one() {
    let shown = |extensions: &[u8]| -> Vec<String> {
        let detected = detect(&hello(extensions));
        let offer = offer_of(&detected).expect("a hello");
        offer.versions.iter().map(ToString::to_string).collect()
    };
    assert_eq!(shown(b""), ["1.2"]);
    let list = extension(43, &[8, 0x1a, 0x1a, 3, 4, 0x7f, 0x1c, 3, 0]);
    assert_eq!(shown(&list), ["1.3", "0x7f1c", "ssl3"]);
    let many = [&[254][..], &[3, 3].repeat(127)].concat();
    assert_eq!(shown(&extension(43, &many)).len(), OFFER_MAX);
}

#[test]
fn lists_in_extensions_are_read_to_their_end() {
    use Malformed as M;
    let bad = [
        (extension(43, &[3, 3, 4, 3]), M::Length),
        (extension(43, &[4, 3, 4]), M::Length),
        (extension(43, &[2, 3, 4, 0]), M::TrailingBytes),
        (extension(13, &[0, 1, 4]), M::Length),
        (extension(13, &[0, 2, 4, 3, 0]), M::TrailingBytes),
        (extension(16, &[0, 3, 3, b'h', b'2']), M::Length),
        (extension(16, &[0, 3, 2, b'h', b'2', 0]), M::TrailingBytes),
    ];
    for (extension, expected) in bad {
        let detected = detect(&hello(&extension));
        assert_eq!(detected, Detected::Malformed(expected), "{extension:x?}");
    }
}

#[test]
fn ech_is_seen() {
    let bytes = hello(&[names(&[(0, b"a.test")]), extension(0xfe0d, &[0])].concat());
    assert!(matches!(detect(&bytes), Detected::Tls(hello) if hello.offer.ech));
}
