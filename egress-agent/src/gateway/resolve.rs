//! The gateway's own look-ups. An address from DNS is handed out only when it was checked.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    Resolver as Hickory, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RecordType},
    },
};
use thiserror::Error;
use tokio::time::timeout;

use super::{
    hosts::Hosts,
    protocol::Configure,
    refuse::{Refusal, Refused},
};
use crate::policy::host::HostName;

/// Time to live of a name in the hosts file, seconds: it may change at any time.
const HOSTS_TTL: u32 = 5;
/// The longest time to live that is handed to an endpoint, seconds: a policy or address change
/// is seen after that at the latest.
pub const TTL_MAX: u32 = 300;

/// An address family to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A.
    V4,
    /// AAAA.
    V6,
}

/// An address that may be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The address.
    pub address: IpAddr,
    /// Seconds, at most [`TTL_MAX`].
    pub ttl: u32,
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
}

/// Cannot look names up at all.
#[derive(Debug, Error)]
#[error("no resolver: {0}; check /etc/resolv.conf, or configure resolvers")]
pub struct SetupError(String);

/// One worker's resolver and its cache.
pub struct Resolver {
    hickory: TokioResolver,
    hosts: Hosts,
    refused: Refused,
    limit: Duration,
}

impl Resolver {
    /// With the servers of the configuration, or the node's.
    ///
    /// # Errors
    /// The node's resolv.conf cannot be read.
    pub fn new(configure: &Configure, refused: Refused) -> Result<Self, SetupError> {
        let provider = TokioRuntimeProvider::default();
        let failed = |error: NetError| SetupError(error.to_string());
        let mut builder = match configure.resolvers.as_slice() {
            [] => Hickory::builder(provider).map_err(failed)?,
            servers => {
                let servers = servers.iter().map(name_server).collect();
                Hickory::builder_with_config(ResolverConfig::from_name_servers(servers), provider)
            }
        };
        harden(builder.options_mut());
        Ok(Self {
            hickory: builder.build().map_err(failed)?,
            hosts: Hosts::new(configure.hosts_file.clone()),
            refused,
            limit: configure.limits.resolve,
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
        let from_file = self.hosts.addresses(name);
        if !from_file.is_empty() {
            return self.of_hosts(from_file, family);
        }
        let kind = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        let mut query = Name::from_ascii(name.as_str())
            .map_err(|error| ResolveError::Server(error.to_string()))?;
        // Fully qualified, so that no search domain makes other names of it.
        query.set_fqdn(true);
        let lookup = timeout(self.limit, self.hickory.lookup(query, kind)).await;
        let lookup = lookup
            .map_err(|_elapsed| ResolveError::Timeout)?
            .map_err(failure)?;
        let addresses = lookup.answers().iter().filter_map(|record| {
            let address = record.data.ip_addr()?;
            Some(Answer {
                address,
                ttl: record.ttl.min(TTL_MAX),
            })
        });
        self.checked(addresses.filter(|answer| is_family(answer.address, family)))
    }

    /// Addresses of both families.
    ///
    /// # Errors
    /// Neither family has one; the more telling reason.
    pub async fn addresses(&self, name: &HostName) -> Result<Vec<IpAddr>, ResolveError> {
        let (v6, v4) = tokio::join!(self.family(name, Family::V6), self.family(name, Family::V4));
        match (v6, v4) {
            (Err(refused @ ResolveError::Refused(..)), Err(_)) => Err(refused),
            (Err(_), Err(error)) => Err(error),
            (v6, v4) => {
                let answers = v6.into_iter().chain(v4).flatten();
                Ok(answers.map(|answer| answer.address).collect())
            }
        }
    }

    fn of_hosts(&self, all: Vec<IpAddr>, family: Family) -> Result<Vec<Answer>, ResolveError> {
        let own = all.iter().find(|address| self.refused.is_own(**address));
        if let Some(own) = own {
            return Err(ResolveError::Refused(*own, Refusal::Own));
        }
        let of_family = all
            .into_iter()
            .filter(|address| is_family(*address, family));
        let answers: Vec<_> = of_family
            .map(|address| Answer {
                address,
                ttl: HOSTS_TTL,
            })
            .collect();
        match answers.is_empty() {
            true => Err(ResolveError::NoAddress),
            false => Ok(answers),
        }
    }

    fn checked(&self, answers: impl Iterator<Item = Answer>) -> Result<Vec<Answer>, ResolveError> {
        let (mut good, mut refused) = (Vec::new(), None);
        for answer in answers {
            match self.refused.check(answer.address) {
                Ok(()) => good.push(answer),
                Err(refusal) => refused = refused.or(Some((answer.address, refusal))),
            }
        }
        match (good.is_empty(), refused) {
            (false, _) => Ok(good),
            (true, Some((address, refusal))) => Err(ResolveError::Refused(address, refusal)),
            (true, None) => Err(ResolveError::NoAddress),
        }
    }
}

const fn is_family(address: IpAddr, family: Family) -> bool {
    match family {
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    }
}

fn name_server(server: &SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = server.port();
    }
    NameServerConfig::new(server.ip(), true, connections)
}

fn harden(options: &mut ResolverOpts) {
    // The hosts file is ours to read; its addresses are treated differently.
    options.use_hosts_file = ResolveHosts::Never;
    options.case_randomization = false;
    options.positive_max_ttl = Some(Duration::from_secs(TTL_MAX.into()));
    options.negative_max_ttl = Some(Duration::from_secs(30));
    options.timeout = Duration::from_secs(2);
    options.attempts = 2;
}

fn failure(error: NetError) -> ResolveError {
    if let NetError::Dns(DnsError::NoRecordsFound(none)) = &error {
        if none.response_code == ResponseCode::NXDomain {
            return ResolveError::NoName;
        }
        if none.response_code == ResponseCode::NoError {
            return ResolveError::NoAddress;
        }
    }
    match matches!(error, NetError::Timeout) {
        true => ResolveError::Timeout,
        false => ResolveError::Server(error.to_string()),
    }
}
