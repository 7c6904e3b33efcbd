//! Which connections are let in: no more than there may be at once, of all endpoints and of one, and
//! of one in a second. Nothing here is locked.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use super::{protocol::Limits, reason::Reason};

/// What all endpoints have open.
#[derive(Debug, Default)]
pub struct Admission {
    open: AtomicUsize,
    numbers: AtomicU64,
}

/// What one endpoint has open, and how fast it opens more.
#[derive(Debug, Default)]
pub struct Usage {
    open: AtomicUsize,
    /// When its connections so far would all have come, had they come at the rate that it may have;
    /// nanoseconds since [`START`].
    due: AtomicU64,
}

/// One open connection; counted until it is dropped.
#[derive(Debug)]
pub struct Ticket {
    admission: Arc<Admission>,
    usage: Arc<Usage>,
    /// The connection's number.
    pub number: u64,
}

/// Before every connection.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Alone, an endpoint gets three quarters of all places.
const OF_FREE: usize = 3;
/// An endpoint that was quiet may open as many at once as in so many seconds.
const BURST_SECONDS: u64 = 2;
const NANOS: u64 = 1_000_000_000;

impl Admission {
    /// A number for a connection that is not let in.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Relaxed) + 1
    }

    /// Lets one more connection of an endpoint in. It may have no more than [`OF_FREE`] times as many
    /// as there are places free: so whoever takes what it can get leaves some, and the more there are
    /// who do, the less each gets (a dynamic threshold, Choudhury and Hahne, 1998).
    ///
    /// # Errors
    /// The bound that it is beyond.
    pub fn enter(self: &Arc<Self>, usage: &Arc<Usage>, limits: &Limits) -> Result<Ticket, Reason> {
        usage.keep_pace(limits.connections_per_second)?;
        let before = self.open.fetch_add(1, Relaxed);
        let own = usage.open.fetch_add(1, Relaxed) + 1;
        // Dropped, it takes that back.
        let ticket = Ticket {
            admission: self.clone(),
            usage: usage.clone(),
            number: self.number(),
        };
        match limits.connections.saturating_sub(before) {
            0 => Err(Reason::TooManyConnections),
            free if own > limits.connections_per_endpoint.min(free * OF_FREE) => {
                Err(Reason::TooManyOfEndpoint)
            }
            _ => Ok(ticket),
        }
    }
}

impl Usage {
    /// A connection after another, each has its time (the generic cell rate algorithm, ITU-T I.371).
    fn keep_pace(&self, per_second: u32) -> Result<(), Reason> {
        let now = u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.keep_pace_at(now, per_second)
    }

    fn keep_pace_at(&self, now: u64, per_second: u32) -> Result<(), Reason> {
        let Some(interval) = NANOS.checked_div(per_second.into()) else {
            return Ok(());
        };
        let next = |due: u64| {
            let is_early = due > now + BURST_SECONDS * NANOS;
            (!is_early).then(|| due.max(now) + interval)
        };
        let taken = self.due.fetch_update(Relaxed, Relaxed, next);
        taken.map(drop).map_err(|_due| Reason::TooFast)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.admission.open.fetch_sub(1, Relaxed);
        self.usage.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connections: usize, connections_per_endpoint: usize) -> Limits {
        Limits {
            connections,
            connections_per_endpoint,
            connections_per_second: 0,
            ..Limits::default()
        }
    }

    fn fill(
        admission: &Arc<Admission>,
        usage: &Arc<Usage>,
        limits: &Limits,
    ) -> (Vec<Ticket>, Reason) {
        let mut tickets = Vec::new();
        loop {
            match admission.enter(usage, limits) {
                Ok(ticket) => tickets.push(ticket),
                Err(reason) => return (tickets, reason),
            }
        }
    }

    #[test]
    fn greedy_endpoints_leave_room_for_another() {
        let (admission, limits) = (Arc::default(), limits(1_000, 1_000));
        let mut tickets = Vec::new();
        let mut counts = Vec::new();
        for _ in 0..4 {
            let (of_one, reason) = fill(&admission, &Arc::default(), &limits);
            assert_eq!(reason, Reason::TooManyOfEndpoint);
            counts.push(of_one.len());
            tickets.push(of_one);
        }
        assert_eq!(counts, [750, 188, 47, 12]);
        // Once the first has fewer, the others may have more.
        tickets.remove(0).truncate(100);
        let (of_fifth, _) = fill(&admission, &Arc::default(), &limits);
        assert!(of_fifth.len() > 400, "{}", of_fifth.len());
    }

    #[test]
    fn beyond_all_places_nobody_is_let_in() {
        let (admission, limits) = (Arc::<Admission>::default(), limits(8, 8));
        let enter = || admission.enter(&Arc::default(), &limits);
        let _tickets: Vec<_> = (0..8).map(|_| enter().unwrap()).collect();
        assert_eq!(enter().unwrap_err(), Reason::TooManyConnections);
    }

    #[test]
    fn what_is_refused_counts_for_nothing() {
        let (admission, limits) = (Arc::default(), limits(10, 4));
        let usage = Arc::default();
        let (tickets, _) = fill(&admission, &usage, &limits);
        assert_eq!(admission.open.load(Relaxed), 4);
        drop(tickets);
        let counts = [&admission.open, &usage.open];
        assert!(counts.iter().all(|count| count.load(Relaxed) == 0));
    }

    #[test]
    fn a_rate_holds_however_it_is_tried() {
        let usage = Usage::default();
        let mut let_in = 0;
        // Ten seconds, a try each 0.1 ms.
        for tick in 0..100_000 {
            let_in += u32::from(usage.keep_pace_at(tick * 100_000, 50).is_ok());
        }
        // What is due in ten seconds, and once what is let in at once.
        assert!((600..=602).contains(&let_in), "{let_in}");
    }

    #[test]
    fn without_a_rate_all_are_let_in() {
        let usage = Usage::default();
        assert!((0..10_000).all(|_| usage.keep_pace_at(0, 0).is_ok()));
    }
}
