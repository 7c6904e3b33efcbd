//! The packets, each with its verdict.

mod carried;
mod malformed;
mod neighbour;
mod outer;

use egress_common::verdict::{DropReason, Verdict};

/// A frame, and what shall become of it.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) frame: Vec<u8>,
    pub(crate) want: Verdict,
}

/// What is judged by the IP packet alone: link and socket hook say the same.
pub(crate) fn packets() -> Vec<Case> {
    let mut cases = carried::allowed();
    cases.extend(carried::denied());
    cases.extend(malformed::cases());
    cases
}

/// What the link alone sees: the frame, whose source it is, the neighbours.
pub(crate) fn frames() -> Vec<Case> {
    let mut cases = outer::cases();
    cases.extend(neighbour::allowed());
    cases.extend(neighbour::denied());
    cases
}

fn allow(name: impl Into<String>, frame: Vec<u8>) -> Case {
    Case {
        name: name.into(),
        frame,
        want: Verdict::Allow,
    }
}

fn deny(reason: DropReason, name: impl Into<String>, frame: Vec<u8>) -> Case {
    Case {
        name: name.into(),
        frame,
        want: Verdict::Deny(reason),
    }
}

fn denials<'a>(reasoned: impl IntoIterator<Item = (DropReason, &'a str, Vec<u8>)>) -> Vec<Case> {
    let cases = reasoned.into_iter();
    cases
        .map(|(reason, name, frame)| deny(reason, name, frame))
        .collect()
}
