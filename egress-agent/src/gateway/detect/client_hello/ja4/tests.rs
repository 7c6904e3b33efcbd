use super::*;

/// Chrome's, as the specification takes it for its example.
fn example() -> Fields<'static> {
    let mut extensions = vec![
        0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005, 0x0023, 0x0012,
        0x002b, 0xff01, 0x000b, 0x000a, 0x0015,
    ];
    extensions.sort_unstable();
    Fields {
        legacy_version: 0x0303,
        suites: vec![
            0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014,
            0x009c, 0x009d, 0x002f, 0x0035,
        ],
        extensions,
        server_name: Some(b"a.test"),
        alpn: vec![b"h2", b"http/1.1"],
        supported_versions: Some(vec![0x0304, 0x0303]),
        signature_algorithms: vec![
            0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601,
        ],
        ech: false,
    }
}

const EXAMPLE: &str = "t13d1516h2_8daaf6152771_e5627efa2ab1";

#[test]
fn the_example_of_the_specification() {
    assert_eq!(fingerprint(&example()), EXAMPLE);
}

#[test]
fn grease_is_ignored_wherever_it_is() {
    let mut hello = example();
    hello.suites.insert(0, 0xfafa);
    hello.extensions.insert(3, 0x0a0a);
    hello.signature_algorithms.insert(2, 0x3a3a);
    hello.supported_versions = Some(vec![0x5a5a, 0x0304, 0x0303]);
    assert_eq!(fingerprint(&hello), EXAMPLE);
    for (value, grease) in [
        (0x0a0a, true),
        (0xfafa, true),
        (0x0a1a, false),
        (0x0b0b, false),
    ] {
        assert_eq!(is_grease(value), grease, "{value:#x}");
    }
}

#[test]
fn without_signature_algorithms() {
    let mut hello = example();
    hello.signature_algorithms.clear();
    assert_eq!(fingerprint(&hello), "t13d1516h2_8daaf6152771_6d807ffa2a79");
}

#[test]
fn where_there_is_nothing() {
    let hello = Fields {
        legacy_version: 0x0303,
        ..Fields::default()
    };
    assert_eq!(fingerprint(&hello), "t12i000000_000000000000_000000000000");
}

#[test]
fn counts_end_at_99() {
    let mut hello = example();
    hello.suites = (0..300).collect();
    hello.extensions = (100..400).collect();
    assert!(fingerprint(&hello).starts_with("t13d9999h2_"));
}

#[test]
fn versions() {
    let versions = [
        (0x0304, "13"),
        (0x0303, "12"),
        (0x0302, "11"),
        (0x0301, "10"),
        (0x0300, "s3"),
        (0x0002, "s2"),
        (0xfeff, "d1"),
        (0xfefd, "d2"),
        (0xfefc, "d3"),
        (0x1234, "00"),
    ];
    for (number, expected) in versions {
        let hello = Fields {
            legacy_version: number,
            ..Fields::default()
        };
        assert_eq!(version(&hello), expected);
    }
}

/// The examples of the specification, and what it says of none.
#[test]
fn protocols() {
    let protocols: [(&[u8], &str); 10] = [
        (b"h2", "h2"),
        (b"http/1.1", "h1"),
        (b"x", "xx"),
        (b"", "00"),
        (b"\xab", "ab"),
        (b"\xab\xcd", "ad"),
        (b"\x30\xab", "3b"),
        (b"\x30\x31\xab\xcd", "3d"),
        (b"\x30\xab\xcd\x31", "01"),
        (b"a/", "6f"),
    ];
    for (protocol, expected) in protocols {
        let shown: String = alpn(protocol).iter().collect();
        assert_eq!(shown, expected, "{}", protocol.escape_ascii());
    }
}
