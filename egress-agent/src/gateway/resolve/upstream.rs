//! One worker's way to the name servers, and what of their answers is taken.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hickory_resolver::{
    Resolver as Hickory, TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, Record, RecordType},
    },
};
use rustls::ClientConfig;
use tokio::time::timeout;

use super::{
    Family, SetupError,
    cache::{CacheBounds, Found, Key, Missing},
    server::{self, NameServer},
};
use crate::{gateway::protocol::Configure, policy::host::HostName};

/// Addresses that are taken of one name and family; what else there is is neither dialled nor
/// handed out. A message over TCP holds some 4,000, and no client tries so many.
pub const ADDRESSES_MAX: usize = 128;
/// Aliases that are followed within an answer, as many as others follow.
const ALIASES_MAX: usize = 16;
/// How long a server has for itself before the next one is asked as well.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a failure is remembered (RFC 9520 section 3.2: at least a second).
const FAILURE_TTL: Duration = Duration::from_secs(1);
/// A time to live beyond this counts as 0 (RFC 2181 section 8).
const TTL_VALID_MAX: u32 = i32::MAX as u32;
/// Questions under way on one connection over TCP or TLS: as many look-ups as endpoints may have
/// under way, see `Limits::lookups`.
const QUESTIONS_MAX: usize = 1_024;

/// What a look-up has come to, and for how long that holds.
type Outcome = Result<(Vec<IpAddr>, Duration), (Missing, Duration)>;

/// Asks the name servers; remembers nothing but which one was good.
#[derive(Clone)]
pub struct Upstream {
    /// One for each server: together, the first that answers with an error would speak for all.
    servers: Arc<[TokioResolver]>,
    /// The number of the server that gave the last good answer.
    good: Arc<AtomicUsize>,
    limit: Duration,
}

/// The name servers and how they are spoken to. All that has to be read for that was read.
#[derive(Clone)]
pub struct Servers {
    configs: Vec<NameServerConfig>,
    options: ResolverOpts,
    tls: Option<ClientConfig>,
}

impl Servers {
    /// Those of the configuration, or the node's where there are none.
    ///
    /// # Errors
    /// The node's resolv.conf or the root certificates cannot be read.
    pub fn read(configure: &Configure) -> Result<Self, SetupError> {
        let servers = match configure.resolvers.as_slice() {
            [] => server::of_node()?,
            servers => servers.to_vec(),
        };
        let mut options = ResolverOpts::default();
        harden(&mut options);
        let tls = match servers.iter().any(NameServer::is_tls) {
            true => Some(server::tls_config(configure.resolver_roots.as_deref())?),
            false => None,
        };
        Ok(Self {
            configs: servers.iter().map(NameServer::config).collect(),
            options,
            tls,
        })
    }
}

impl Upstream {
    /// `limit` is for one question.
    ///
    /// # Errors
    /// A server cannot be asked in the way that is configured.
    pub fn new(servers: &Servers, limit: Duration) -> Result<Self, SetupError> {
        let made = servers.configs.iter().map(|config| {
            let config = ResolverConfig::from_name_servers(vec![config.clone()]);
            let provider = TokioRuntimeProvider::default();
            let mut builder = Hickory::builder_with_config(config, provider);
            *builder.options_mut() = servers.options.clone();
            if let Some(tls) = &servers.tls {
                builder = builder.with_tls_config(tls.clone());
            }
            let built = builder.build();
            built.map_err(|error: NetError| SetupError::Servers(error.to_string()))
        });
        Ok(Self {
            servers: made.collect::<Result<_, _>>()?,
            good: Arc::default(),
            limit,
        })
    }

    /// Asks once, within the limit.
    pub async fn ask(&self, (name, family): &Key, bounds: &CacheBounds) -> Found {
        let asked = timeout(self.limit, self.lookup(name, *family)).await;
        let outcome = asked.unwrap_or(Err((Missing::Timeout, FAILURE_TTL)));
        let (outcome, ttl) = match outcome {
            Ok((addresses, ttl)) => (Ok(addresses), ttl.clamp(bounds.ttl_min, bounds.ttl_max)),
            Err((missing, ttl)) => (Err(missing), ttl.min(bounds.negative_max)),
        };
        let until = Instant::now() + ttl;
        Found { outcome, until }
    }

