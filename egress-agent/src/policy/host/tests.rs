use super::*;

fn wire(bytes: &[u8]) -> Result<String, HostNameError> {
    HostName::from_wire(bytes).map(|n| n.as_str().to_owned())
}

#[test]
fn one_canonical_form() {
    for text in [
        "api.repo.test",
        "API.Repo.TEST",
        "api.repo.test.",
        "API.repo.test.",
    ] {
        assert_eq!(wire(text.as_bytes()).unwrap(), "api.repo.test", "{text}");
    }
}

#[test]
fn what_is_no_name_on_the_wire() {
    use HostNameError as E;
    let long_label = format!("{}.test", "a".repeat(64));
    let long_name = format!("{}test", "abcdefg.".repeat(32));
    let table: &[(&[u8], E)] = &[
        (b"", E::Empty),
        (b".", E::Empty),
        (b"a\0.test", E::Nul),
        (b"a%2e.test", E::Percent),
        (b"a b.test", E::Space),
        (b"a\tb.test", E::Space),
        (b"[a.test]", E::Bracket),
        (b"a.test:443", E::Port),
        (b"a..test", E::EmptyLabel),
        (b".a.test", E::EmptyLabel),
        (b"a.test..", E::EmptyLabel),
        (long_label.as_bytes(), E::LongLabel),
        (long_name.as_bytes(), E::LongName),
        ("b\u{fc}cher.test".as_bytes(), E::NotAscii),
        (b"a\xff.test", E::NotAscii),
        (b"192.0.2.1", E::IpLiteral),
        (b"192.0.2.1.", E::IpLiteral),
        (b"0x7f.1", E::IpLiteral),
        (b"127.1", E::IpLiteral),
        (b"2130706433", E::IpLiteral),
        (b"0x7f000001", E::IpLiteral),
        (b"a.0x1", E::IpLiteral),
        (b"::1", E::IpLiteral),
        (b"[::1]", E::IpLiteral),
        (b"2001:db8::1", E::IpLiteral),
        (b"*.test", E::Character),
        (b"a/b.test", E::Character),
        (b"a@b.test", E::Character),
    ];
    for (bytes, error) in table {
        assert_eq!(
            wire(bytes),
            Err(*error),
            "{:?}",
            String::from_utf8_lossy(bytes)
        );
    }
}

#[test]
fn limits_are_exact() {
    let label = "a".repeat(63);
    assert!(wire(format!("{label}.test").as_bytes()).is_ok());
    let name = format!("{label}.{label}.{label}.{}", "b".repeat(61));
    assert_eq!(name.len(), 253);
    assert!(wire(name.as_bytes()).is_ok());
    assert!(wire(format!("{name}.").as_bytes()).is_ok());
}

#[test]
fn u_labels_in_policy_become_a_labels() {
    let name = HostName::from_text("B\u{fc}cher.test").unwrap();
    assert_eq!(name.as_str(), "xn--bcher-kva.test");
    let pattern: HostPattern = "*.b\u{fc}cher.test".parse().unwrap();
    assert_eq!(pattern.to_string(), "*.xn--bcher-kva.test");
}

#[test]
fn a_wildcard_stands_for_whole_labels_and_never_for_nothing() {
    let pattern: HostPattern = "*.cdn.test".parse().unwrap();
    let table = [
        ("a.cdn.test", true),
        ("a.b.cdn.test", true),
        ("cdn.test", false),
        ("acdn.test", false),
        ("cdn.test.evil.test", false),
        ("test", false),
    ];
    for (name, expected) in table {
        let name = HostName::from_text(name).unwrap();
        assert_eq!(pattern.matches(&name), expected, "{name}");
    }
}

#[test]
fn patterns_that_are_refused_say_what_to_write() {
    let table = [
        ("*", "every host"),
        ("*.", "every host"),
        ("a*.example.com", "whole first label"),
        ("a.*.example.com", "whole first label"),
        ("*.*.example.com", "whole first label"),
        ("*.com", "public suffix"),
        ("*.co.uk", "public suffix"),
        ("*.github.io", "public suffix"),
        ("*.test", "public suffix"),
        ("192.0.2.1", "cidrs"),
        ("2001:db8::1", "cidrs"),
        ("https://a.test/", "host name alone"),
        ("a.test:443", "host name alone"),
        ("a..test", "empty label"),
        ("", "empty"),
    ];
    for (text, part) in table {
        let error = text.parse::<HostPattern>().unwrap_err().to_string();
        assert!(error.contains(part), "{text:?}: {error}");
        assert!(!error.contains('\n'));
    }
}

#[test]
fn parents_are_walked_label_by_label() {
    let name = HostName::from_text("a.b.c").unwrap();
    assert_eq!(name.parents().collect::<Vec<_>>(), ["b.c", "c"]);
}
