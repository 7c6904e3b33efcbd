//! What two sets of policies allow and the other does not, whoever of their rules says it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::Serialize;

use super::{
    grant::{Grant, Index, What, grants},
    port::PortRange,
    rule::Mode,
    select::Policies,
    selection::Selection,
};

/// Everything that differs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// By selection; those without any difference or note are left out.
    pub selections: Vec<SelectionDiff>,
}

/// What differs for whom one selector selects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SelectionDiff {
    /// Whom: `shop/orders`, `shop/*`.
    pub selection: String,
    /// The mode before and after, where it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<(Mode, Mode)>,
    /// What becomes allowed.
    pub allowed: Vec<Change>,
    /// What becomes denied.
    pub denied: Vec<Change>,
    /// What stays allowed, by something wider.
    pub covered: Vec<Covered>,
}

/// A host or network that becomes allowed or denied.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// `*.cdn.test`, `http GET status.test/v1/*`, `direct TCP 10.1.0.0/16`.
    pub what: String,
    /// On which ports, where it differs.
    pub ports: Vec<PortRange>,
    /// What of it is allowed before and after.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub but_for: Vec<String>,
}

/// Something that is named no more and still allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Covered {
    /// What was named.
    pub what: String,
    /// By what it is allowed now.
    pub by: Vec<String>,
}

impl Diff {
    /// Whether the two sets allow the same.
    pub fn is_empty(&self) -> bool {
        self.selections.iter().all(SelectionDiff::is_same)
    }
}

impl SelectionDiff {
    /// Whether nothing becomes allowed or denied.
    pub fn is_same(&self) -> bool {
        self.mode.is_none() && self.allowed.is_empty() && self.denied.is_empty()
    }
}

/// Compares what selections may reach before and after. What differs for a selection is not said
/// again for those within it.
pub fn diff(before: &Policies, after: &Policies) -> Diff {
    let (before, after) = (Side::new(before), Side::new(after));
    let parts = before.selections.iter().chain(&after.selections);
    let mut selections: Vec<_> = parts.flat_map(Selection::parts).collect();
    selections.sort();
    selections.dedup();
    let all: Vec<_> = selections
        .iter()
        .map(|selection| compare(selection, &before, &after))
        .collect();
    let said: Vec<_> = selections.iter().zip(&all).collect();
    let own = |(own, diff): &(&Selection, &SelectionDiff)| {
        let wider = said.iter().filter(|(it, _)| it != own && it.covers(own));
        without(diff, wider.map(|(_, diff)| *diff))
    };
    let own = said.iter().map(own);
    Diff {
        selections: own
            .filter(|it| !it.is_same() || !it.covered.is_empty())
            .collect(),
    }
}

fn without<'a>(
    own: &SelectionDiff,
    wider: impl Iterator<Item = &'a SelectionDiff>,
) -> SelectionDiff {
    let mut left = own.clone();
    for said in wider {
        left.allowed.retain(|it| !said.allowed.contains(it));
        left.denied.retain(|it| !said.denied.contains(it));
        left.covered.retain(|it| !said.covered.contains(it));
        left.mode = left.mode.filter(|mode| said.mode != Some(*mode));
    }
    left
}

/// One set of policies.
struct Side {
    selections: Vec<Selection>,
    modes: Vec<Mode>,
    grants: Vec<Vec<Grant>>,
}

impl Side {
    fn new(policies: &Policies) -> Self {
        let all = policies.iter().enumerate();
        Self {
            selections: policies.iter().map(Selection::of).collect(),
            modes: policies.iter().map(super::select::Policy::mode).collect(),
            grants: all.map(|(place, policy)| grants(place, policy)).collect(),
        }
    }

    /// The policies that are about all of a selection.
    fn about(&self, selection: &Selection) -> impl Iterator<Item = usize> {
        let selections = self.selections.iter().enumerate();
        let about = selections.filter(|(_, it)| it.covers(selection));
        about.map(|(place, _)| place)
    }

    /// Where no policy says it, endpoints are in Enforce.
    fn mode(&self, selection: &Selection) -> Mode {
        let mut modes = self
            .about(selection)
            .map(|place| self.modes[place])
            .peekable();
        let is_audit = modes.peek().is_some() && modes.all(|mode| mode == Mode::Audit);
        if is_audit { Mode::Audit } else { Mode::Enforce }
    }

    fn reach(&self, selection: &Selection) -> Reach {
        Reach::new(self.about(selection).flat_map(|place| &self.grants[place]))
    }
}

fn compare(selection: &Selection, before: &Side, after: &Side) -> SelectionDiff {
    let modes = (before.mode(selection), after.mode(selection));
    let (before, after) = (before.reach(selection), after.reach(selection));
    SelectionDiff {
        selection: selection.to_string(),
        mode: (modes.0 != modes.1).then_some(modes),
        allowed: after.beyond(&before),
        denied: before.beyond(&after),
        covered: before.covered_by(&after),
    }
}

/// What may be reached: each thing once, networks as few as possible.
struct Reach {
    all: Vec<(What, Vec<PortRange>)>,
    index: Index,
}

