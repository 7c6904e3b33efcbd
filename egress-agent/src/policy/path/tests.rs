use proptest::prelude::*;

use super::*;

fn normal(text: &str) -> Result<String, PathError> {
    Path::normalise(text.as_bytes()).map(|path| path.0)
}

#[test]
fn what_has_a_normal_form() {
    for (raw, expected) in [
        ("/", "/"),
        ("/a", "/a"),
        ("/a/", "/a/"),
        ("//a///b//", "/a/b/"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/../../a", "/a"),
        ("/..", "/"),
        ("/%61%2d%5F%7e", "/a-_~"),
        ("/a%3fb%c3%a9", "/a%3Fb%C3%A9"),
        ("/a%252fb", "/a%252fb"),
        ("/...", "/..."),
        ("/a;v=1/b", "/a;v=1/b"),
        ("/!$&'()*+,;=:@", "/!$&'()*+,;=:@"),
    ] {
        assert_eq!(normal(raw).as_deref(), Ok(expected), "{raw}");
    }
}

#[test]
fn what_has_none() {
    for (raw, expected) in [
        ("", PathError::NoSlash),
        ("a", PathError::NoSlash),
        ("/%", PathError::Percent),
        ("/%4", PathError::Percent),
        ("/%4/a", PathError::Percent),
        ("/%zz", PathError::Percent),
        ("/%+1", PathError::Percent),
        ("/a\0", PathError::Control),
        ("/a%00", PathError::Control),
        ("/a%0d%0a", PathError::Control),
        ("/a\\b", PathError::Backslash),
        ("/a%5cb", PathError::Backslash),
        ("/a%2fb", PathError::EncodedSlash),
        ("/a%2Fb", PathError::EncodedSlash),
        ("/%2e", PathError::EncodedDots),
        ("/a/%2e%2E/b", PathError::EncodedDots),
        ("/a/.%2e/b", PathError::EncodedDots),
        ("/a/..;/b", PathError::EncodedDots),
        ("/a/..;x=1/b", PathError::EncodedDots),
        ("/a/..%3b/b", PathError::EncodedDots),
        ("/a/.;/b", PathError::EncodedDots),
        ("/a b", PathError::Character),
        ("/a#b", PathError::Character),
        ("/a?b", PathError::Character),
        ("/\u{e9}", PathError::Character),
        ("/<", PathError::Character),
    ] {
        assert_eq!(normal(raw), Err(expected), "{raw}");
    }
}

#[test]
fn patterns() {
    for (pattern, path, expected) in [
        ("/", "/", true),
        ("/", "/a", false),
        ("/a", "/a", true),
        ("/a", "/a/", false),
        ("/a/", "/a", false),
        ("/*", "/", true),
        ("/*", "/a/b", true),
        ("/v1/*", "/v1", false),
        ("/v1/*", "/v1/", true),
        ("/v1/*", "/v1/a/b", true),
        ("/v1/*", "/v10/a", false),
        ("/v1/*/status", "/v1/7/status", true),
        ("/v1/*/status", "/v1/7/8/status", false),
        ("/*/b/*", "/a/b/", true),
        ("/*/b/*", "/a/b", false),
        ("/A", "/a", false),
    ] {
        let pattern: PathPattern = pattern.parse().unwrap();
        let path = Path::normalise(path.as_bytes()).unwrap();
        assert_eq!(pattern.matches(&path), expected, "{pattern:?} {path}");
    }
    let all: PathPattern = "/*".parse().unwrap();
    assert!(!all.matches(&Path::asterisk()));
}

#[test]
fn a_pattern_that_nothing_would_match_is_refused() {
    for (text, part) in [
        ("v1", "is no path"),
        ("*", "is no path"),
        ("/v1/../a", "write \"/a\""),
        ("/v1//a", "write \"/v1/a\""),
        ("/%61", "write \"/a\""),
        ("/v1/a*", "a whole segment"),
        ("/**", "a whole segment"),
        ("/a%2fb", "encoded slash"),
    ] {
        let error = text.parse::<PathPattern>().unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

/// The obvious way: rewrite the text until nothing changes.
fn naive(raw: &str) -> Option<String> {
    let lower = raw.to_ascii_lowercase();
    let never = ["%2f", "%5c", "\\", "%7f"];
    if !raw.starts_with('/') || never.iter().any(|part| lower.contains(part)) {
        return None;
    }
    let mut text = raw.to_owned();
    for code in 0..=255_u8 {
        let plain = code.is_ascii_alphanumeric() || b"-._~".contains(&code);
        for from in [format!("%{code:02x}"), format!("%{code:02X}")] {
            if code < 0x20 && text.contains(&from) {
                return None;
            }
            // `%2565` must not become `%65` and then `e`.
            let to = match plain {
                true => format!("\u{1}{}", char::from(code)),
                false => format!("\u{2}{code:02X}"),
            };
            text = text.replace(&from, &to);
        }
    }
    if text.contains('%') {
        return None;
    }
    text = text.replace('\u{1}', "").replace('\u{2}', "%");
    loop {
        let mut next = text.replace("//", "/");
        if let Some(at) = next.find("/./") {
            next.replace_range(at..at + 2, "");
        } else if let Some(at) = next.find("/../") {
            let from = next[..at].rfind('/').unwrap_or(at);
            next.replace_range(from..at + 3, "");
        } else if next.ends_with("/.") || next.ends_with("/..") {
            next.push('/');
        }
        if next == text {
            return Some(text);
        }
        text = next;
    }
}

fn raw_path() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "/", "/", "/", ".", "..", "a", "b", "%61", "%2d", "%2D", "%25", "%3f", "%3B", ";", "%2e",
        "%2f", "%5C", "%00", "\\", "*", "%c3%A9", "%252e",
    ]);
    prop::collection::vec(part, 0..12).prop_map(|parts| format!("/{}", parts.concat()))
}

