//! Which address an endpoint was told for which name: by that a connection is known that says no
//! name itself.
//!
//! Shared by all workers behind one lock, since the worker that answers a look-up is rarely the
//! one that takes the connection. It is held for a look-up in a hash table, once a connection and
//! once a look-up, beside a lock of the same kind that counts the endpoint's connections.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    resolve::{Answer, Source},
    table::Table,
};
use crate::policy::host::HostName;

/// Notes of one endpoint: a name with an address is one. An application has a few dozen; at some
/// 200 bytes each, those of an endpoint are 400 KB at most.
const NOTES_MAX: usize = 2_048;
/// Names of one address that are told apart; of a network of many hosts an application talks to a
/// few.
const NAMES_MAX: usize = 16;
/// By default, how much longer than its time to live an address is good: a client may connect at
/// the last moment, and takes a moment for it.
pub const GRACE: Duration = Duration::from_secs(5);

/// A name that an endpoint was told an address for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: HostName,
    /// Who said so.
    pub source: Source,
}

/// What all endpoints were told.
#[derive(Clone, Debug)]
pub struct Answered {
    endpoints: Arc<Mutex<HashMap<u32, OfEndpoint>>>,
    grace: Duration,
}

#[derive(Debug)]
struct OfEndpoint {
    /// The endpoint's name: numbers are used again.
    endpoint: Arc<str>,
    notes: HashMap<IpAddr, Vec<Note>>,
    /// Every note by its number, the oldest first.
    order: BTreeMap<u64, (IpAddr, HostName)>,
    next: u64,
}

#[derive(Debug)]
struct Note {
    named: Named,
    until: Instant,
    number: u64,
}

impl Answered {
    /// Nothing yet. `grace` is how much longer than its time to live an address is good.
    pub fn new(grace: Duration) -> Self {
        Self {
            endpoints: Arc::default(),
            grace,
        }
    }

    /// Takes note of an answer, before it is sent. Where there are too many, the endpoint's own
    /// oldest are forgotten.
    pub fn note(&self, id: u32, endpoint: &Arc<str>, name: &HostName, answers: &[Answer]) {
        let mut all = self.lock();
        let own = all
            .entry(id)
            .or_insert_with(|| OfEndpoint::new(endpoint.clone()));
        if own.endpoint != *endpoint {
            *own = OfEndpoint::new(endpoint.clone());
        }
        for answer in answers {
            own.note(name, answer, Instant::now() + self.grace);
        }
    }

    /// The names that the endpoint was told this address for and that are not over yet, the last
    /// one first.
    pub fn names(&self, id: u32, endpoint: &str, address: IpAddr) -> Arc<[Named]> {
        let all = self.lock();
        let own = all.get(&id).filter(|own| &*own.endpoint == endpoint);
        own.map_or_else(Arc::default, |own| own.names(address, Instant::now()))
    }

