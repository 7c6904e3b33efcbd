//! What endpoints share: the same policies are put together once for all whom they select, and the
//! same direct entries are in the kernel once, under one number.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{
    app::plan::{PlanError, direct_entries},
    enforcer::direct::DirectEntry,
    policy::{
        rule::{Mode, Rule},
        select::{Identity, Policies},
    },
};

/// Direct entries, in order and each once.
pub(super) type Direct = Arc<Vec<DirectEntry>>;

/// What the policies that select an endpoint come to.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) mode: Option<Mode>,
    pub(super) rules: Arc<Vec<Rule>>,
    pub(super) direct: Direct,
    /// Who may open flows.
    pub(super) replies: Direct,
}

/// What identities' policies come to, put together once for each list of policies: a plan is made
/// at every change of the node, and policies change rarely.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    of: Policies,
    by_identity: HashMap<Identity, Content>,
    rules: HashMap<Vec<usize>, Arc<Vec<Rule>>>,
    direct: HashMap<Vec<usize>, Direct>,
}

impl Contents {
    /// What holds for this endpoint.
    ///
    /// # Errors
    /// A direct entry has too many ports.
    pub(super) fn select(
        &mut self,
        policies: &Policies,
        identity: Identity,
    ) -> Result<Content, PlanError> {
        if !self.of.is_same(policies) {
            *self = Self {
                of: policies.clone(),
                ..Self::default()
            };
        }
        if let Some(known) = self.by_identity.get(&identity) {
            return Ok(known.clone());
        }
        let places = policies.selecting(&identity);
        let content = Content {
            mode: policies.mode(&places),
            direct: self.direct(policies, policies.with_direct(&places))?,
            replies: direct_entries(&policies.replies(&places))?.into(),
            rules: self.rules(policies, places),
        };
        self.by_identity.insert(identity, content.clone());
        Ok(content)
    }

    fn rules(&mut self, policies: &Policies, places: Vec<usize>) -> Arc<Vec<Rule>> {
        let known = self.rules.entry(places);
        let made = known.or_insert_with_key(|places| Arc::new(policies.rules(places)));
        Arc::clone(made)
    }

    fn direct(&mut self, policies: &Policies, places: Vec<usize>) -> Result<Direct, PlanError> {
        if let Some(known) = self.direct.get(&places) {
            return Ok(Arc::clone(known));
        }
        let made: Direct = direct_entries(&policies.direct(&places))?.into();
        self.direct.insert(places, Arc::clone(&made));
        Ok(made)
    }
}

/// The numbers under which the kernel has direct entries. What a number stands for changes only
/// where the same endpoints have it before and after, since at that moment whoever has it gets what
/// is new; all others get a number that nobody ever had in this agent's life.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    /// By endpoint.
    held: BTreeMap<u32, u32>,
    /// What numbers stand for; of those of an earlier agent it is not known.
    contents: BTreeMap<u32, Direct>,
    /// The last one given, of all clones: a plan that failed may have left something.
    last: Arc<AtomicU32>,
}

impl Numbers {
    /// With those that an earlier agent gave, by endpoint.
    pub(super) fn new(held: BTreeMap<u32, u32>) -> Self {
        let last = held.values().max().copied().unwrap_or(0);
        Self {
            held,
            contents: BTreeMap::new(),
            last: Arc::new(AtomicU32::new(last)),
        }
    }

    /// The numbers of all endpoints, which from now on are theirs.
    pub(super) fn assign(&mut self, wanted: &[(u32, Direct)]) -> BTreeMap<u32, u32> {
        let sets = distinct(wanted);
        let mut contents = BTreeMap::new();
        for (direct, _) in &sets {
            if let Some(number) = self.number_of(direct) {
                contents.insert(number, Arc::clone(direct));
            }
        }
        let mut held = BTreeMap::new();
        for (direct, endpoints) in &sets {
            let same = contents.iter().find(|(_, it)| Arc::ptr_eq(it, direct));
            let number = match same {
                Some((number, _)) => *number,
                None => self
                    .held_alone(endpoints)
                    .filter(|number| !contents.contains_key(number))
                    .unwrap_or_else(|| self.last.fetch_add(1, Ordering::Relaxed) + 1),
            };
            contents.insert(number, Arc::clone(direct));
            held.extend(endpoints.iter().map(|endpoint| (*endpoint, number)));
        }
        (self.held, self.contents) = (held.clone(), contents);
        held
    }

    fn number_of(&self, direct: &Direct) -> Option<u32> {
        let mut known = self.contents.iter();
        let found = known.find(|(_, it)| is_same(it, direct));
        found.map(|(number, _)| *number)
    }

    /// The number that just these endpoints have.
    fn held_alone(&self, endpoints: &BTreeSet<u32>) -> Option<u32> {
        let number = *self.held.get(endpoints.first()?)?;
        let holders = self.held.iter().filter(|(_, it)| **it == number);
        let alone = holders.map(|(endpoint, _)| endpoint).eq(endpoints.iter());
        alone.then_some(number)
    }
}

