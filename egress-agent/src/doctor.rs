//! What this kernel and machine have and lack. Wherever that is possible a thing is tried, not
//! concluded from a version; whatever is made for that is gone when the check returns.

use std::fmt::Display;

use serde::Serialize;

mod control_groups;
mod gateway;
mod kernel;
mod limits;
mod network;
mod privilege;
mod programs;
pub mod render;
mod veth;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// The agent runs, with the consequence that is named.
    Warning,
    /// The agent cannot run.
    Missing,
}

impl Status {
    /// The word at the head of a line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Missing => "missing",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at; stable.
    pub name: String,
    /// How it came out.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What follows from it, where something does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consequence: Option<String>,
    /// What to do about it, where something can be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Check {
    fn ok(name: &str, found: impl Display) -> Self {
        Self {
            name: name.to_owned(),
            status: Status::Ok,
            found: found.to_string(),
            consequence: None,
            mend: None,
        }
    }

    fn warning(name: &str, found: impl Display, consequence: &str, mend: &str) -> Self {
        Self {
            name: name.to_owned(),
            status: Status::Warning,
            found: found.to_string(),
            consequence: Some(consequence.to_owned()),
            mend: Some(mend.to_owned()),
        }
    }

    fn missing(name: &str, found: impl Display, consequence: &str, mend: &str) -> Self {
        Self {
            status: Status::Missing,
            ..Self::warning(name, found, consequence, mend)
        }
    }
}

/// Looks at everything, from what all else needs to what is good to know.
pub fn examine() -> Vec<Check> {
    let mut checks = privilege::checks();
    checks.extend(kernel::checks());
    checks.extend(control_groups::checks());
    checks.extend(programs::checks());
    checks.extend(network::checks());
    checks.extend(gateway::checks());
    checks.extend(limits::checks());
    checks
}

/// Whether nothing that the agent needs is missing.
pub fn can_run(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.status != Status::Missing)
}

/// A file of one line below `/proc` or `/sys`; `None` where it cannot be read.
fn line_of(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}
