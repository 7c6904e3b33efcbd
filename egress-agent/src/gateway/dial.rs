//! Happy Eyeballs (RFC 8305) over addresses that were checked.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    time::Duration,
};

use futures_util::{
    FutureExt as _, StreamExt as _, future::FusedFuture as _, stream::FuturesUnordered,
};
use thiserror::Error;
use tokio::{
    net::TcpStream,
    time::{self, Instant},
};

/// Between attempts (RFC 8305 section 5, "Connection Attempt Delay").
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Addresses tried for one connection: no name needs more, and each is a descriptor.
const ATTEMPTS_MAX: usize = 8;

/// Why nothing answered.
#[derive(Debug, Error)]
pub enum DialError {
    /// No connection before the deadline.
    #[error("no connection in time")]
    Timeout,
    /// Every address failed, the last one by this error.
    #[error("{0}")]
    Failed(#[source] io::Error),
    /// There was no address.
    #[error("no address to dial")]
    NoAddress,
}

impl DialError {
    /// The stable name in close records.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Timeout => "dial_timeout",
            Self::NoAddress => "dial_no_address",
            Self::Failed(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                "dial_refused"
            }
            Self::Failed(error) if error.raw_os_error() == Some(libc::EPERM) => {
                "dial_not_permitted"
            }
            Self::Failed(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable
                ) =>
            {
                "dial_unreachable"
            }
            Self::Failed(_) => "dial_failed",
        }
    }
}

/// A connection, and what there was to choose from.
#[derive(Debug)]
pub struct Dialled {
    /// Connected.
    pub stream: TcpStream,
    /// To this address and port.
    pub to: SocketAddr,
    /// All addresses that were known by then.
    pub known: Vec<IpAddr>,
}

/// Connects to the first of the addresses that answers, within `limit`. Those that come `later`
/// take their turns.
///
/// # Errors
/// None answers.
pub async fn dial(
    first: Vec<IpAddr>,
    later: impl Future<Output = Vec<IpAddr>>,
    port: u16,
    limit: Duration,
) -> Result<Dialled, DialError> {
    match time::timeout(limit, race(first, later, port)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(DialError::Timeout),
    }
}

/// The addresses that are left, by family.
#[derive(Debug)]
struct Queue {
    v6: VecDeque<IpAddr>,
    v4: VecDeque<IpAddr>,
    /// IPv6 first, then by turns (RFC 8305 section 4).
    was_v6: bool,
    /// How many more are tried.
    left: usize,
}

impl Queue {
    fn new(addresses: &[IpAddr]) -> Self {
        let mut queue = Self {
            v6: VecDeque::new(),
            v4: VecDeque::new(),
            was_v6: false,
            left: ATTEMPTS_MAX,
        };
        queue.extend(addresses);
        queue
    }

    fn extend(&mut self, addresses: &[IpAddr]) {
        let of = |is_v6| addresses.iter().filter(move |a| a.is_ipv6() == is_v6);
        self.v6.extend(of(true));
        self.v4.extend(of(false));
    }

    fn is_empty(&self) -> bool {
        self.left == 0 || (self.v6.is_empty() && self.v4.is_empty())
    }

    fn next(&mut self) -> Option<IpAddr> {
        self.left = self.left.checked_sub(1)?;
        let takes_v6 = match (self.v6.is_empty(), self.v4.is_empty()) {
            (false, false) => !self.was_v6,
            (is_empty, _) => !is_empty,
        };
        self.was_v6 = takes_v6;
        match takes_v6 {
            true => self.v6.pop_front(),
            false => self.v4.pop_front(),
        }
    }
}

async fn race(
    mut known: Vec<IpAddr>,
    later: impl Future<Output = Vec<IpAddr>>,
    port: u16,
) -> Result<Dialled, DialError> {
    let mut queue = Queue::new(&known);
    let mut later = pin!(later.fuse());
    let mut attempts = FuturesUnordered::new();
    let mut last = DialError::NoAddress;
    let mut turn = Instant::now();
    loop {
        if attempts.is_empty() || Instant::now() >= turn {
            if let Some(address) = queue.next() {
                let to = SocketAddr::new(address, port);
                attempts.push(async move { (to, TcpStream::connect(to).await) });
                turn = Instant::now() + ATTEMPT_DELAY;
            } else if attempts.is_empty() && later.is_terminated() {
                return Err(last);
            }
        }
        tokio::select! {
            Some((to, connected)) = attempts.next() => match connected {
                // With the set, the attempts are dropped that are still under way.
                Ok(stream) => return Ok(Dialled { stream, to, known }),
                Err(error) => {
                    last = DialError::Failed(error);
                    turn = Instant::now();
                }
            },
            more = &mut later, if !later.is_terminated() => {
                queue.extend(&more);
                known.extend(more);
            }
            () = time::sleep_until(turn), if !queue.is_empty() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn nothing_more() -> impl Future<Output = Vec<IpAddr>> {
        std::future::ready(Vec::new())
    }

    fn order(mut queue: Queue) -> Vec<IpAddr> {
        std::iter::from_fn(|| (!queue.is_empty()).then(|| queue.next())?).collect()
    }

    #[test]
    fn families_take_turns() {
        let all = addresses(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        assert_eq!(order(Queue::new(&all)), [all[2], all[0], all[1]]);
        assert_eq!(order(Queue::new(&vec![all[0]; 20])).len(), ATTEMPTS_MAX);
        let mut queue = Queue::new(&all[..2]);
        assert_eq!(queue.next(), Some(all[0]));
        queue.extend(&all[2..]);
        assert_eq!(order(queue), [all[2], all[1]]);
    }

    #[tokio::test]
    async fn a_dead_address_gives_way_to_the_next() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let both = addresses(&["::1", "127.0.0.1"]);
        let dialled = dial(both, nothing_more(), port, LIMIT).await.unwrap();
        assert_eq!(dialled.to, listener.local_addr().unwrap());
    }

    #[tokio::test]
    async fn what_comes_later_is_dialled_when_the_first_are_dead() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let later = async {
            time::sleep(Duration::from_millis(100)).await;
            addresses(&["127.0.0.1"])
        };
        let dialled = dial(addresses(&["::1"]), later, port, LIMIT).await.unwrap();
        assert_eq!(dialled.to, listener.local_addr().unwrap());
        assert_eq!(dialled.known, addresses(&["::1", "127.0.0.1"]));
    }

    #[tokio::test]
    async fn nobody_there() {
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = closed.local_addr().unwrap().port();
        drop(closed);
        let error = dial(addresses(&["127.0.0.1"]), nothing_more(), port, LIMIT).await;
        assert_eq!(error.unwrap_err().reason(), "dial_refused");
        let error = dial(Vec::new(), nothing_more(), port, LIMIT).await;
        assert_eq!(error.unwrap_err().reason(), "dial_no_address");
        let never = std::future::pending();
        let error = dial(Vec::new(), never, port, Duration::from_millis(50)).await;
        assert_eq!(error.unwrap_err().reason(), "dial_timeout");
    }
}
