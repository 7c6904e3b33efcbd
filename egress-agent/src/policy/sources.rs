//! Policies together with where they are written, for the tools; `run` needs no places.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;

use super::{
    load::{LoadError, Outline, Place, RuleOutline, load_each, read},
    select::{Policies, Policy},
};

/// All policies of some files.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// In the order they were loaded.
    pub policies: Policies,
    outlines: Vec<(Arc<Path>, Outline)>,
}

/// A place in a file: `policy.yaml:7:5`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Site {
    /// The file, as it was named.
    pub file: Arc<Path>,
    /// From 1.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
}

/// Which list of a policy a rule stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum List {
    /// `egress`.
    Egress,
    /// `direct`.
    Direct,
    /// `replies`.
    Replies,
}

/// A rule, by where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId {
    /// The policy, by its place in the order of loading.
    pub policy: usize,
    /// Its list.
    pub list: List,
    /// The place in the list.
    pub index: usize,
}

impl Sources {
    /// Reads files, and of folders what ends in `.yaml` or `.yml`, in the order of their names.
    /// What is right is there also where something else is wrong.
    pub fn load<P: AsRef<Path>>(paths: &[P]) -> (Self, Vec<LoadError>) {
        let (mut sources, mut errors) = (Self::default(), Vec::new());
        for path in paths {
            match files(path.as_ref()) {
                Ok(files) => {
                    for file in files {
                        sources.add(&file, &mut errors);
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        (sources, errors)
    }

    /// Reads the text of one file; `path` is for messages only.
    pub fn of_text(path: &Path, text: &str) -> (Self, Vec<LoadError>) {
        let (mut sources, mut errors) = (Self::default(), Vec::new());
        sources.add_text(path, text, &mut errors);
        (sources, errors)
    }

    /// The policy in this place of the order of loading.
    pub fn policy(&self, policy: usize) -> Option<&Policy> {
        self.policies.iter().nth(policy)
    }

    /// Where a policy is written.
    ///
    /// # Panics
    /// There is no such policy.
    pub fn policy_site(&self, policy: usize) -> Site {
        let (file, outline) = &self.outlines[policy];
        site(file, outline.policy)
    }

    /// Where a rule is written; its policy where that cannot be told.
    ///
    /// # Panics
    /// There is no such policy.
    pub fn rule_site(&self, id: RuleId) -> Site {
        let rule = self.rule_outline(id).map(|rule| rule.rule);
        self.site_or_policy(id.policy, rule)
    }

    /// Where one of a rule's hosts or networks is written; the rule where that cannot be told.
    ///
    /// # Panics
    /// There is no such policy.
    pub fn item_site(&self, id: RuleId, item: usize) -> Site {
        let rule = self.rule_outline(id);
        let place = rule.map(|rule| rule.items.get(item).copied().unwrap_or(rule.rule));
        self.site_or_policy(id.policy, place)
    }

    /// As records show it: `EgressPolicy shop/orders egress[0]`.
    pub fn rule_name(&self, id: RuleId) -> String {
        let policy = self.policy(id.policy).map(Policy::name).unwrap_or_default();
        format!("{policy} {}[{}]", id.list, id.index)
    }

    fn add(&mut self, path: &Path, errors: &mut Vec<LoadError>) {
        match read(path) {
            Ok(text) => self.add_text(path, &text, errors),
            Err(error) => errors.push(error),
        }
    }

    fn add_text(&mut self, path: &Path, text: &str, errors: &mut Vec<LoadError>) {
        let file: Arc<Path> = path.into();
        let mut policies = Vec::new();
        for document in load_each(path, text) {
            match document {
                Ok((policy, outline)) => {
                    policies.push(policy);
                    self.outlines.push((Arc::clone(&file), outline));
                }
                Err(error) => errors.push(error),
            }
        }
        self.policies.add(policies);
    }

    fn rule_outline(&self, id: RuleId) -> Option<&RuleOutline> {
        let (_, outline) = self.outlines.get(id.policy)?;
        let list = match id.list {
            List::Egress => &outline.egress,
            List::Direct => &outline.direct,
            List::Replies => &outline.replies,
        };
        list.get(id.index)
    }

    fn site_or_policy(&self, policy: usize, place: Option<Place>) -> Site {
        let (file, outline) = &self.outlines[policy];
        site(file, place.unwrap_or(outline.policy))
    }
}

fn site(file: &Arc<Path>, place: Place) -> Site {
    Site {
        file: Arc::clone(file),
        line: place.line,
        column: place.column,
    }
}

/// The file itself, or the policy files of a folder.
fn files(path: &Path) -> Result<Vec<PathBuf>, LoadError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |error| LoadError::Read {
        path: path.to_owned(),
        error,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let is_yaml = file
            .extension()
            .is_some_and(|it| it == "yaml" || it == "yml");
        if is_yaml && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(LoadError::Empty {
            path: path.to_owned(),
        }),
        false => Ok(files),
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Egress => "egress",
            Self::Direct => "direct",
            Self::Replies => "replies",
        })
    }
}
