//! Connections that were not let in. Who sheds must not make more of them than there are: a record
//! is told once for an endpoint, reason and window, and how many more there were.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::telemetry::record::{Attempt, ConnectionsRepeated, Event};

use super::reason::Reason;

/// The window of one report.
const WINDOW: Duration = Duration::from_secs(10);

/// What was shed within the current windows.
#[derive(Debug, Default)]
pub struct ShedLog(HashMap<(u32, &'static str), Window>);

#[derive(Debug)]
struct Window {
    start: Instant,
    first: Attempt,
    more: u64,
}

impl ShedLog {
    /// Takes note; whether it is to be told now.
    pub fn note(&mut self, attempt: &Attempt, reason: Reason) -> bool {
        let key = (attempt.endpoint.id, reason.as_str());
        if let Some(window) = self.0.get_mut(&key) {
            window.more += 1;
            return false;
        }
        let window = Window {
            start: Instant::now(),
            first: attempt.clone(),
            more: 0,
        };
        self.0.insert(key, window);
        true
    }

    /// Ends the windows that are over; what was not told yet comes out summed up.
    pub fn expire(&mut self) -> Vec<Event> {
        self.end_those(|window| window.start.elapsed() >= WINDOW)
    }

    /// Ends all of them.
    pub fn end(&mut self) -> Vec<Event> {
        self.end_those(|_window| true)
    }

    fn end_those(&mut self, is_over: impl Fn(&Window) -> bool) -> Vec<Event> {
        let over = self.0.extract_if(|_, window| is_over(window));
        let more = over.filter(|(_, window)| window.more > 0);
        more.map(|((_, reason), window)| {
            Event::ConnectionsRepeated(ConnectionsRepeated {
                attempt: Attempt {
                    reason: Some(reason.to_owned()),
                    ..window.first
                },
                repeats: window.more,
            })
        })
        .collect()
    }
}
