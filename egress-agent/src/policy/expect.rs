//! Expectations of policies: a table of who may reach what, that is held against them.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;
use thiserror::Error;

use super::{
    explain::{
        Explanation, Outcome, Subject, explain,
        node::NodeView,
        question::{Question, Spoken},
    },
    load::{LoadError, message},
    rule::Transport,
    selection::parse_identity,
    sources::Sources,
};

/// The file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Table {
    /// Policy files or folders, relative to this file's folder.
    policies: Vec<PathBuf>,
    cases: Vec<Spanned<Case>>,
}

/// One expectation.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    /// `NAMESPACE/SERVICEACCOUNT`.
    from: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// `HOST[:PORT]` or `IP[:PORT]`.
    to: String,
    #[serde(default)]
    protocol: Option<Transport>,
    expect: Expect,
    /// The whole name of the rule that allows it.
    #[serde(default)]
    rule: Option<String>,
    /// The stable name of the reason why it is denied.
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    websocket: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expect {
    Allow,
    Deny,
    Audit,
}

/// Why a table is not held against anything. One line each.
#[derive(Debug, Error)]
pub enum ExpectError {
    /// The file cannot be read.
    #[error("{path}: cannot be read: {error}; check the path and its permissions")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is no table.
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
    /// It expects nothing.
    #[error("{path}: \"cases\" is empty; write what is expected")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A policy file that it names.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// What came of a case.
#[derive(Clone, Debug, Serialize)]
pub struct Tried {
    /// Of the case in the file, from 1.
    pub line: u64,
    /// Whose attempt.
    pub from: String,
    /// Where to.
    pub to: String,
    /// What is not as expected; none where all is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// Holds a table's expectations against the policies that it names.
///
/// # Errors
/// The table or a policy cannot be used, or a case makes no sense.
pub fn hold(path: &Path) -> Result<Vec<Tried>, ExpectError> {
    let text = fs::read_to_string(path).map_err(|error| ExpectError::Read {
        path: path.to_owned(),
        error,
    })?;
    let table: Table = serde_saphyr::from_str(&text).map_err(|error| {
        let error = error.without_snippet();
        content(path, error.location(), message(error))
    })?;
    if table.cases.is_empty() {
        return Err(ExpectError::Empty {
            path: path.to_owned(),
        });
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let files: Vec<_> = table.policies.iter().map(|it| folder.join(it)).collect();
    let (sources, errors) = Sources::load(&files);
    if let Some(error) = errors.into_iter().next() {
        return Err(error.into());
    }
    let cases = table.cases.iter();
    cases
        .map(|case| {
            let at = case.referenced;
            attempt(&case.value, at.line(), &sources).map_err(|what| content(path, Some(at), what))
        })
        .collect()
}

fn content(path: &Path, at: Option<serde_saphyr::Location>, what: String) -> ExpectError {
    ExpectError::Content {
        path: path.to_owned(),
        line: at.map_or(1, |at| at.line().max(1)),
        column: at.map_or(1, |at| at.column().max(1)),
        what,
    }
}

fn attempt(case: &Case, line: u64, sources: &Sources) -> Result<Tried, String> {
    let mut identity = parse_identity(&case.from)?;
    identity.labels = case.labels.clone();
    let subject = Subject {
        identity,
        mode: None,
        node: NodeView::default(),
    };
    match case.expect {
        Expect::Allow if case.reason.is_some() => {
            return Err("what is allowed has no \"reason\"; leave it out, or expect deny".into());
        }
        Expect::Deny | Expect::Audit if case.rule.is_some() => {
            return Err("what is denied has no \"rule\"; leave it out, or expect allow".into());
        }
        Expect::Allow | Expect::Deny | Expect::Audit => {}
    }
    let transport = case.protocol.unwrap_or(Transport::Tcp);
    let question = Question::new(&case.to, transport, spoken(case)?)?;
    let found = explain(sources, &subject, &question)?;
    Ok(Tried {
        line,
        failed: disagrees(case, &found),
        from: found.from,
        to: found.to,
    })
}

fn spoken(case: &Case) -> Result<Option<Spoken>, String> {
    let is_http =
        case.method.is_some() || case.path.is_some() || case.websocket || !case.headers.is_empty();
    if !is_http {
        return Ok(None);
    }
    let headers = case.headers.iter();
    let headers: Vec<_> = headers
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let (method, path) = (case.method.as_deref(), case.path.as_deref());
    Spoken::new(method, path, &headers, case.websocket).map(Some)
}

/// What was found, where it is not what was expected.
fn disagrees(case: &Case, found: &Explanation) -> Option<String> {
    let expected = match case.expect {
        Expect::Allow => Outcome::Allow,
        Expect::Deny => Outcome::Deny,
        Expect::Audit => Outcome::Audit,
    };
    let rule = found.rule.as_ref().map(|rule| rule.name.as_str());
    let same_rule = case.rule.is_none() || case.rule.as_deref() == rule;
    let same_reason = case.reason.is_none() || case.reason.as_deref() == found.reason;
    if expected == found.verdict && same_rule && same_reason {
        return None;
    }
    let wanted = case.rule.as_deref().or(case.reason.as_deref());
    let wanted = wanted.map(|it| format!(" ({it})")).unwrap_or_default();
    let by = rule.or(found.reason).map(|it| format!(" ({it})"));
    Some(format!(
        "expected {}{wanted}, found {}{}",
        expected.as_str(),
        found.verdict.as_str(),
        by.unwrap_or_default()
    ))
}
