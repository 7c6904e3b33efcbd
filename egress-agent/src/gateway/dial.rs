//! Happy Eyeballs (RFC 8305) over addresses that were checked.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use thiserror::Error;
use tokio::{net::TcpStream, task::JoinSet, time};

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

/// Connects to the first of the addresses that answers, within `limit`.
///
/// # Errors
/// None answers.
pub async fn dial(
    addresses: &[IpAddr],
    port: u16,
    limit: Duration,
) -> Result<(TcpStream, SocketAddr), DialError> {
    match time::timeout(limit, race(interleave(addresses), port)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(DialError::Timeout),
    }
}

/// IPv6 first, then by turns (RFC 8305 section 4).
fn interleave(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut v6 = addresses.iter().filter(|a| a.is_ipv6());
    let mut v4 = addresses.iter().filter(|a| a.is_ipv4());
    let mut order = Vec::with_capacity(addresses.len());
    while order.len() < addresses.len().min(ATTEMPTS_MAX) {
        order.extend(v6.next().into_iter().chain(v4.next()));
    }
    order.truncate(ATTEMPTS_MAX);
    order
}

async fn race(order: Vec<IpAddr>, port: u16) -> Result<(TcpStream, SocketAddr), DialError> {
    let mut waiting = order.into_iter();
    let mut attempts = JoinSet::new();
    let mut last = DialError::NoAddress;
    loop {
        if let Some(address) = waiting.next() {
            let to = SocketAddr::new(address, port);
            attempts.spawn(async move { (to, TcpStream::connect(to).await) });
        } else if attempts.is_empty() {
            return Err(last);
        }
        let delay = match waiting.len() {
            0 => Duration::MAX,
            _ => ATTEMPT_DELAY,
        };
        match time::timeout(delay, attempts.join_next()).await {
            // Dropping the set aborts the attempts that are still under way.
            Ok(Some(Ok((to, Ok(stream))))) => return Ok((stream, to)),
            Ok(Some(Ok((_, Err(error))))) => last = DialError::Failed(error),
            Ok(Some(Err(_))) | Ok(None) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let all: Vec<IpAddr> = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
            .iter()
            .map(|a| a.parse().unwrap())
            .collect();
        assert_eq!(interleave(&all), [all[2], all[0], all[1]]);
        assert_eq!(interleave(&vec![all[0]; 20]).len(), ATTEMPTS_MAX);
    }

    #[tokio::test]
    async fn a_dead_address_gives_way_to_the_next() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let addresses = ["::1".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let (_, to) = dial(&addresses, port, Duration::from_secs(5))
            .await
            .unwrap();
        assert_eq!(to, listener.local_addr().unwrap());
    }

    #[tokio::test]
    async fn nobody_there() {
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = closed.local_addr().unwrap().port();
        drop(closed);
        let error = dial(
            &["127.0.0.1".parse().unwrap()],
            port,
            Duration::from_secs(5),
        )
        .await;
        assert_eq!(error.unwrap_err().reason(), "dial_refused");
        let error = dial(&[], port, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.reason(), "dial_no_address");
    }
}