/// Each set of direct entries once, with the endpoints that have it.
fn distinct(wanted: &[(u32, Direct)]) -> Vec<(Direct, BTreeSet<u32>)> {
    let mut sets: Vec<(Direct, BTreeSet<u32>)> = Vec::new();
    for (endpoint, direct) in wanted {
        let found = sets.iter_mut().find(|(it, _)| is_same(it, direct));
        match found {
            Some((_, endpoints)) => {
                endpoints.insert(*endpoint);
            }
            None => sets.push((Arc::clone(direct), [*endpoint].into())),
        }
    }
    sets
}

fn is_same(a: &Direct, b: &Direct) -> bool {
    Arc::ptr_eq(a, b) || (a.len() == b.len() && a == b)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::load::load_str;

    fn direct(networks: &[&str]) -> Direct {
        let entries = networks.iter().map(|network| DirectEntry {
            network: network.parse().unwrap(),
            protocol: 6,
            port: 443,
        });
        Arc::new(entries.collect())
    }

    fn assign(numbers: &mut Numbers, wanted: &[(u32, &[&str])]) -> Vec<u32> {
        let wanted: Vec<_> = wanted.iter().map(|(id, it)| (*id, direct(it))).collect();
        numbers.assign(&wanted).into_values().collect()
    }

    const A: &[&str] = &["10.0.0.1/32"];
    const B: &[&str] = &["10.0.0.2/32"];
    const C: &[&str] = &["10.0.0.1/32", "10.0.0.2/32"];

    #[test]
    fn the_same_entries_have_one_number() {
        let mut numbers = Numbers::default();
        let given = assign(&mut numbers, &[(1, A), (2, B), (3, A), (4, A)]);
        assert_eq!(given, [1, 2, 1, 1]);
        // And keep it, whoever else comes or goes.
        assert_eq!(assign(&mut numbers, &[(3, A), (5, A)]), [1, 1]);
    }

    #[test]
    fn a_number_that_all_keep_stands_for_something_else() {
        let mut numbers = Numbers::default();
        assign(&mut numbers, &[(1, A), (2, A)]);
        assert_eq!(assign(&mut numbers, &[(1, C), (2, C)]), [1, 1]);
    }

    #[test]
    fn whoever_leaves_or_comes_makes_a_new_number() {
        for (before, after, want) in [
            // One stays with what it had, one gets something else.
            ([(1, A), (2, A)], [(1, A), (2, C)], [1, 2]),
            // Both get something else, and something different.
            ([(1, A), (2, A)], [(1, B), (2, C)], [2, 3]),
            // What one had becomes another while somebody comes.
            ([(1, A), (2, B)], [(1, C), (2, C)], [3, 3]),
            // They change places.
            ([(1, A), (2, B)], [(1, B), (2, A)], [2, 1]),
        ] {
            let mut numbers = Numbers::default();
            assign(&mut numbers, &before);
            assert_eq!(assign(&mut numbers, &after), want, "{before:?} {after:?}");
        }
    }

    #[test]
    fn numbers_of_a_plan_that_failed_are_not_given_again() {
        let mut numbers = Numbers::default();
        assign(&mut numbers, &[(1, A), (2, A)]);
        let mut failed = numbers.clone();
        assert_eq!(assign(&mut failed, &[(1, A), (2, B)]), [1, 2]);
        assert_eq!(assign(&mut numbers, &[(1, A), (2, C)]), [1, 3]);
    }

    #[test]
    fn an_earlier_agents_numbers_are_kept_by_the_same_endpoints() {
        let mut numbers = Numbers::new([(1, 7), (2, 7), (3, 9)].into());
        let given = assign(&mut numbers, &[(1, A), (2, A), (3, B), (4, B)]);
        assert_eq!(given, [7, 7, 10, 10]);
    }

    #[test]
    fn the_same_policies_are_put_together_once() {
        let text = "
apiVersion: egress-agent.dev/v1alpha1
kind: ClusterEgressPolicy
metadata: { name: base }
spec: { direct: [ { cidrs: [10.96.0.10], ports: [443, 443], protocols: [UDP, TCP] } ] }
---
apiVersion: egress-agent.dev/v1alpha1
kind: EgressPolicy
metadata: { name: shop, namespace: shop }
spec: { egress: [ { hosts: [a.test] } ] }
";
        let mut policies = Policies::default();
        policies.add(load_str(Path::new("p.yaml"), text).unwrap());
        let mut contents = Contents::default();
        let mut of = |namespace: &str, account: &str| {
            let identity = Identity {
                namespace: Some(namespace.into()),
                service_account: Some(account.into()),
                ..Identity::default()
            };
            contents.select(&policies, identity).unwrap()
        };
        let (a, b, c) = (of("shop", "a"), of("shop", "b"), of("other", "a"));
        assert_eq!(a.direct.len(), 2);
        assert!(Arc::ptr_eq(&a.direct, &b.direct) && Arc::ptr_eq(&a.direct, &c.direct));
        assert!(Arc::ptr_eq(&a.rules, &b.rules));
        assert_eq!((a.rules.len(), c.rules.len()), (1, 0));
    }
}
