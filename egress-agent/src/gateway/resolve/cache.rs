//! What the name servers have said, and what they are being asked, shared by all workers.
//!
//! One lock, taken for a look-up in a hash table and never across an await: a connection takes it
//! twice, once for each family, which is little beside its own system calls. A cache for each
//! worker would ask the servers once for each, and forget at different times.

use std::{
    collections::HashMap,
    mem,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;

use super::Family;
use crate::policy::host::HostName;

/// How much is kept, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CacheBounds {
    /// Answers that are kept, at most; each is a name and a family. 0 keeps none.
    pub entries: usize,
    /// The least time that addresses are kept: a shorter time to live, also 0, counts as this.
    pub ttl_min: Duration,
    /// The most.
    pub ttl_max: Duration,
    /// The most that is kept of a name or family that does not exist; less where the zone's SOA
    /// says so (RFC 2308 section 5).
    pub negative_max: Duration,
}

impl Default for CacheBounds {
    fn default() -> Self {
        Self {
            // At 128 addresses each some 20 MB; usually less than two.
            entries: 8_192,
            // So that a name with a time to live of 0 is not asked for by every connection.
            ttl_min: Duration::from_secs(5),
            // A changed address is seen after that at the latest.
            ttl_max: Duration::from_secs(300),
            negative_max: Duration::from_secs(30),
        }
    }
}

/// A name and one of its families.
pub type Key = (HostName, Family);

/// What came of a look-up, before any address was checked: what is refused can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// At least one address, or why there is none.
    pub outcome: Result<Vec<IpAddr>, Missing>,
    /// Until when that holds.
    pub until: Instant,
}

/// Why a look-up has no addresses.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Missing {
    /// There is no such name.
    #[error("no such name")]
    NoName,
    /// The name has no address of the family.
    #[error("the name has no address")]
    NoAddress,
    /// No answer in time.
    #[error("no name server answered in time")]
    Timeout,
    /// The servers failed.
    #[error("the name servers failed: {0}")]
    Server(String),
}

/// All workers' answers, and what is being asked.
#[derive(Debug)]
pub struct Cache {
    bounds: CacheBounds,
    state: Mutex<State>,
}

type Told = watch::Receiver<Option<Arc<Found>>>;

/// Two generations: what is used moves to the young one, and when that is half of what may be
/// kept, the old one is forgotten.
#[derive(Debug, Default)]
struct State {
    young: HashMap<Key, Arc<Found>>,
    old: HashMap<Key, Arc<Found>>,
    /// Bounded by whoever waits: connections and look-ups of endpoints.
    asked: HashMap<Key, Told>,
}

/// What to do about a look-up.
#[derive(Debug)]
pub enum Look {
    /// It is known.
    Known(Arc<Found>),
    /// Somebody asks already.
    Asked(Told),
    /// Nobody does: ask, and keep the promise.
    Ask(Promise, Told),
}

/// Of one who asks, to all who wait. Dropped, they learn that nothing will come.
#[derive(Debug)]
pub struct Promise {
    cache: Arc<Cache>,
    key: Key,
    told: watch::Sender<Option<Arc<Found>>>,
}

impl Cache {
    /// An empty one.
    pub fn new(bounds: CacheBounds) -> Self {
        Self {
            bounds,
            state: Mutex::default(),
        }
    }

    /// Its bounds.
    pub fn bounds(&self) -> &CacheBounds {
        &self.bounds
    }

    /// What is known of a key, or who asks.
    pub fn look(self: &Arc<Self>, key: &Key) -> Look {
        let mut state = self.state();
        if let Some(found) = state.known(key, Instant::now()) {
            let forgotten = state.turn(self.bounds.entries);
            drop(state);
            drop(forgotten);
            return Look::Known(found);
        }
        if let Some(told) = state.asked.get(key) {
            return Look::Asked(told.clone());
        }
        let (sender, told) = watch::channel(None);
        state.asked.insert(key.clone(), told.clone());
        let promise = Promise {
            cache: self.clone(),
            key: key.clone(),
            told: sender,
        };
        Look::Ask(promise, told)
    }