proptest! {
    #[test]
    fn agrees_with_the_obvious_way(raw in raw_path()) {
        let ours = normal(&raw).ok();
        // The naive way does not know of these: the table above does.
        let dots = normal(&raw) == Err(PathError::EncodedDots);
        prop_assert!(dots || ours == naive(&raw), "{raw}: {ours:?}, {:?}", naive(&raw));
    }

    #[test]
    fn a_normal_form_is_its_own(raw in raw_path()) {
        if let Ok(once) = normal(&raw) {
            prop_assert_eq!(normal(&once), Ok(once.clone()));
            prop_assert!(once.starts_with('/') && !once.contains("//"));
            let is_dots = |part: &str| matches!(part, "." | "..");
            prop_assert!(!once.split('/').any(is_dots), "{}", once);
        }
    }

    #[test]
    fn patterns_agree_with_the_obvious_match(
        pattern in "(/(a|b|\\*)){1,3}/?",
        raw in "(/(a|b|c)?){1,5}",
    ) {
        if let (Ok(pattern), Ok(path)) = (pattern.parse::<PathPattern>(), Path::normalise(raw.as_bytes())) {
            prop_assert_eq!(pattern.matches(&path), obvious(&pattern.text, path.as_str()), "{:?} {}", pattern, path);
        }
    }
}

/// Character by character: `*` takes one or more that are no slash, and at the end any number.
fn obvious(pattern: &str, path: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    if let Some(rest) = pattern.strip_prefix('*') {
        let end = path.find('/').unwrap_or(path.len());
        return end > 0 && obvious(rest, &path[end..]);
    }
    match (pattern.chars().next(), path.chars().next()) {
        (None, None) => true,
        (Some(a), Some(b)) => a == b && obvious(&pattern[1..], &path[1..]),
        (None, Some(_)) | (Some(_), None) => false,
    }
}
