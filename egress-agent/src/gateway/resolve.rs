//! The gateway's own look-ups. An address from DNS is handed out only when it was checked.

use std::{net::IpAddr, sync::Arc, time::Duration, time::Instant};

use futures_util::{FutureExt as _, future::LocalBoxFuture};
use hickory_resolver::proto::rr::RecordType;
use thiserror::Error;
use tokio::time::timeout;

use super::{
    dial::{self, DialError, Dialled},
    refuse::{Refusal, Refused},
};
use crate::policy::host::HostName;

pub mod cache;
pub mod server;
pub mod upstream;

use cache::{Cache, Found, Key, Look, Missing, Promise};
use server::RootsError;
use upstream::Upstream;

pub use upstream::Servers;

/// Time to live of a name in the hosts file, seconds: it may change at any time.
const HOSTS_TTL: u32 = 5;
/// How long the first address of the other family is waited for (RFC 8305 section 3,
/// "Resolution Delay").
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// An address family to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// A.
    V4,
    /// AAAA.
    V6,
}

impl Family {
    const fn record_type(self) -> RecordType {
        match self {
            Self::V4 => RecordType::A,
            Self::V6 => RecordType::AAAA,
        }
    }

    const fn has(self, address: IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// An address that may be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The address.
    pub address: IpAddr,
    /// For how many seconds it is the name's; at least 1.
    pub ttl: u32,
    /// Who says so.
    pub source: Source,
}

/// Who says that an address is a name's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A name server: the address was checked.
    Dns,
    /// The hosts file, the operator's word: only the gateway's own addresses are refused.
    Hosts,
}

/// What a look-up of one family has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// At least one.
    pub answers: Vec<Answer>,
    /// The first address that was left out because it is refused.
    pub left_out: Option<(IpAddr, Refusal)>,
}

/// The addresses of a name: those of the family that answered first, and those that are to come.
pub struct Addresses<'a> {
    /// At least one.
    pub first: Vec<IpAddr>,
    /// Of the other family, none where it has none.
    pub later: Option<LocalBoxFuture<'a, Vec<IpAddr>>>,
}

impl Addresses<'_> {
    /// One that need not be looked up.
    pub fn one(address: IpAddr) -> Self {
        Self {
            first: vec![address],
            later: None,
        }
    }

    /// Connects to the first that answers, see [`dial::dial`].
    ///
    /// # Errors
    /// None answers within `limit`.
    pub async fn dial(self, port: u16, limit: Duration) -> Result<Dialled, DialError> {
        let later = async {
            match self.later {
                Some(later) => later.await,
                None => Vec::new(),
            }
        };
        dial::dial(self.first, later, port, limit).await
    }
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ResolveError {
    /// There is no such name.
    #[error("no such name")]
    NoName,
    /// The name has no address of the family.
    #[error("the name has no address")]
    NoAddress,
    /// All its addresses are refused; the first one and why.
    #[error("the name resolves to {0}, which is refused")]
    Refused(IpAddr, Refusal),
    /// No answer in time.
    #[error("no name server answered in time")]
    Timeout,
    /// The servers failed.
    #[error("the name servers failed: {0}")]
    Server(String),
}

impl ResolveError {
    /// The stable name in close records.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoName => "resolve_no_name",
            Self::NoAddress => "resolve_no_address",
            Self::Refused(_, refusal) => refusal.reason(),
            Self::Timeout => "resolve_timeout",
            Self::Server(_) => "resolve_failed",
        }
    }

    /// The more telling of two families' reasons: what is refused, then what failed.
    fn or(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Refused(..), _) => self,
            (_, Self::Refused(..)) => other,
            (Self::Timeout | Self::Server(_), Self::NoName | Self::NoAddress) => self,
            (Self::NoName | Self::NoAddress | Self::Timeout | Self::Server(_), _) => other,
        }
    }
}

impl From<Missing> for ResolveError {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::NoName => Self::NoName,
            Missing::NoAddress => Self::NoAddress,
            Missing::Timeout => Self::Timeout,
            Missing::Server(why) => Self::Server(why),
        }
    }
}

/// Cannot look names up at all.
#[derive(Debug, Error)]
pub enum SetupError {
    /// There is nobody to ask.
    #[error("no resolver: {0}; check /etc/resolv.conf, or configure resolvers")]
    Servers(String),
    /// Nobody's certificate can be verified.
    #[error("no resolver: {0}")]
    Roots(#[from] RootsError),
}

/// One worker's resolver; what it learns, all workers know.
pub struct Resolver {
    upstream: Upstream,
    cache: Arc<Cache>,
    refused: Refused,
    limit: Duration,
}

impl Resolver {
    /// `limit` is for one look-up.
    ///
    /// # Errors
    /// A server cannot be asked in the way that is configured.
    pub fn new(
        servers: &Servers,
        refused: Refused,
        cache: Arc<Cache>,
        limit: Duration,
    ) -> Result<Self, SetupError> {
        Ok(Self {
            upstream: Upstream::new(servers, limit)?,
            cache,
            refused,
            limit,
        })
    }

    /// What is never dialled.
    pub fn refused(&self) -> &Refused {
        &self.refused
    }

