//! What the gateway counts: every outcome, whether or not it is recorded.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

type Totals = Arc<Mutex<BTreeMap<&'static str, u64>>>;

/// Totals by name. Each worker counts in a part of its own, so that none waits for another. Counted
/// on the way out of a connection or for what has no connection, never per byte.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    own: Totals,
    /// All other parts of the whole.
    parts: Arc<Mutex<Vec<Totals>>>,
}

impl Counters {
    /// A part for another worker; the whole has it as well.
    pub fn part(&self) -> Self {
        let part = Self {
            own: Totals::default(),
            parts: self.parts.clone(),
        };
        locked(&self.parts).push(part.own.clone());
        part
    }

    /// Adds one.
    pub fn add(&self, name: &'static str) {
        self.add_many(name, 1);
    }

    /// Adds several.
    pub fn add_many(&self, name: &'static str, count: u64) {
        *locked(&self.own).entry(name).or_default() += count;
    }

    /// All totals of the whole, asked of what the parts are from.
    pub fn snapshot(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        let parts = locked(&self.parts).clone();
        for part in parts.iter().chain([&self.own]) {
            for (name, count) in locked(part).iter() {
                *all.entry((*name).to_owned()).or_default() += count;
            }
        }
        all
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
