//! Where the parts of a policy are written.

use serde::{Deserialize, de::IgnoredAny};
use serde_saphyr::{Location, Spanned};

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// From 1.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
}

/// Where a policy and its rules are written. Lists are as long as those of the policy, or empty
/// where their places cannot be told.
#[derive(Clone, Debug)]
pub struct Outline {
    /// Of `metadata`.
    pub policy: Place,
    /// Of `egress`.
    pub egress: Vec<RuleOutline>,
    /// Of `direct`.
    pub direct: Vec<RuleOutline>,
    /// Of `replies`.
    pub replies: Vec<RuleOutline>,
}

/// Where a rule and its hosts or networks are written.
#[derive(Clone, Debug)]
pub struct RuleOutline {
    /// Where it begins.
    pub rule: Place,
    /// Its hosts or networks, in their order.
    pub items: Vec<Place>,
}

/// A document as far as places are asked for.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawOutline {
    metadata: Option<Spanned<IgnoredAny>>,
    spec: RawSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawSpec {
    egress: Vec<Spanned<RawRule>>,
    direct: Vec<Spanned<RawRule>>,
    replies: Vec<Spanned<RawRule>>,
}

type Items = Vec<Spanned<IgnoredAny>>;

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawRule {
    hosts: Items,
    http: RawHttp,
    cidrs: Items,
    from: Items,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawHttp {
    hosts: Items,
}

impl Outline {
    /// Of a document that begins after this many lines of the file.
    pub(super) fn new(raw: RawOutline, lines: u64) -> Self {
        let place = |at: Location| Place {
            line: lines + at.line().max(1),
            column: at.column().max(1),
        };
        let rule = |raw: Spanned<RawRule>| {
            let items = [
                raw.value.hosts,
                raw.value.http.hosts,
                raw.value.cidrs,
                raw.value.from,
            ];
            let items = items.into_iter().flatten();
            RuleOutline {
                rule: place(raw.referenced),
                items: items.map(|item| place(item.referenced)).collect(),
            }
        };
        let rules = |raw: Vec<Spanned<RawRule>>| raw.into_iter().map(rule).collect();
        let policy = raw.metadata.map(|metadata| place(metadata.referenced));
        Self {
            policy: policy.unwrap_or(place(Location::UNKNOWN)),
            egress: rules(raw.spec.egress),
            direct: rules(raw.spec.direct),
            replies: rules(raw.spec.replies),
        }
    }
}
