//! The gateway of an instance: where it listens, its process, and what it may say.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use egress_common::endpoint::Gateway;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{InstanceError, READY};
use crate::{
    gateway::{
        inherit::Inherited,
        protocol::{Configure, FromGateway, Limits, ToGateway},
        resolve::{
            cache::CacheBounds,
            server::{self, NameServer},
        },
        seal::Landlock,
        spawn::{ControlReceiver, ControlSender, GatewayChild, SpawnOptions, confine, spawn},
    },
    telemetry::record::Event,
};

/// What holds a gateway, beside that it has no privilege.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Contained {
    /// Whether its system calls are filtered.
    pub seccomp: bool,
    /// What Landlock does.
    pub landlock: Landlock,
    /// Where the kernel lets it connect to.
    pub reach: Extent,
}

/// Where a gateway may connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Extent {
    /// Where some policy may lead.
    Policy,
    /// To anywhere: some endpoint is in Audit.
    Wide,
}

/// Where the gateway of an instance listens, and how it works.
#[derive(Debug, Clone)]
pub struct GatewayPlan {
    /// The IPv4 address; on the node already, or put there by `on_loopback`.
    pub v4: IpAddr,
    /// The IPv6 address, where the node has IPv6.
    pub v6: Option<IpAddr>,
    /// TCP.
    pub port: u16,
    /// UDP and TCP.
    pub dns_port: u16,
    /// TCP, for those who are set up for a proxy.
    pub proxy_port: u16,
    /// The user and group that it runs as.
    pub user: u32,
    /// Where it looks names up.
    pub resolvers: Vec<NameServer>,
    /// What DNS over TLS trusts; the system's root certificates where it is left out.
    pub resolver_roots: Option<PathBuf>,
    /// How much of the answers is kept, and for how long.
    pub cache: CacheBounds,
    /// How much longer than its time to live an address that an endpoint was told is good.
    pub answer_grace: Duration,
    /// Networks that a name may lead to although they are not public.
    pub permitted_answers: Vec<IpNet>,
    /// Its bounds.
    pub limits: Limits,
    /// Networks that no name may lead to.
    pub refused_answers: Vec<IpNet>,
    /// Authorities that it trusts where it starts TLS, PEM.
    pub roots: String,
    /// Whether the addresses are put on the loopback device.
    pub on_loopback: bool,
}

impl GatewayPlan {
    /// Where it listens.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.v4).chain(self.v6)
    }

    pub(super) fn at(&self, port: u16) -> Vec<SocketAddr> {
        let addresses = self.addresses();
        addresses.map(|ip| SocketAddr::new(ip, port)).collect()
    }

    /// The node's name servers, where none are configured: the gateway reads no files, and the kernel
    /// lets it to those alone.
    pub(super) fn find_resolvers(&mut self) -> Result<(), InstanceError> {
        if self.resolvers.is_empty() {
            let found = server::of_node();
            self.resolvers = found.map_err(|error| InstanceError::Gateway(error.to_string()))?;
        }
        Ok(())
    }

    fn configure(&self) -> Configure {
        let mut configure = Configure::new(self.at(self.port), self.at(self.dns_port));
        configure.proxy = self.at(self.proxy_port);
        configure.resolvers = self.resolvers.clone();
        configure.resolver_roots = self.resolver_roots.clone();
        configure.cache = self.cache.clone();
        configure.answer_grace = self.answer_grace;
        configure.permitted_answers = self.permitted_answers.clone();
        configure.limits = self.limits.clone();
        configure.refused_answers = self.refused_answers.clone();
        configure.roots.clone_from(&self.roots);
        configure
    }

    pub(super) fn for_maps(&self) -> Gateway {
        Gateway {
            v4: self.v4.into(),
            // Without IPv6 nothing is at this address, and connects to it fail.
            v6: self.v6.unwrap_or(IpAddr::from([0; 16])).into(),
            port: self.port,
            dns_port: self.dns_port,
            proxy_port: self.proxy_port,
            reserved: 0,
        }
    }
}

pub(super) async fn start_gateway(
    plan: &GatewayPlan,
    cgroup: &Path,
    inherited: Inherited,
) -> Result<
    (
        ControlSender,
        GatewayChild,
        mpsc::UnboundedReceiver<FromGateway>,
        Landlock,
    ),
    InstanceError,
