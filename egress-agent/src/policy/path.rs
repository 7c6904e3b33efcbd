//! Paths of requests in the one form that is matched and sent on (RFC 3986 section 6.2.2), and
//! patterns over them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A path in its normal form: it begins with `/`; dot segments and doubled slashes are removed,
/// unreserved characters are not percent-encoded, and the hexadecimal digits of what is are upper
/// case. Or `*`, which `OPTIONS` alone may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path(String);

/// Why a path has no normal form that everybody would read alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// The path does not begin with a slash.
    #[error("a path begins with /")]
    NoSlash,
    /// A percent sign without two hexadecimal digits.
    #[error("a percent sign is followed by two hexadecimal digits")]
    Percent,
    /// NUL or another control character, percent-encoded or not.
    #[error("the path holds a control character")]
    Control,
    /// A backslash, percent-encoded or not: some servers take it for a slash.
    #[error("the path holds a backslash")]
    Backslash,
    /// A percent-encoded slash: some servers decode it before they split the path.
    #[error("the path holds an encoded slash")]
    EncodedSlash,
    /// A dot segment that is percent-encoded or has a parameter (`%2e%2e`, `..;`): servers differ
    /// in what they take for one.
    #[error("the path holds a disguised dot segment")]
    EncodedDots,
    /// A character that must be percent-encoded.
    #[error("the path holds a character that must be percent-encoded")]
    Character,
}

impl PathError {
    /// The stable name in records.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoSlash => "path_without_slash",
            Self::Percent => "path_percent",
            Self::Control => "path_control",
            Self::Backslash => "path_backslash",
            Self::EncodedSlash => "path_encoded_slash",
            Self::EncodedDots => "path_encoded_dots",
            Self::Character => "path_character",
        }
    }
}

impl Path {
    /// `OPTIONS *`: the server as a whole.
    pub fn asterisk() -> Self {
        Self("*".to_owned())
    }

    /// From the bytes of a request target, without its query.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn normalise(raw: &[u8]) -> Result<Self, PathError> {
        let Some(rest) = raw.strip_prefix(b"/") else {
            return Err(PathError::NoSlash);
        };
        let mut kept: Vec<String> = Vec::new();
        let mut ends_open = false;
        for segment in rest.split(|byte| *byte == b'/') {
            let normal = segment_of(segment)?;
            // What is left of a removed segment is the slash before it.
            ends_open = matches!(normal.as_str(), "" | "." | "..");
            match normal.as_str() {
                "" | "." => {}
                ".." => drop(kept.pop()),
                _ => kept.push(normal),
            }
        }
        let mut path = String::with_capacity(raw.len());
        for segment in &kept {
            path.push('/');
            path.push_str(segment);
        }
        if ends_open || kept.is_empty() {
            path.push('/');
        }
        Ok(Self(path))
    }

    /// The normal form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn segment_of(raw: &[u8]) -> Result<String, PathError> {
    let mut normal = String::with_capacity(raw.len());
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        at += 1;
        if byte != b'%' {
            normal.push(plain(byte)?);
            continue;
        }
        let digits = raw.get(at..at + 2).ok_or(PathError::Percent)?;
        at += 2;
        escaped(digits, &mut normal)?;
    }
    if is_disguised(raw, &normal) {
        return Err(PathError::EncodedDots);
    }
    Ok(normal)
}

/// A character that stands for itself (RFC 3986 section 3.3, `pchar`).
fn plain(byte: u8) -> Result<char, PathError> {
    match byte {
        _ if is_unreserved(byte) => Ok(byte.into()),
        b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':'
        | b'@' => Ok(byte.into()),
        b'\\' => Err(PathError::Backslash),
        0..=0x1f | 0x7f => Err(PathError::Control),
        _ => Err(PathError::Character),
    }
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn escaped(digits: &[u8], normal: &mut String) -> Result<(), PathError> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (Some(high), Some(low)) = (
        digits.first().and_then(digit),
        digits.get(1).and_then(digit),
    ) else {
        return Err(PathError::Percent);
    };
    let byte = (high << 4 | low) as u8;
    match byte {
        0..=0x1f | 0x7f => Err(PathError::Control),
        b'\\' => Err(PathError::Backslash),
        b'/' => Err(PathError::EncodedSlash),
        _ if is_unreserved(byte) => {
            normal.push(byte.into());
            Ok(())
        }
        _ => {
            normal.push_str(&format!("%{byte:02X}"));
            Ok(())
        }
    }
}

