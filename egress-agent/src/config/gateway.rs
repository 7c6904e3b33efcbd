//! `gateway` in the configuration.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use serde::Deserialize;

use crate::gateway::{
    answered::GRACE,
    protocol::Limits,
    resolve::{
        cache::CacheBounds,
        server::{self, NameServer},
    },
};

/// Where the gateway listens, and how it works.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// Put on the node's loopback device; nothing else may use it.
    pub address4: Ipv4Addr,
    /// The same for IPv6; left out where the node has none.
    pub address6: Ipv6Addr,
    /// TCP.
    pub port: u16,
    /// UDP and TCP.
    pub dns_port: u16,
    /// TCP, for those who are set up for a proxy.
    pub proxy_port: u16,
    /// The numeric user and group that it runs as; not 0.
    pub user: u32,
    /// Where it looks names up; the node's resolv.conf where empty.
    pub resolvers: Vec<NameServer>,
    /// Root certificates for DNS over TLS, PEM, relative to this file; the system's where it is
    /// left out.
    pub resolver_roots: Option<PathBuf>,
    /// How much of what they say is kept, and for how long.
    pub cache: CacheConfig,
    /// How much longer than its time to live an address that an endpoint was told is good for
    /// protocols that say no name.
    pub answer_grace_seconds: u32,
    /// Networks that a name may lead to although they are not public.
    pub permitted_answers: Vec<IpNet>,
    /// How long a client may take for its whole ClientHello.
    pub hello_seconds: u64,
    /// After which a client that has sent nothing waits for the server to speak.
    pub silence_seconds: u64,
    /// Networks that no name may lead to, even if `permitted_answers` has them.
    pub refused_answers: Vec<IpNet>,
    /// How long what is connected may go on once the agent is told to end.
    pub drain_seconds: u64,
    /// Bounds on connections.
    pub limits: LimitsConfig,
    /// Authorities that it trusts where it starts TLS, a PEM file relative to this one; the node's
    /// where it is left out.
    pub roots: Option<PathBuf>,
}

impl GatewayConfig {
    /// As the gateway takes it.
    pub fn answer_grace(&self) -> Duration {
        Duration::from_secs(self.answer_grace_seconds.into())
    }

    /// Its bounds, as the gateway takes them.
    pub fn limits(&self) -> Limits {
        let LimitsConfig {
            connections,
            connections_per_endpoint,
            connections_per_second,
            connect_seconds,
            idle_seconds,
            lifetime_seconds,
            keep_alive_seconds,
            http_idle_seconds,
        } = self.limits;
        Limits {
            connections,
            connections_per_endpoint: connections_per_endpoint.unwrap_or(connections / 4 * 3),
            connections_per_second,
            hello: Duration::from_secs(self.hello_seconds),
            silence: Duration::from_secs(self.silence_seconds),
            connect: Duration::from_secs(connect_seconds),
            idle: Duration::from_secs(idle_seconds),
            lifetime: (lifetime_seconds > 0).then(|| Duration::from_secs(lifetime_seconds)),
            keep_alive: Duration::from_secs(keep_alive_seconds),
            http_idle: Duration::from_secs(http_idle_seconds),
            ..Limits::default()
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.user == 0 {
            return Err("gateway.user is 0: the gateway never runs as root; give it a number of its own, such as 62951".into());
        }
        let ports = BTreeSet::from([self.port, self.dns_port, self.proxy_port]);
        if ports.len() < 3 {
            return Err(
                "gateway.port, gateway.dnsPort and gateway.proxyPort must be three ports".into(),
            );
        }
        if ports.first().is_some_and(|least| *least < 1024) {
            return Err("gateway.port, gateway.dnsPort and gateway.proxyPort must be 1024 or more: the gateway has no privilege to open others".into());
        }
        if self.hello_seconds > HELLO_SECONDS_MAX {
            return Err(format!(
                "gateway.helloSeconds is more than {HELLO_SECONDS_MAX}: 10 is the default"
            ));
        }
        if !(1..=self.hello_seconds).contains(&self.silence_seconds) {
            return Err("gateway.silenceSeconds must be 1 or more, and no more than gateway.helloSeconds; 3 and 10 are the defaults".into());
        }
        self.check_resolution()?;
        self.limits.check()?;
        if self.drain_seconds > SECONDS_MAX {
            return Err(format!(
                "gateway.drainSeconds must be {SECONDS_MAX} or less; 25 is the default"
            ));
        }
        Ok(())
    }

    fn check_resolution(&self) -> Result<(), String> {
        server::check(&self.resolvers).map_err(|error| format!("gateway.resolvers: {error}"))?;
        let cache = &self.cache;
        if cache.ttl_max_seconds == 0 || cache.ttl_min_seconds > cache.ttl_max_seconds {
            return Err(
                "gateway.cache.ttlMaxSeconds must be 1 or more, and not less than ttlMinSeconds"
                    .into(),
            );
        }
        if cache.ttl_max_seconds.max(cache.negative_max_seconds) > TTL_MAX_SECONDS {
            return Err(format!(
                "gateway.cache: nothing is kept for more than a day, {TTL_MAX_SECONDS} seconds"
            ));
        }
        if self.answer_grace_seconds > TTL_MAX_SECONDS {
            return Err(format!(
                "gateway.answerGraceSeconds must be a day or less, {TTL_MAX_SECONDS} seconds"
            ));
        }
        if cache.entries > CACHE_ENTRIES_MAX {
            return Err(format!(
                "gateway.cache.entries must be {CACHE_ENTRIES_MAX} or less"
            ));
        }
        Ok(())
    }
}

/// Bounds of the gateway's cache of names.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Answers that are kept, at most.
    pub entries: usize,
    /// The least time that an address is kept.
    pub ttl_min_seconds: u32,
    /// The most.
    pub ttl_max_seconds: u32,
    /// The most that is kept of a name that does not exist.
    pub negative_max_seconds: u32,
}

