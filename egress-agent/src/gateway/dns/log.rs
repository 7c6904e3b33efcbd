//! Refused look-ups, told once per key and window, counted exactly. A tunnel's names are all
//! different, so beyond so many keys of one endpoint only their number is told.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::telemetry::record::{DnsRefusal, Event};

/// The window of one report.
const WINDOW: Duration = Duration::from_secs(10);
/// Keys of one endpoint that are told apart within a window.
const KEYS_MAX: usize = 64;
/// The name in the record that stands for all others.
const OTHERS: &str = "*";

/// What was refused within the current windows; one window per endpoint.
#[derive(Debug, Default)]
pub struct RefusalLog(HashMap<u32, Window>);

#[derive(Debug)]
struct Window {
    start: Instant,
    /// The first refusal of a key and how many came after it.
    keys: HashMap<(String, String), (DnsRefusal, u64)>,
    /// One of those that were not told apart, and how many.
    others: Option<(DnsRefusal, u64)>,
}

impl RefusalLog {
    /// Takes note; returns the refusal where it is to be told now.
    pub fn note(&mut self, refusal: DnsRefusal) -> Option<DnsRefusal> {
        let window = self
            .0
            .entry(refusal.attempt.endpoint.id)
            .or_insert_with(|| Window {
                start: Instant::now(),
                keys: HashMap::new(),
                others: None,
            });
        let key = (refusal.name.clone(), refusal.query_type.clone());
        if let Some((_, more)) = window.keys.get_mut(&key) {
            *more += 1;
            return None;
        }
        if window.keys.len() >= KEYS_MAX {
            window.others.get_or_insert((refusal, 0)).1 += 1;
            return None;
        }
        window.keys.insert(key, (refusal.clone(), 0));
        Some(refusal)
    }

    /// Ends the windows that are over; what was not told yet comes out summed up.
    pub fn expire(&mut self) -> Vec<Event> {
        let over = self
            .0
            .extract_if(|_, window| window.start.elapsed() >= WINDOW);
        over.flat_map(|(_, window)| window.sum_up()).collect()
    }

    /// Ends all of them.
    pub fn end(&mut self) -> Vec<Event> {
        let over = self.0.drain();
        over.flat_map(|(_, window)| window.sum_up()).collect()
    }
}

impl Window {
    fn sum_up(self) -> impl Iterator<Item = Event> {
        let others = self.others.map(|(refusal, count)| DnsRefusal {
            name: OTHERS.to_owned(),
            query_type: OTHERS.to_owned(),
            answer: None,
            count,
            ..refusal
        });
        let repeated = self.keys.into_values().filter(|(_, more)| *more > 0);
        let repeated = repeated.map(|(refusal, count)| DnsRefusal { count, ..refusal });
        repeated.chain(others).map(Event::Dns)
    }
}

#[cfg(test)]
#[allow(clippy::wildcard_enum_match_arm, reason = "a test wants one variant")]
mod tests {
    use super::*;
    use crate::telemetry::record::{Attempt, EndpointRef, ProcessRef, Protocol, Verdict};

    fn refusal(name: String) -> DnsRefusal {
        DnsRefusal {
            attempt: Attempt {
                endpoint: EndpointRef::default(),
                process: ProcessRef::default(),
                destination: [192, 0, 2, 53].into(),
                port: 53,
                protocol: Protocol::Udp,
                verdict: Verdict::Deny,
                reason: None,
            },
            name,
            query_type: "TXT".into(),
            answer: None,
            count: 1,
        }
    }

    #[test]
    fn a_flood_is_bounded_and_counted_exactly() {
        let mut log = RefusalLog::default();
        let names = (0..1_000).map(|n| format!("{n}.evil.test"));
        let told = names.filter_map(|name| log.note(refusal(name))).count();
        let again = (0..5)
            .filter_map(|_| log.note(refusal("0.evil.test".into())))
            .count();
        assert_eq!((told, again), (KEYS_MAX, 0));
        assert!(log.expire().is_empty());
        for window in log.0.values_mut() {
            window.start -= WINDOW;
        }
        let rest: u64 = log
            .expire()
            .into_iter()
            .map(|event| match event {
                Event::Dns(refusal) => refusal.count,
                other => panic!("{other:?}"),
            })
            .sum();
        assert_eq!(told as u64 + rest, 1_005);
        assert!(log.0.is_empty());
    }
}