/// Whether this is a dot segment to somebody who decodes it, or cuts parameters off, and not
/// simply one.
fn is_disguised(raw: &[u8], normal: &str) -> bool {
    let name = normal.split(';').next().unwrap_or_default();
    let name = name.split("%3B").next().unwrap_or_default();
    matches!(name, "." | "..") && raw != name.as_bytes()
}

/// What a rule says of paths: segments, of which `*` stands for any one, and a last `*` for
/// whatever comes below.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern {
    text: String,
}

/// Why text is no path pattern; the message says what to write.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PathPatternError {
    /// It has no normal form.
    #[error("{0:?} is no path: {1}; write one such as \"/v1/*\"")]
    Path(String, PathError),
    /// It has another normal form.
    #[error("{0:?} is never asked for in this form; write {1:?}")]
    Form(String, String),
    /// A `*` beside other characters.
    #[error(
        "{0:?}: \"*\" stands for a whole segment, or at the end for all that is below; write one such as \"/v1/*\" or \"/v1/*/status\""
    )]
    Partial(String),
}

impl PathPattern {
    /// Whether the path is one of these.
    pub fn matches(&self, path: &Path) -> bool {
        let Some(path) = path.as_str().strip_prefix('/') else {
            return false;
        };
        let (pattern, is_open) = match self.text.strip_suffix("/*") {
            Some(front) => (front, true),
            None => (self.text.as_str(), false),
        };
        let mut segments = path.split('/');
        for wanted in pattern.split('/').skip(1) {
            let Some(segment) = segments.next() else {
                return false;
            };
            let fits = match wanted {
                "*" => !segment.is_empty(),
                wanted => wanted == segment,
            };
            if !fits {
                return false;
            }
        }
        // What is below has at least a slash before it.
        segments.next().is_some() == is_open
    }
}

impl PathPattern {
    /// Whether it stands for every path that the other stands for.
    pub fn covers(&self, other: &Self) -> bool {
        let split = |pattern: &Self| {
            let (front, is_open) = match pattern.text.strip_suffix("/*") {
                Some(front) => (front.to_owned(), true),
                None => (pattern.text.clone(), false),
            };
            let segments: Vec<_> = front.split('/').skip(1).map(str::to_owned).collect();
            (segments, is_open)
        };
        let ((ours, ours_open), (theirs, theirs_open)) = (split(self), split(other));
        let fits = |(ours, theirs): (&String, &String)| match ours.as_str() {
            "*" => !theirs.is_empty(),
            segment => segment == theirs,
        };
        let enough = match (ours_open, theirs_open) {
            (true, true) => theirs.len() >= ours.len(),
            (true, false) => theirs.len() > ours.len(),
            (false, true) => false,
            (false, false) => theirs.len() == ours.len(),
        };
        enough && ours.iter().zip(&theirs).all(fits)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for PathPattern {
    type Err = PathPatternError;

    fn from_str(text: &str) -> Result<Self, PathPatternError> {
        let path = Path::normalise(text.as_bytes())
            .map_err(|error| PathPatternError::Path(text.to_owned(), error))?;
        if path.as_str() != text {
            return Err(PathPatternError::Form(text.to_owned(), path.0));
        }
        if text
            .split('/')
            .any(|part| part.contains('*') && part != "*")
        {
            return Err(PathPatternError::Partial(text.to_owned()));
        }
        Ok(Self { text: path.0 })
    }
}

impl TryFrom<String> for PathPattern {
    type Error = PathPatternError;
    fn try_from(text: String) -> Result<Self, PathPatternError> {
        text.parse()
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> Self {
        pattern.text
    }
}

#[cfg(test)]
#[path = "path/tests.rs"]
mod tests;
