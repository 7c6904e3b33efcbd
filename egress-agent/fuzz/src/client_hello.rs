//! The reading of ClientHellos against rustls and tls-parser.

use crate::{
    cuts,
    detect::{
        client_hello::{Malformed, OFFER_MAX, Offer},
        detector::Detected,
    },
};

/// What another implementation has read from a hello that it accepts.
#[derive(Debug, Default)]
struct Theirs {
    server_name: Option<String>,
    alpn: Vec<String>,
    /// Where it tells of them.
    versions: Option<Vec<String>>,
}

/// # Panics
/// Where it matters how the bytes arrive, or another implementation reads another name or other
/// protocols or versions.
pub fn check(data: &[u8]) {
    let Some((bytes, ours)) = cuts::detect(data) else {
        return;
    };
    for (theirs, tolerates) in [
        (by_rustls(bytes), &RUSTLS_TOLERATES[..]),
        (by_tls_parser(bytes), &TLS_PARSER_TOLERATES[..]),
    ] {
        if let Some(theirs) = theirs {
            compare(&ours, &theirs, tolerates);
        }
    }
}

// What others accept and we do not, as it is meant to be: it is denied, and no name read from it.

const RUSTLS_TOLERATES: [Detected; 3] = [
    // Of a list of names it reads the first, and skips the rest whatever that is.
    Detected::Malformed(Malformed::Length),
    Detected::Malformed(Malformed::NameType),
    Detected::Malformed(Malformed::SeveralNames),
];

const TLS_PARSER_TOLERATES: [Detected; 6] = [
    // Any record version.
    Detected::Opaque,
    // Fields that it does not look into, such as ALPN's; an empty list of suites, of compression
    // methods or of names.
    Detected::Malformed(Malformed::Length),
    // Bytes behind a field, behind the extensions, behind the hello in its record.
    Detected::Malformed(Malformed::TrailingBytes),
    // It looks at one extension at a time,
    Detected::Malformed(Malformed::DuplicateExtension),
    // and gives all names, of any type.
    Detected::Malformed(Malformed::SeveralNames),
    Detected::Malformed(Malformed::NameType),
];

fn compare(ours: &Detected, theirs: &Theirs, tolerates: &[Detected]) {
    match ours {
        Detected::Tls(hello) => {
            // One trailing dot is stripped.
            let name = theirs.server_name.as_deref();
            let name = name.map(|name| name.strip_suffix('.').unwrap_or(name));
            assert_eq!(Some(hello.server_name.as_str()), name);
            compare_offer(&hello.offer, theirs);
        }
        Detected::TlsWithoutName(offer) => {
            assert_eq!(None, theirs.server_name);
            compare_offer(offer, theirs);
        }
        // Host names are held to more than others hold them to; without one nothing is dialled.
        Detected::BadName(_, offer) => compare_offer(offer, theirs),
        Detected::Malformed(_)
        | Detected::NeedMore
        | Detected::Sslv2
        | Detected::Http1(_)
        | Detected::Connect
        | Detected::Http2
        | Detected::Opaque => assert!(tolerates.contains(ours), "{ours:?}: {theirs:?}"),
    }
}

fn compare_offer(ours: &Offer, theirs: &Theirs) {
    assert_eq!(ours.alpn, theirs.alpn);
    if let Some(versions) = &theirs.versions {
        let ours: Vec<_> = ours
            .versions
            .iter()
            .map(|v| format!("{:04x}", v.0))
            .collect();
        assert_eq!(&ours, versions);
    }
}

/// Outer `None` where it wants more or refuses.
fn by_rustls(bytes: &[u8]) -> Option<Theirs> {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest).ok()?;
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                return Some(Theirs {
                    server_name: hello.server_name().map(str::to_ascii_lowercase),
                    alpn: shown(hello.alpn().into_iter().flatten()),
                    versions: None,
                });
            }
            Ok(None) => {}
            Err(_refused) => return None,
        }
    }
    None
}

fn shown<'a>(protocols: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let first = protocols.take(OFFER_MAX);
    first
        .map(|protocol| String::from_utf8_lossy(protocol).into_owned())
        .collect()
}

/// Of a hello in one record; outer `None` where it refuses.
fn by_tls_parser(bytes: &[u8]) -> Option<Theirs> {
    use tls_parser::{SNIType, TlsExtension, TlsMessage, TlsMessageHandshake};
    let (_, record) = tls_parser::parse_tls_plaintext(bytes).ok()?;
    let TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)) = record.msg.first()? else {
        return None;
    };
    let (rest, extensions) =
        tls_parser::parse_tls_extensions(hello.ext.unwrap_or_default()).ok()?;
    // It ends in silence at the first extension that it cannot read.
    if !rest.is_empty() {
        return None;
    }
    let mut theirs = Theirs {
        versions: Some(numbers(&[hello.version])),
        ..Theirs::default()
    };
    for extension in &extensions {
        if let TlsExtension::SNI(names) = extension {
            let host = names.iter().find(|(kind, _)| *kind == SNIType::HostName);
            theirs.server_name = host.map(|(_, name)| lower_case(name));
        } else if let TlsExtension::ALPN(protocols) = extension {
            theirs.alpn = shown(protocols.iter().copied());
        } else if let TlsExtension::SupportedVersions(versions) = extension {
            theirs.versions = Some(numbers(versions));
        }
    }
    Some(theirs)
}

fn lower_case(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_ascii_lowercase()
}

/// Without GREASE (RFC 8701), in hexadecimal.
fn numbers(versions: &[tls_parser::TlsVersion]) -> Vec<String> {
    let shown = versions.iter().map(|version| format!("{:04x}", version.0));
    let grease = |number: &String| number[..2] == number[2..] && number.ends_with('a');
    shown
        .filter(|number| !grease(number))
        .take(OFFER_MAX)
        .collect()
}
