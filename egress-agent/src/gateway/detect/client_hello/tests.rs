use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

fn real_hellos() -> Vec<Vec<u8>> {
    [
        include_str!("curl.hex"),
        include_str!("openssl.hex"),
        include_str!("python.hex"),
        include_str!("node.hex"),
    ]
    .map(hex)
    .into()
}

fn detect(bytes: &[u8]) -> Detected {
    Parser::default().advance(bytes)
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

#[test]
fn real_clients_are_understood() {
    for bytes in real_hellos() {
        assert_eq!(name_of(&detect(&bytes)), Some("api.repo.test"));
    }
    let bytes = hex(include_str!("openssl_noname.hex"));
    assert_eq!(detect(&bytes), Detected::TlsWithoutName);
    let Detected::Tls(node) = detect(&hex(include_str!("node.hex"))) else {
        panic!("node")
    };
    assert_eq!(node.alpn, ["h2", "http/1.1"]);
}

#[test]
fn every_prefix_needs_more_and_every_split_agrees() {
    for bytes in real_hellos() {
        for end in 0..bytes.len() {
            assert_eq!(detect(&bytes[..end]), Detected::NeedMore, "{end}");
            let mut parser = Parser::default();
            assert_eq!(parser.advance(&bytes[..end]), Detected::NeedMore);
            assert_eq!(name_of(&parser.advance(&bytes)), Some("api.repo.test"));
        }
        let mut parser = Parser::default();
        for end in 0..bytes.len() {
            assert_eq!(parser.advance(&bytes[..end]), Detected::NeedMore, "{end}");
        }
        assert_eq!(name_of(&parser.advance(&bytes)), Some("api.repo.test"));
    }
}

#[test]
fn any_number_of_records() {
    for bytes in real_hellos() {
        for size in [1, 2, 3, 7, 100, 511] {
            let split = records(&bytes[5..], size);
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
    ];
    for (bytes, expected) in malformed {
        assert_eq!(detect(&bytes), Detected::Malformed(expected), "{bytes:x?}");
    }
    let others = [
        (hello(b""), Detected::TlsWithoutName),
        (records(&message(None), 99), Detected::TlsWithoutName),
        (
            hello(&names(&[(0, b"192.0.2.1")])),
            Detected::BadName(HostNameError::IpLiteral),
        ),
        (
            hello(&names(&[(0, b"")])),
            Detected::BadName(HostNameError::Empty),
        ),
        (
            hello(&names(&[(0, b"a\0.test")])),
            Detected::BadName(HostNameError::Nul),
        ),
        (vec![0x80, 0x2e, 1, 3, 1], Detected::Sslv2),
        (vec![0x80, 0x2e, 1, 0, 2], Detected::Sslv2),
        (vec![0x80, 0x2e, 1], Detected::NeedMore),
        (vec![0x80, 0x2e, 2], Detected::NotTls),
        (b"GET / HTTP/1.1\r\n".to_vec(), Detected::NotTls),
        (b"SSH-2.0-x\r\n".to_vec(), Detected::NotTls),
        (vec![22, 2], Detected::NotTls),
        (vec![22], Detected::NeedMore),
        (vec![], Detected::NeedMore),
    ];
    for (bytes, expected) in others {
        assert_eq!(detect(&bytes), expected, "{bytes:x?}");
    }
}

#[test]
fn ech_is_seen() {
    let bytes = hello(&[names(&[(0, b"a.test")]), extension(0xfe0d, &[0])].concat());
    assert!(matches!(detect(&bytes), Detected::Tls(hello) if hello.ech));
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

/// What tls-parser reads of a hello in one record.
fn by_tls_parser(bytes: &[u8]) -> Option<Option<String>> {
    use tls_parser::{SNIType, TlsExtension, TlsMessage, TlsMessageHandshake};
    let (_, record) = tls_parser::parse_tls_plaintext(bytes).ok()?;
    let TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)) = record.msg.first()? else {
        return None;
    };
    let (_, extensions) = tls_parser::parse_tls_extensions(hello.ext.unwrap_or_default()).ok()?;
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
        for at in 0..original.len() {
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

#[test]
fn one_byte_at_a_time_is_linear_work() {
    let filler = extension(0x0a0a, &[0; 60_000]);
    let bytes = hello(&[filler, names(&[(0, b"a.test")])].concat());
    let start = std::time::Instant::now();
    let mut parser = Parser::default();
    for end in 0..bytes.len() {
        assert_eq!(parser.advance(&bytes[..end]), Detected::NeedMore);
    }
    assert_eq!(name_of(&parser.advance(&bytes)), Some("a.test"));
    assert!(start.elapsed().as_secs() < 2, "{:?}", start.elapsed());
}