impl Reach {
    fn new<'a>(grants: impl Iterator<Item = &'a Grant>) -> Self {
        let mut hosts: BTreeMap<String, (What, Vec<PortRange>)> = BTreeMap::new();
        let mut networks: BTreeMap<String, (What, Vec<(IpNet, PortRange)>)> = BTreeMap::new();
        for grant in grants {
            match grant.what.network() {
                None => {
                    let entry = hosts.entry(grant.what.to_string());
                    let (_, ports) = entry.or_insert_with(|| (grant.what.clone(), Vec::new()));
                    ports.push(grant.ports);
                }
                Some(network) => {
                    // What it is of, whatever the network.
                    let any = grant.what.with_network(IpNet::default()).to_string();
                    let entry = networks.entry(any);
                    let (_, all) = entry.or_insert_with(|| (grant.what.clone(), Vec::new()));
                    all.push((network, grant.ports));
                }
            }
        }
        let mut all: Vec<_> = hosts.into_values().collect();
        for (what, ports) in &mut all {
            debug_assert!(what.network().is_none());
            *ports = union(ports);
        }
        for (what, of) in networks.into_values() {
            let merged = aggregate(&of).into_iter();
            all.extend(merged.map(|(network, ports)| (what.with_network(network), ports)));
        }
        let index = Index::new(all.iter().map(|(what, _)| what));
        Self { all, index }
    }

    /// The ports on which all of this is allowed, and by what.
    fn covering(&self, what: &What) -> (Vec<PortRange>, Vec<&What>) {
        let places = self.index.covering(what);
        let covering = places.filter(|place| self.all[*place].0.covers(what));
        let (mut ports, mut by) = (Vec::new(), Vec::new());
        for place in covering {
            ports.extend(&self.all[place].1);
            by.push(&self.all[place].0);
        }
        (union(&ports), by)
    }

    /// What is allowed here and not there.
    fn beyond(&self, other: &Self) -> Vec<Change> {
        let mut changes: Vec<_> = self
            .all
            .iter()
            .filter_map(|(what, ports)| {
                let ports = difference(ports, &other.covering(what).0);
                (!ports.is_empty()).then(|| Change {
                    what: what.to_string(),
                    but_for: other.within(what, &ports),
                    ports,
                })
            })
            .collect();
        changes.sort();
        changes
    }

    /// What of it is allowed here on one of the ports, though not all of it.
    fn within(&self, what: &What, ports: &[PortRange]) -> Vec<String> {
        if what.is_one() {
            return Vec::new();
        }
        let all = self.all.iter().filter(|(ours, on)| {
            what.covers(ours) && on.iter().any(|on| ports.iter().any(|it| it.meets(*on)))
        });
        all.map(|(ours, _)| ours.to_string()).collect()
    }

    /// Of hosts alone: networks have been put together, and are not as they were written.
    fn covered_by(&self, other: &Self) -> Vec<Covered> {
        let names: BTreeSet<_> = other.all.iter().map(|(what, _)| what.to_string()).collect();
        let gone = self
            .all
            .iter()
            .filter(|(what, _)| what.network().is_none() && !names.contains(&what.to_string()));
        let covered = gone.filter_map(|(what, ports)| {
            let (on, by) = other.covering(what);
            difference(ports, &on).is_empty().then(|| Covered {
                what: what.to_string(),
                by: by.into_iter().map(ToString::to_string).collect(),
            })
        });
        covered.collect()
    }
}

/// The fewest networks for each run of ports.
fn aggregate(of: &[(IpNet, PortRange)]) -> BTreeMap<IpNet, Vec<PortRange>> {
    let mut bounds: Vec<u32> = of
        .iter()
        .flat_map(|(_, ports)| [u32::from(ports.first()), u32::from(ports.last()) + 1])
        .collect();
    bounds.sort_unstable();
    bounds.dedup();
    let mut merged: BTreeMap<IpNet, Vec<PortRange>> = BTreeMap::new();
    for bound in bounds.windows(2) {
        let last = u16::try_from(bound[1] - 1).unwrap_or(u16::MAX);
        let first = u16::try_from(bound[0]).unwrap_or(u16::MAX);
        let Some(ports) = PortRange::new(first, last) else {
            continue;
        };
        let on = of.iter().filter(|(_, it)| it.covers(ports));
        let networks: Vec<_> = on.map(|(network, _)| *network).collect();
        for network in IpNet::aggregate(&networks) {
            merged.entry(network).or_default().push(ports);
        }
    }
    merged.values_mut().for_each(|ports| *ports = union(ports));
    merged
}

/// In order, and what touches as one.
fn union(ports: &[PortRange]) -> Vec<PortRange> {
    let mut sorted = ports.to_vec();
    sorted.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(last) if u32::from(range.first()) <= u32::from(last.last()) + 1 => {
                let end = range.last().max(last.last());
                *last = PortRange::new(last.first(), end).unwrap_or(*last);
            }
            Some(_) | None => merged.push(range),
        }
    }
    merged
}

/// What of the first is not in the second; both in order and without overlap.
fn difference(ports: &[PortRange], less: &[PortRange]) -> Vec<PortRange> {
    let mut left = ports.to_vec();
    for gone in less {
        let cut = |range: PortRange| {
            let before = (range.first() < gone.first())
                .then(|| PortRange::new(range.first(), range.last().min(gone.first() - 1)));
            let after = (gone.last() < range.last())
                .then(|| PortRange::new(range.first().max(gone.last() + 1), range.last()));
            [before.flatten(), after.flatten()].into_iter().flatten()
        };
        left = left.into_iter().flat_map(cut).collect();
    }
    left
}

#[cfg(test)]
#[path = "diff/tests.rs"]
mod tests;