    /// Forgets endpoints that are not there any more.
    pub fn keep(&self, table: &Table) {
        self.lock().retain(|id, own| {
            let now = table.endpoint(*id);
            now.is_some_and(|endpoint| endpoint.name == own.endpoint)
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, OfEndpoint>> {
        self.endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl OfEndpoint {
    fn new(endpoint: Arc<str>) -> Self {
        Self {
            endpoint,
            notes: HashMap::new(),
            order: BTreeMap::new(),
            next: 0,
        }
    }

    /// It is good until its time to live after `from`.
    fn note(&mut self, name: &HostName, answer: &Answer, from: Instant) {
        let address = answer.address.to_canonical();
        self.forget(address, name);
        let names = self.notes.get(&address).map_or(0, Vec::len);
        if names >= NAMES_MAX {
            let oldest = self.notes.get(&address).and_then(|notes| notes.first());
            if let Some(oldest) = oldest.map(|note| note.named.name.clone()) {
                self.forget(address, &oldest);
            }
        } else if self.order.len() >= NOTES_MAX
            && let Some((_, (address, name))) = self.order.pop_first()
        {
            self.forget(address, &name);
        }
        let number = self.next;
        self.next += 1;
        self.order.insert(number, (address, name.clone()));
        self.notes.entry(address).or_default().push(Note {
            named: Named {
                name: name.clone(),
                source: answer.source,
            },
            until: from + Duration::from_secs(answer.ttl.into()),
            number,
        });
    }

    fn forget(&mut self, address: IpAddr, name: &HostName) {
        let Some(notes) = self.notes.get_mut(&address) else {
            return;
        };
        let place = notes.iter().position(|note| note.named.name == *name);
        if let Some(place) = place {
            let note = notes.remove(place);
            self.order.remove(&note.number);
        }
        if notes.is_empty() {
            self.notes.remove(&address);
        }
    }

    fn names(&self, address: IpAddr, now: Instant) -> Arc<[Named]> {
        let notes = self.notes.get(&address.to_canonical());
        let live = notes.into_iter().flatten().filter(|note| note.until > now);
        live.rev().map(|note| note.named.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HostName {
        HostName::from_text(text).unwrap()
    }

    fn answer(last: u16, ttl: u32) -> Answer {
        let [high, low] = last.to_be_bytes();
        Answer {
            address: [203, 0, high, low].into(),
            ttl,
            source: Source::Dns,
        }
    }

    fn names(answered: &Answered, id: u32, last: u16) -> Vec<String> {
        let names = answered.names(id, "pod", answer(last, 0).address);
        names
            .iter()
            .map(|one| one.name.as_str().to_owned())
            .collect()
    }

    fn pod() -> Arc<str> {
        "pod".into()
    }

    #[test]
    fn an_address_has_the_names_that_it_was_told_for_and_to_whom() {
        let answered = Answered::new(GRACE);
        let both = [answer(1, 60), answer(2, 60)];
        answered.note(1, &pod(), &name("a.test"), &both);
        answered.note(1, &pod(), &name("b.test"), &both[..1]);
        answered.note(1, &pod(), &name("a.test"), &both[..1]);
        assert_eq!(names(&answered, 1, 1), ["a.test", "b.test"]);
        assert_eq!(names(&answered, 1, 2), ["a.test"]);
        assert!(names(&answered, 1, 3).is_empty());
        assert!(names(&answered, 2, 1).is_empty());
        let other = answered.names(1, "another pod", both[0].address);
        assert!(other.is_empty());
    }

    #[test]
    fn it_is_over_with_its_time_to_live() {
        let mut own = OfEndpoint::new(pod());
        let (start, address) = (Instant::now(), answer(1, 0).address);
        own.note(&name("a.test"), &answer(1, 10), start);
        let at = |seconds| {
            own.names(address, start + Duration::from_secs(seconds))
                .len()
        };
        assert_eq!((at(0), at(9), at(10)), (1, 1, 0));
    }

    #[test]
    fn a_flood_forgets_only_ones_own_oldest() {
        let answered = Answered::new(GRACE);
        answered.note(2, &pod(), &name("theirs.test"), &[answer(1, 60)]);
        for number in 0..10_000 {
            let name = name(&format!("n{number}.test"));
            answered.note(1, &pod(), &name, &[answer(number, 60)]);
        }
        assert_eq!(names(&answered, 2, 1), ["theirs.test"]);
        assert!(names(&answered, 1, 0).is_empty());
        assert_eq!(names(&answered, 1, 9_999), ["n9999.test"]);
        let all = answered.lock();
        assert_eq!(all[&1].order.len(), NOTES_MAX);
        assert_eq!(all[&1].notes.len(), NOTES_MAX);
    }

    #[test]
    fn an_address_of_many_names_has_the_last_few() {
        let answered = Answered::new(GRACE);
        for number in 0..100 {
            let name = name(&format!("n{number}.test"));
            answered.note(1, &pod(), &name, &[answer(1, 60)]);
        }
        let names = names(&answered, 1, 1);
        assert_eq!(names.len(), NAMES_MAX);
        assert_eq!(names[0], "n99.test");
        assert_eq!(answered.lock()[&1].order.len(), NAMES_MAX);
    }

    #[test]
    fn who_has_gone_is_forgotten() {
        let answered = Answered::new(GRACE);
        answered.note(1, &pod(), &name("a.test"), &[answer(1, 60)]);
        answered.keep(&Table::default());
        assert!(answered.lock().is_empty());
    }
}