    /// Asks one server after the other, the next where one fails or takes its time; what any of
    /// them knows counts.
    async fn lookup(&self, name: &HostName, family: Family) -> Outcome {
        let mut query = Name::from_ascii(name.as_str())
            .map_err(|error| (Missing::Server(error.to_string()), FAILURE_TTL))?;
        // Fully qualified, so that no search domain makes other names of it.
        query.set_fqdn(true);
        let first = self.good.load(Ordering::Relaxed);
        let count = self.servers.len();
        let mut waiting = (0..count).map(|number| (first + number) % count);
        let mut asked = FuturesUnordered::new();
        let mut failed = (Missing::Timeout, FAILURE_TTL);
        loop {
            match waiting.next() {
                Some(number) => asked.push(self.ask_one(number, &query, family)),
                None if asked.is_empty() => return Err(failed),
                None => {}
            }
            let patience = match waiting.len() {
                0 => Duration::MAX,
                _ => PATIENCE,
            };
            match timeout(patience, asked.next()).await {
                Ok(Some((_, Err(failure)))) if is_failure(&failure.0) => failed = failure,
                Ok(Some((number, outcome))) => {
                    self.good.store(number, Ordering::Relaxed);
                    return outcome;
                }
                Ok(None) | Err(_) => {}
            }
        }
    }

    async fn ask_one(&self, number: usize, query: &Name, family: Family) -> (usize, Outcome) {
        let kind = family.record_type();
        let outcome = match self.servers[number].lookup(query.clone(), kind).await {
            Ok(lookup) => addresses(query, kind, &lookup),
            Err(error) => Err(failure(error)),
        };
        (number, outcome)
    }
}

/// Whether another server may know better.
const fn is_failure(missing: &Missing) -> bool {
    match missing {
        Missing::Timeout | Missing::Server(_) => true,
        Missing::NoName | Missing::NoAddress => false,
    }
}

fn harden(options: &mut ResolverOpts) {
    // The hosts file is ours to read; its addresses are treated differently.
    options.use_hosts_file = ResolveHosts::Never;
    options.case_randomization = false;
    // Answers are kept by us, without what else is in a message of up to 64 KiB.
    options.cache_size = 0;
    options.positive_max_ttl = Some(Duration::from_secs(u32::MAX.into()));
    options.timeout = Duration::from_secs(2);
    options.attempts = 2;
    options.max_active_requests = QUESTIONS_MAX;
}

fn addresses(question: &Name, kind: RecordType, lookup: &Lookup) -> Outcome {
    // Of an alias that was asked for in its turn, the question is the last one's.
    let asked = lookup.message().queries.first().map(|query| &query.name);
    let is_ours = |name| name == question || is_alias(question, name, lookup.answers());
    if !asked.is_some_and(is_ours) {
        let why = "the answer is to another question".to_owned();
        return Err((Missing::Server(why), FAILURE_TTL));
    }
    let (addresses, ttl) = follow(question, kind, lookup.answers());
    match addresses.is_empty() {
        true => Err((Missing::NoAddress, FAILURE_TTL)),
        false => Ok((addresses, Duration::from_secs(ttl.into()))),
    }
}

/// Whether the records lead from one name to the other.
fn is_alias(from: &Name, to: &Name, records: &[Record]) -> bool {
    let mut name = from;
    for _ in 0..ALIASES_MAX {
        match alias(name, records) {
            Some((target, _)) if target == to => return true,
            Some((target, _)) => name = target,
            None => return false,
        }
    }
    false
}