impl CacheConfig {
    /// As the gateway takes them.
    pub fn bounds(&self) -> CacheBounds {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        CacheBounds {
            entries: self.entries,
            ttl_min: seconds(self.ttl_min_seconds),
            ttl_max: seconds(self.ttl_max_seconds),
            negative_max: seconds(self.negative_max_seconds),
        }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        // They are whole seconds, and few.
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let bounds = CacheBounds::default();
        Self {
            entries: bounds.entries,
            ttl_min_seconds: seconds(bounds.ttl_min),
            ttl_max_seconds: seconds(bounds.ttl_max),
            negative_max_seconds: seconds(bounds.negative_max),
        }
    }
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            address4: Ipv4Addr::new(169, 254, 64, 1),
            address6: Ipv6Addr::new(0xfd65, 0x6772, 0x6573, 0, 0, 0, 0, 1),
            port: 15001,
            dns_port: 15053,
            proxy_port: 15002,
            // Within the range that systemd.exec(5) keeps for users without a name.
            user: 62_951,
            resolvers: Vec::new(),
            resolver_roots: None,
            cache: CacheConfig::default(),
            // It is whole seconds, and few.
            answer_grace_seconds: u32::try_from(GRACE.as_secs()).unwrap_or(0),
            permitted_answers: Vec::new(),
            hello_seconds: 10,
            silence_seconds: 3,
            refused_answers: Vec::new(),
            // Within the 30 s that Kubernetes gives a pod.
            drain_seconds: 25,
            limits: LimitsConfig::default(),
            roots: None,
        }
    }
}

/// Bounds on connections.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Open at once.
    pub connections: usize,
    /// Open at once, of one endpoint; three quarters of all where it is left out.
    pub connections_per_endpoint: Option<usize>,
    /// New ones of one endpoint in a second; 0 is without bound.
    pub connections_per_second: u32,
    /// How long a server may take to accept one, all addresses together.
    pub connect_seconds: u64,
    /// How long one may be without a byte in either direction.
    pub idle_seconds: u64,
    /// How long one may last; 0 is without bound.
    pub lifetime_seconds: u64,
    /// How long one of HTTP may be without a request.
    pub keep_alive_seconds: u64,
    /// How long a request of HTTP may be without a byte of it or of its answer.
    pub http_idle_seconds: u64,
}

impl LimitsConfig {
    fn check(&self) -> Result<(), String> {
        let connections = self.connections;
        if !(CONNECTIONS_MIN..=CONNECTIONS_MAX).contains(&connections) {
            return Err(format!(
                "gateway.limits.connections must be {CONNECTIONS_MIN} to {CONNECTIONS_MAX}"
            ));
        }
        let of_endpoint = self.connections_per_endpoint;
        if of_endpoint.is_some_and(|most| !(1..=connections).contains(&most)) {
            return Err(format!(
                "gateway.limits.connectionsPerEndpoint must be 1 or more, and no more than gateway.limits.connections, which is {connections}"
            ));
        }
        let times = [
            ("connectSeconds", self.connect_seconds),
            ("idleSeconds", self.idle_seconds),
            ("keepAliveSeconds", self.keep_alive_seconds),
            ("httpIdleSeconds", self.http_idle_seconds),
        ];
        for (name, seconds) in times {
            if !(1..=SECONDS_MAX).contains(&seconds) {
                return Err(format!("gateway.limits.{name} must be 1 to {SECONDS_MAX}"));
            }
        }
        if self.lifetime_seconds > SECONDS_MAX {
            return Err(format!(
                "gateway.limits.lifetimeSeconds must be {SECONDS_MAX} or less; 0 is without bound"
            ));
        }
        Ok(())
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            connections: limits.connections,
            connections_per_endpoint: None,
            connections_per_second: limits.connections_per_second,
            connect_seconds: limits.connect.as_secs(),
            idle_seconds: limits.idle.as_secs(),
            lifetime_seconds: limits.lifetime.map_or(0, |lifetime| lifetime.as_secs()),
            keep_alive_seconds: limits.keep_alive.as_secs(),
            http_idle_seconds: limits.http_idle.as_secs(),
        }
    }
}

/// Below it a quarter is none.
const CONNECTIONS_MIN: usize = 4;
/// As many as a process may have descriptors for, by default (fs.nr_open).
const CONNECTIONS_MAX: usize = 500_000;
/// A month.
const SECONDS_MAX: u64 = 30 * 86_400;

/// Nobody takes an hour for a ClientHello; whoever seems to holds a place of the gateway's.
const HELLO_SECONDS_MAX: u64 = 3_600;

/// A day, the most that a cached address may be old: beyond it nobody would see a change.
const TTL_MAX_SECONDS: u32 = 86_400;

/// Some 2.5 GB, were every answer as large as it may be.
const CACHE_ENTRIES_MAX: usize = 1_000_000;
