//! Policy files: any number of YAML documents each.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use thiserror::Error;

use super::{
    schema::{ClusterEgressPolicy, EgressPolicy},
    select::{Policies, Policy},
};

mod outline;

pub use outline::{Outline, Place, RuleOutline};

/// The largest file that is read: a million direct entries, each a rule of its own, have some
/// 80 MiB.
const FILE_MAX: u64 = 128 << 20;

/// The most values of one document. A file that is not too large has no more that matter, and what
/// aliases multiply is bounded by the library in other ways.
const NODES_MAX: usize = 32 << 20;

/// Why a policy file is refused. One line each.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{path}: cannot be read: {error}; check the path and its permissions")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is larger than 128 MiB.
    #[error("{path}: larger than 128 MiB; split it")]
    Large {
        /// The file.
        path: PathBuf,
    },
    /// A folder without policy files.
    #[error("{path}: no .yaml or .yml file in this folder; name the policy files, or their folder")]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// Something in it is not a policy.
    #[error("{path}:{line}:{column}: {what}")]
    Content {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// From 1, in characters.
        column: u64,
        /// What is wrong and what is allowed.
        what: String,
    },
}

/// Reads files in the order given.
///
/// # Errors
/// The first thing that is wrong, with file, line and column.
pub fn load_files<P: AsRef<Path>>(paths: &[P]) -> Result<Policies, LoadError> {
    let mut policies = Policies::default();
    for path in paths {
        let path = path.as_ref();
        policies.add(load_str(path, &read(path)?)?);
    }
    Ok(policies)
}

pub(super) fn read(path: &Path) -> Result<String, LoadError> {
    let failed = |error| LoadError::Read {
        path: path.to_owned(),
        error,
    };
    if fs::metadata(path).map_err(failed)?.len() > FILE_MAX {
        return Err(LoadError::Large {
            path: path.to_owned(),
        });
    }
    fs::read_to_string(path).map_err(failed)
}

/// Reads the documents of one file's text; `path` is for messages only.
///
/// # Errors
/// As [`load_files`].
pub fn load_str(path: &Path, text: &str) -> Result<Vec<Policy>, LoadError> {
    documents(text)
        .into_iter()
        .filter(|document| !document.is_blank())
        .map(|document| document.parse(path))
        .collect()
}

/// Reads each document of one file's text by itself, and where its parts are written; `path` is for
/// messages only. As many errors come out as documents are wrong.
pub(super) fn load_each(path: &Path, text: &str) -> Vec<Result<(Policy, Outline), LoadError>> {
    documents(text)
        .into_iter()
        .filter(|document| !document.is_blank())
        .map(|document| Ok((document.parse(path)?, document.outline())))
        .collect()
}

/// What tells the kinds apart.
#[derive(Deserialize)]
struct Header {
    kind: Option<serde_saphyr::Spanned<String>>,
}

/// One document, and the line of the file at which it begins, from 0.
struct Document<'a> {
    text: &'a str,
    line: u64,
}

/// Splits at `---` lines. YAML has them nowhere else: at the start of a line they end a document
/// even inside a block scalar (YAML 1.2.2 section 9.1.2).
fn documents(text: &str) -> Vec<Document<'_>> {
    let (mut found, mut start, mut first, mut at) = (Vec::new(), 0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = line.strip_prefix("---");
        if marker.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) {
            found.push(Document {
                text: &text[start..at],
                line: first,
            });
            (start, first) = (at, number as u64);
        }
        at += line.len();
    }
    found.push(Document {
        text: &text[start..],
        line: first,
    });
    found
}

impl Document<'_> {
    fn is_blank(&self) -> bool {
        self.text.lines().all(|line| {
            let line = line.strip_prefix("---").unwrap_or(line).trim();
            line.is_empty() || line == "..." || line.starts_with('#')
        })
    }

    fn parse(&self, path: &Path) -> Result<Policy, LoadError> {
        if let Some(policy) = self.parse_at_once(path) {
            return Ok(policy);
        }
        const KINDS: &str = "\"EgressPolicy\" or \"ClusterEgressPolicy\"";
        let header: Header = self.typed(path)?;
        match header.kind.as_ref().map(|kind| kind.value.as_str()) {
            Some("EgressPolicy") => self.typed::<EgressPolicy>(path).map(Policy::Namespaced),
            Some("ClusterEgressPolicy") => {
                self.typed::<ClusterEgressPolicy>(path).map(Policy::Cluster)
            }
            Some(other) => {
                let what = format!("unknown kind {other:?}; write {KINDS}");
                Err(self.content(path, header.kind.map(|kind| kind.referenced), what))
            }
            None => {
                let what = format!("\"kind\" is missing; write {KINDS}");
                Err(self.content(path, None, what))
            }
        }
    }

    /// Where the kind stands plainly on a line of its own, the document need not be read twice.
    /// None where anything is not as it seems: then reading it twice tells what is wrong.
    fn parse_at_once(&self, path: &Path) -> Option<Policy> {
        let mut lines = self.text.lines();
        let kind = lines.find_map(|line| line.strip_prefix("kind:"))?.trim();
        let policy = match kind {
            "EgressPolicy" => self.typed::<EgressPolicy>(path).map(Policy::Namespaced),
            "ClusterEgressPolicy" => self.typed::<ClusterEgressPolicy>(path).map(Policy::Cluster),
            _ => return None,
        };
        policy.ok().filter(|policy| policy.kind() == kind)
    }

    /// Without places where the library cannot tell them.
    fn outline(&self) -> Outline {
        let outline = serde_saphyr::from_str_with_options(self.text, options());
        Outline::new(outline.unwrap_or_default(), self.line)
    }

    fn typed<T: DeserializeOwned>(&self, path: &Path) -> Result<T, LoadError> {
        serde_saphyr::from_str_with_options(self.text, options()).map_err(|error| {
            let error = error.without_snippet();
            self.content(path, error.location(), message(error))
        })
    }

    fn content(
        &self,
        path: &Path,
        location: Option<serde_saphyr::Location>,
        what: String,
    ) -> LoadError {
        let (line, column) = location.map_or((1, 1), |at| (at.line().max(1), at.column().max(1)));
        LoadError::Content {
            path: path.to_owned(),
            line: self.line + line,
            column,
            what,
        }
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 2 * NODES_MAX,
            max_nodes: NODES_MAX,
            max_total_scalar_bytes: FILE_MAX as usize,
        },
    }
}

/// The library's message without its own location, in one line.
pub(crate) fn message(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error as E;
    if let E::SerdeUnknownField {
        field, expected, ..
    } = error
    {
        let allowed = expected.join(", ");
        return format!("unknown field \"{field}\"; allowed here: {allowed}");
    }
    if let E::SerdeUnknownVariant {
        variant, expected, ..
    } = error
    {
        let allowed = expected.join(", ");
        return format!("unknown value \"{variant}\"; allowed here: {allowed}");
    }
    let text = error.to_string();
    let text = match text.rfind(" at line ") {
        Some(end) => &text[..end],
        None => &text,
    };
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[path = "load/tests.rs"]
mod tests;
