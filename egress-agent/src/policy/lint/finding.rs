//! What is found in policies, and how bad it is.

use serde::Serialize;

use crate::policy::{load::LoadError, sources::Site};

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What kind of thing it is.
    pub kind: Kind,
    /// Where.
    #[serde(flatten)]
    pub site: Site,
    /// What it is, and what to write.
    pub message: String,
}

impl From<LoadError> for Finding {
    fn from(error: LoadError) -> Self {
        let (path, line, column) = match &error {
            LoadError::Content {
                path, line, column, ..
            } => (path, *line, *column),
            LoadError::Read { path, .. }
            | LoadError::Large { path }
            | LoadError::Empty { path } => (path, 1, 1),
        };
        let text = error.to_string();
        let place = match &error {
            LoadError::Content { .. } => format!("{}:{line}:{column}: ", path.display()),
            LoadError::Read { .. } | LoadError::Large { .. } | LoadError::Empty { .. } => {
                format!("{}: ", path.display())
            }
        };
        Self {
            level: Level::Error,
            kind: Kind::Content,
            site: Site {
                file: path.as_path().into(),
                line,
                column,
            },
            message: text.strip_prefix(&place).unwrap_or(&text).to_owned(),
        }
    }
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// `run` refuses it.
    Error,
    /// It does nothing, or more than one may think.
    Warning,
    /// It may well be meant.
    Note,
}

impl Level {
    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// What kind of thing was found; its names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The file is no policy.
    Content,
    /// More ports in a direct entry than are written out.
    TooManyPorts,
    /// Two policies have the same name.
    DuplicateName,
    /// Something else allows all of it.
    Shadowed,
    /// Nothing that it allows can happen.
    MatchesNothing,
    /// A very large network.
    Wide,
    /// No endpoint is selected.
    SelectsNothing,
    /// A wildcard whose own name is not allowed.
    WildcardWithoutName,
}

impl Kind {
    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::TooManyPorts => "too_many_ports",
            Self::DuplicateName => "duplicate_name",
            Self::Shadowed => "shadowed",
            Self::MatchesNothing => "matches_nothing",
            Self::Wide => "wide",
            Self::SelectsNothing => "selects_nothing",
            Self::WildcardWithoutName => "wildcard_without_name",
        }
    }
}