> {
    let mut configure = plan.configure();
    configure.inherited = inherited;
    let wanted = configure.limits.connections;
    let mut process = spawn(&SpawnOptions {
        executable: PathBuf::from("/proc/self/exe"),
        cgroup: cgroup.to_owned(),
        uid: plan.user,
        gid: plan.user,
        descriptors: configure.limits.descriptors(configure.threads()),
        inherited: configure.inherited.all().collect(),
    })?;
    let configure = ToGateway::Configure(configure);
    process.sender.send(&configure).await?;
    let ready = tokio::time::timeout(READY, process.receiver.receive()).await;
    let landlock = match ready {
        Ok(Ok(Some(FromGateway::Ready {
            landlock,
            connections,
            ..
        }))) => {
            if connections < wanted {
                tracing::warn!(
                    "the gateway has descriptors for {connections} connections at once, not for {wanted}: raise RLIMIT_NOFILE, or give the agent CAP_SYS_RESOURCE"
                );
            }
            landlock
        }
        Ok(Ok(Some(FromGateway::Failed { message }))) => {
            return Err(InstanceError::Gateway(message));
        }
        Ok(Ok(_)) => return Err(InstanceError::Gateway("it ended before it listened".into())),
        Ok(Err(error)) => return Err(error.into()),
        Err(_elapsed) => {
            let message = format!("it did not listen within {} s", READY.as_secs());
            return Err(InstanceError::Gateway(message));
        }
    };
    let pid = process.process.id().unwrap_or_default();
    // As the kernel says it, whatever the gateway says.
    if !confine::is_filtered(pid) {
        let message = "its system calls are not filtered".to_owned();
        return Err(InstanceError::Gateway(message));
    }
    let (to, from_gateway) = mpsc::unbounded_channel();
    tokio::spawn(receive(process.receiver, to));
    Ok((process.sender, process.process, from_gateway, landlock))
}

/// A task of its own, since receiving must not be broken off half-way. It ends with a gateway that
/// says what is not for it to say: that one is somebody else's by now.
async fn receive(mut receiver: ControlReceiver, to: mpsc::UnboundedSender<FromGateway>) {
    while let Ok(Some(message)) = receiver.receive().await {
        if !is_the_gateways(&message) || to.send(message).is_err() {
            return;
        }
    }
}

/// What the kernel saw, and the agent's own state, are not the gateway's to tell of.
fn is_the_gateways(message: &FromGateway) -> bool {
    match message {
        FromGateway::Record(record) => match record.event {
            Event::ConnectionOpen(_)
            | Event::ConnectionClose(_)
            | Event::ConnectionsRepeated(_)
            | Event::HttpRequest(_)
            | Event::Dns(_)
            | Event::Lost(_) => true,
            Event::Bypass(_) | Event::BypassRepeated(_) | Event::Posture(_) => false,
        },
        FromGateway::Ready { .. }
        | FromGateway::Failed { .. }
        | FromGateway::Applied { .. }
        | FromGateway::Counters(_)
        | FromGateway::Serves
        | FromGateway::Drained => true,
    }
}

#[cfg(test)]
mod tests {
    use egress_common::event::ReportKey;

    use super::*;
    use crate::{
        enforcer::own::Closed,
        telemetry::{
            kernel,
            record::{Lost, Posture, Record},
        },
    };

    #[test]
    fn a_gateway_tells_nothing_of_the_kernel_or_the_agent() {
        let told = |event| is_the_gateways(&FromGateway::Record(Box::new(Record::now(event))));
        let key = ReportKey {
            endpoint: 1,
            destination: IpAddr::from([198, 51, 100, 7]).into(),
            port: 443,
            protocol: 17,
            reason: 3,
        };
        let closed = Closed {
            key,
            layer: 3,
            started_ns: 0,
            is_untold: false,
            repeats: 1,
        };
        assert!(!told(kernel::repeated(&closed, false, |_id| String::new())));
        assert!(!told(Event::Posture(Posture {
            endpoint: None,
            state: "ready".into(),
            detail: serde_json::Map::new(),
        })));
        assert!(told(Event::Lost(Lost {
            source: "gateway".into(),
            count: 1
        })));
    }
}
