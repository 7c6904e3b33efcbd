//! Against other implementations; `egress-agent/fuzz` does the same with more patience.

use super::*;

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

/// What tls-parser reads of a hello in one record.
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
    let found = extensions.iter().find_map(|extension| match extension {
        TlsExtension::SNI(names) => names.iter().find(|(kind, _)| *kind == SNIType::HostName),
        _ => None,
    });
    Some(found.map(|(_, name)| String::from_utf8_lossy(name).to_ascii_lowercase()))
}

/// Whatever is done to a real hello: we never read a name that another implementation reads
/// differently.
#[test]
fn agrees_with_other_implementations() {
    let mut both = 0;
    for original in real_hellos() {
        for at in (0..original.len()).step_by(original.len() / 250 + 1) {
            for value in [
                0,
                1,
                0x2e,
                0x41,
                0xff,
                original[at] ^ 1,
                original[at].wrapping_add(1),
            ] {
                let mut bytes = original.clone();
                bytes[at] = value;
                let detected = detect(&bytes);
                let Some(ours) = name_of(&detected) else {
                    continue;
                };
                for theirs in [by_rustls(&bytes), by_tls_parser(&bytes)]
                    .into_iter()
                    .flatten()
                {
                    let theirs = theirs.map(|name| name.trim_end_matches('.').to_owned());
                    assert_eq!(Some(ours), theirs.as_deref(), "byte {at} = {value:#x}");
                    both += 1;
                }
            }
        }
    }
    assert!(both > 5_000, "{both}");
}