    fn keep(&self, key: &Key, found: &Arc<Found>) {
        let mut state = self.state();
        state.old.remove(key);
        state.young.insert(key.clone(), found.clone());
        let forgotten = state.turn(self.bounds.entries);
        drop(state);
        // After the lock: there may be thousands.
        drop(forgotten);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let state = self.state();
        state.young.len() + state.old.len()
    }
}

impl State {
    fn known(&mut self, key: &Key, now: Instant) -> Option<Arc<Found>> {
        if let Some(found) = self.young.get(key) {
            return (found.until > now).then(|| found.clone());
        }
        let found = self.old.remove(key).filter(|found| found.until > now)?;
        self.young.insert(key.clone(), found.clone());
        Some(found)
    }

    /// Makes the young generation the old one where it has grown to half of what may be kept;
    /// returns the one before.
    fn turn(&mut self, entries: usize) -> HashMap<Key, Arc<Found>> {
        if self.young.len() < entries.div_ceil(2) {
            return HashMap::new();
        }
        let young = mem::take(&mut self.young);
        mem::replace(&mut self.old, young)
    }
}

impl Promise {
    /// What was asked for.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Keeps what was found for as long as it holds, and tells all who wait.
    pub fn keep(self, found: Found) {
        let found = Arc::new(found);
        if found.until > Instant::now() && self.cache.bounds.entries > 0 {
            self.cache.keep(&self.key, &found);
        }
        self.told.send_replace(Some(found));
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.cache.state().asked.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        (HostName::from_text(name).unwrap(), Family::V4)
    }

    fn found(seconds: u64) -> Found {
        Found {
            outcome: Ok(vec![[203, 0, 113, 7].into()]),
            until: Instant::now() + Duration::from_secs(seconds),
        }
    }

    fn cache(entries: usize) -> Arc<Cache> {
        Arc::new(Cache::new(CacheBounds {
            entries,
            ..CacheBounds::default()
        }))
    }

    fn ask(cache: &Arc<Cache>, name: &str) -> Promise {
        match cache.look(&key(name)) {
            Look::Ask(promise, _) => promise,
            look @ (Look::Known(_) | Look::Asked(_)) => panic!("{look:?}"),
        }
    }

    #[test]
    fn one_asks_and_the_rest_wait() {
        let cache = cache(10);
        let promise = ask(&cache, "a.test");
        let Look::Asked(told) = cache.look(&key("a.test")) else {
            panic!("asked twice")
        };
        drop(ask(&cache, "b.test"));
        promise.keep(found(10));
        assert!(told.borrow().is_some());
        assert!(matches!(cache.look(&key("a.test")), Look::Known(_)));
    }

    #[test]
    fn a_promise_that_is_dropped_is_made_anew() {
        let cache = cache(10);
        let promise = ask(&cache, "a.test");
        let Look::Asked(told) = cache.look(&key("a.test")) else {
            panic!("asked twice")
        };
        drop(promise);
        assert!(told.has_changed().is_err(), "they wait for ever");
        ask(&cache, "a.test");
    }

    #[test]
    fn what_is_over_is_asked_again() {
        let cache = cache(10);
        ask(&cache, "a.test").keep(found(0));
        ask(&cache, "a.test").keep(found(10));
        assert!(matches!(cache.look(&key("a.test")), Look::Known(_)));
    }

    #[test]
    fn it_never_grows_beyond_its_bound_and_keeps_what_is_used() {
        let cache = cache(100);
        ask(&cache, "used.test").keep(found(600));
        for number in 0..10_000 {
            ask(&cache, &format!("n{number}.test")).keep(found(600));
            assert!(cache.len() <= 100);
            assert!(matches!(cache.look(&key("used.test")), Look::Known(_)));
        }
        for number in (9_900..10_000).chain(9_900..9_960).rev() {
            if let Look::Ask(promise, _) = cache.look(&key(&format!("n{number}.test"))) {
                promise.keep(found(600));
            }
            assert!(cache.len() <= 100, "what is moved is counted, too");
        }
        let none = self::cache(0);
        ask(&none, "a.test").keep(found(600));
        assert_eq!(none.len(), 0);
    }
}