    /// Addresses of one family, every one of them checked, refused ones left out.
    ///
    /// # Errors
    /// There is none, or all are refused.
    pub async fn family(
        &self,
        name: &HostName,
        family: Family,
    ) -> Result<Vec<Answer>, ResolveError> {
        let checked = self.checked_family(name, family).await?;
        Ok(checked.answers)
    }

    /// The same, with what was left out.
    ///
    /// # Errors
    /// As [`family`](Self::family).
    pub async fn checked_family(
        &self,
        name: &HostName,
        family: Family,
    ) -> Result<Checked, ResolveError> {
        let from_file = self.refused.named(name);
        if !from_file.is_empty() {
            return self.of_hosts(from_file, family);
        }
        let found = self.found((name.clone(), family)).await?;
        let addresses = found.outcome.as_ref().map_err(Clone::clone)?;
        self.checked(addresses, remaining(found.until))
    }

    /// Addresses of both families. The one that answers first is enough: the other is waited for
    /// for a moment where it is IPv6, and else comes later.
    ///
    /// # Errors
    /// Neither family has one; the more telling reason.
    pub async fn addresses<'a>(
        &'a self,
        name: &'a HostName,
    ) -> Result<Addresses<'a>, ResolveError> {
        let mut v6 = self.family(name, Family::V6).boxed_local();
        let mut v4 = self.family(name, Family::V4).boxed_local();
        let (first, mut other, patience) = tokio::select! {
            biased;
            first = &mut v6 => (first, v4, Duration::ZERO),
            first = &mut v4 => (first, v6, RESOLUTION_DELAY),
        };
        let error = match first {
            Ok(answers) => {
                let mut first = only_addresses(answers);
                let later = match timeout(patience, &mut other).await {
                    Ok(more) => {
                        first.extend(more.map(only_addresses).unwrap_or_default());
                        None
                    }
                    Err(_elapsed) => Some(only_later(other).boxed_local()),
                };
                return Ok(Addresses { first, later });
            }
            Err(error) => error,
        };
        match other.await {
            Ok(answers) => Ok(Addresses {
                first: only_addresses(answers),
                later: None,
            }),
            Err(other) => Err(error.or(other)),
        }
    }

    /// What is known, or what somebody is told who asks: whoever comes first.
    async fn found(&self, key: Key) -> Result<Arc<Found>, ResolveError> {
        let mut told = match self.cache.look(&key) {
            Look::Known(found) => return Ok(found),
            Look::Asked(told) => told,
            Look::Ask(promise, told) => {
                // A task of its own: others wait for it when this one has gone.
                tokio::spawn(ask(self.upstream.clone(), promise, self.cache.clone()));
                told
            }
        };
        let found = timeout(self.limit, told.wait_for(Option::is_some)).await;
        let found = found.map_err(|_elapsed| ResolveError::Timeout)?;
        let found =
            found.map_err(|_dropped| ResolveError::Server("nobody asks any more".into()))?;
        found.clone().ok_or(ResolveError::Timeout)
    }

    fn of_hosts(&self, all: Vec<IpAddr>, family: Family) -> Result<Checked, ResolveError> {
        let own = all.iter().find(|address| self.refused.is_own(**address));
        if let Some(own) = own {
            return Err(ResolveError::Refused(*own, Refusal::Own));
        }
        let of_family = all.into_iter().filter(|address| family.has(*address));
        let answers: Vec<_> = of_family
            .map(|address| Answer {
                address,
                ttl: HOSTS_TTL,
                source: Source::Hosts,
            })
            .collect();
        match answers.is_empty() {
            true => Err(ResolveError::NoAddress),
            false => Ok(Checked {
                answers,
                left_out: None,
            }),
        }
    }

    fn checked(&self, addresses: &[IpAddr], ttl: u32) -> Result<Checked, ResolveError> {
        let (mut answers, mut left_out) = (Vec::new(), None);
        for &address in addresses {
            match self.refused.check(address) {
                Ok(()) => answers.push(Answer {
                    address,
                    ttl,
                    source: Source::Dns,
                }),
                Err(refusal) => left_out = left_out.or(Some((address, refusal))),
            }
        }
        match (answers.is_empty(), left_out) {
            (false, left_out) => Ok(Checked { answers, left_out }),
            (true, Some((address, refusal))) => Err(ResolveError::Refused(address, refusal)),
            (true, None) => Err(ResolveError::NoAddress),
        }
    }
}

async fn ask(upstream: Upstream, promise: Promise, cache: Arc<Cache>) {
    let found = upstream.ask(promise.key(), cache.bounds()).await;
    promise.keep(found);
}

/// Whole seconds, at least one: what is handed out holds for a moment, or it would be no use.
fn remaining(until: Instant) -> u32 {
    let left = until.saturating_duration_since(Instant::now());
    let seconds = left.as_millis().div_ceil(1_000).max(1);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

fn only_addresses(answers: Vec<Answer>) -> Vec<IpAddr> {
    answers.into_iter().map(|answer| answer.address).collect()
}

async fn only_later(other: LocalBoxFuture<'_, Result<Vec<Answer>, ResolveError>>) -> Vec<IpAddr> {
    other.await.map(only_addresses).unwrap_or_default()
}
