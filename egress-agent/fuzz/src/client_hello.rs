//! The ClientHello parser against rustls and tls-parser.

use crate::detect::client_hello::{Detected, Malformed, Parser};

/// The first two bytes: where the connection was cut in two reads.
const HEAD: usize = 2;

/// # Panics
/// Where it matters how the bytes arrive, or another implementation reads another name.
pub fn check(data: &[u8]) {
    let Some((head, bytes)) = data.split_first_chunk::<HEAD>() else {
        return;
    };
    let whole = Parser::default().advance(bytes);
    let split = usize::from(u16::from_be_bytes(*head)) % (bytes.len() + 1);
    let mut parser = Parser::default();
    let mut decided = parser.advance(&bytes[..split]);
    if decided == Detected::NeedMore {
        decided = parser.advance(bytes);
    }
    assert_eq!(whole, decided, "cut at {split}");
    for (theirs, tolerates) in [
        (by_rustls(bytes), &RUSTLS_TOLERATES[..]),
        (by_tls_parser(bytes), &TLS_PARSER_TOLERATES[..]),
    ] {
        if let Some(name) = theirs {
            compare(&whole, name.as_deref(), tolerates);
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
    Detected::NotTls,
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

/// `theirs` is the name that another implementation has read from a hello that it accepts.
fn compare(ours: &Detected, theirs: Option<&str>, tolerates: &[Detected]) {
    match ours {
        Detected::Tls(hello) => {
            // One trailing dot is stripped.
            let theirs = theirs.map(|name| name.strip_suffix('.').unwrap_or(name));
            assert_eq!(Some(hello.server_name.as_str()), theirs);
        }
        Detected::TlsWithoutName => assert_eq!(None, theirs),
        // Host names are held to more than others hold them to; without one nothing is dialled.
        Detected::BadName(_) => {}
        Detected::Malformed(_) | Detected::NeedMore | Detected::Sslv2 | Detected::NotTls => {
            assert!(tolerates.contains(ours), "{ours:?}: {theirs:?}");
        }
    }
}

/// What rustls reads, lower-cased; outer `None` where it wants more or refuses.
fn by_rustls(bytes: &[u8]) -> Option<Option<String>> {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest).ok()?;
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_owned);
                return Some(name.map(|name| name.to_ascii_lowercase()));
            }
            Ok(None) => {}
            Err(_refused) => return None,
        }
    }
    None
}

/// What tls-parser reads of a hello in one record; outer `None` where it refuses.
fn by_tls_parser(bytes: &[u8]) -> Option<Option<String>> {
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
    let found = extensions.iter().find_map(|extension| {
        let TlsExtension::SNI(names) = extension else {
            return None;
        };
        names.iter().find(|(kind, _)| *kind == SNIType::HostName)
    });
    Some(found.map(|(_, name)| String::from_utf8_lossy(name).to_ascii_lowercase()))
}