/// The addresses that the records give the name, by aliases or at once, each once; and the least
/// time to live on the way, in seconds. What is said of other names counts for nothing.
fn follow(question: &Name, kind: RecordType, records: &[Record]) -> (Vec<IpAddr>, u32) {
    let (mut name, mut ttl) = (question, u32::MAX);
    for _ in 0..ALIASES_MAX {
        let mut found: Vec<IpAddr> = Vec::new();
        let own = records
            .iter()
            .filter(|record| record.name == *name && record.record_type() == kind);
        for record in own {
            ttl = ttl.min(valid(record.ttl));
            match record.data.ip_addr() {
                Some(address) if found.len() < ADDRESSES_MAX && !found.contains(&address) => {
                    found.push(address);
                }
                Some(_) | None => {}
            }
        }
        if !found.is_empty() {
            return (found, ttl);
        }
        let Some((target, alias_ttl)) = alias(name, records) else {
            break;
        };
        ttl = ttl.min(alias_ttl);
        name = target;
    }
    (Vec::new(), 0)
}

fn alias<'a>(name: &Name, records: &'a [Record]) -> Option<(&'a Name, u32)> {
    records.iter().find_map(|record| {
        let is_own = record.name == *name;
        if let (true, RData::CNAME(target)) = (is_own, &record.data) {
            return Some((&target.0, valid(record.ttl)));
        }
        None
    })
}

const fn valid(ttl: u32) -> u32 {
    if ttl > TTL_VALID_MAX { 0 } else { ttl }
}

fn failure(error: NetError) -> (Missing, Duration) {
    if let NetError::Dns(DnsError::NoRecordsFound(none)) = &error {
        // The SOA's minimum, or its own time to live where that is less (RFC 2308 section 5);
        // without one there is nothing to go by.
        let ttl = none.negative_ttl.map(valid).map(u64::from);
        let ttl = ttl.map_or(FAILURE_TTL, Duration::from_secs);
        if none.response_code == ResponseCode::NXDomain {
            return (Missing::NoName, ttl);
        }
        if none.response_code == ResponseCode::NoError {
            return (Missing::NoAddress, ttl);
        }
    }
    match matches!(error, NetError::Timeout) {
        true => (Missing::Timeout, FAILURE_TTL),
        false => (Missing::Server(error.to_string()), FAILURE_TTL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn a(owner: &str, ttl: u32, last: u8) -> Record {
        let address = std::net::Ipv4Addr::new(203, 0, 113, last);
        Record::from_rdata(name(owner), ttl, RData::A(address.into()))
    }

    fn cname(owner: &str, ttl: u32, target: &str) -> Record {
        let data = hickory_resolver::proto::rr::rdata::CNAME(name(target));
        Record::from_rdata(name(owner), ttl, RData::CNAME(data))
    }

    fn followed(records: &[Record]) -> (Vec<String>, u32) {
        let (addresses, ttl) = follow(&name("a.test."), RecordType::A, records);
        (addresses.iter().map(ToString::to_string).collect(), ttl)
    }

    #[test]
    fn only_what_is_said_of_the_name_counts() {
        let records = [
            a("other.test.", 60, 66),
            cname("A.test.", 50, "b.test."),
            a("b.test.", 70, 7),
            a("b.test.", 70, 7),
        ];
        assert_eq!(followed(&records), (vec!["203.0.113.7".to_owned()], 50));
        assert_eq!(followed(&records[..1]), (vec![], 0));
    }

    #[test]
    fn aliases_in_a_circle_end() {
        let records = [
            cname("a.test.", 9, "b.test."),
            cname("b.test.", 9, "a.test."),
        ];
        assert_eq!(followed(&records), (vec![], 0));
    }

    #[test]
    fn a_time_to_live_with_its_highest_bit_set_is_none() {
        assert_eq!(followed(&[a("a.test.", 1 << 31, 7)]).1, 0);
        assert_eq!(followed(&[a("a.test.", TTL_VALID_MAX, 7)]).1, TTL_VALID_MAX);
    }

    #[test]
    fn thousands_of_addresses_are_cut() {
        let records: Vec<_> = (0..4_000_u16)
            .map(|n| {
                let [high, low] = n.to_be_bytes();
                let address = std::net::Ipv4Addr::new(203, 0, high, low);
                Record::from_rdata(name("a.test."), 60, RData::A(address.into()))
            })
            .collect();
        assert_eq!(followed(&records).0.len(), ADDRESSES_MAX);
    }
}
