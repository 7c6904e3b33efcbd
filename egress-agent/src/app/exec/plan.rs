//! What an instance for one command shall be.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use egress_common::{
    endpoint::{HAS_LINK, MODE_AUDIT, MODE_ENFORCE, PRIVATE_LOOPBACK, RELAY_LOOPBACK},
    maps::Class,
};
use ipnet::IpNet;

use crate::{
    app::{
        instance::GatewayPlan,
        plan::{EndpointPlan, Plan, node_networks},
        run::has_ipv6,
    },
    config::GatewayConfig,
    enforcer::{
        cgroup,
        direct::DirectEntry,
        node::{Node, link_local},
        state::{EndpointState, LinkState},
    },
    exec::slot::Slot,
    gateway::{
        hosts::{self, Hosts, HostsTable},
        protocol::Limits,
        resolve::server::NameServer,
    },
    policy::{
        compile::CompiledPolicy,
        load::load_files,
        port::PortRange,
        rule::{Allow, Mode, Rule, Transport},
    },
};

/// What is loopback (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5.3).
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];

/// The one endpoint's id.
pub(super) const ENDPOINT: u32 = 1;

/// What a command may reach.
#[derive(Debug)]
pub struct Allowed {
    rules: Vec<Rule>,
    /// Whether what is denied is recorded and passes.
    pub mode: Mode,
    /// `--allow-loopback`.
    loopback: bool,
}

impl Allowed {
    /// From the flags and policy files.
    ///
    /// # Errors
    /// A file is no policy, or has what a single command cannot have.
    pub fn new(
        mut rules: Vec<Rule>,
        files: &[PathBuf],
        audit: bool,
        loopback: bool,
    ) -> anyhow::Result<Self> {
        let selected = load_files(files)?.all();
        if let Some(entry) = selected.direct.first() {
            bail!(
                "{}: nothing passes beside the gateway of a single command; write `cidrs` under `egress`",
                entry.rule
            );
        }
        rules.extend(selected.rules);
        if loopback {
            let cidrs = LOOPBACK.iter().filter_map(|network| network.parse().ok());
            rules.push(Rule {
                name: "--allow-loopback".to_owned(),
                allow: Allow::Cidrs {
                    cidrs: cidrs.collect(),
                    ports: vec![PortRange::ALL],
                },
            });
        }
        let mode = match audit {
            true => Mode::Audit,
            false => selected.mode.unwrap_or(Mode::Enforce),
        };
        Ok(Self {
            rules,
            mode,
            loopback,
        })
    }

    /// Addresses that the operator has named: those that the node's hosts file gives to allowed
    /// names, and allowed networks of one address. They are the gateway's to judge, even where
    /// they are the node's own.
    fn named(&self, hosts: &HostsTable) -> BTreeSet<IpAddr> {
        let policy = CompiledPolicy::new(&self.rules);
        let by_name = hosts
            .iter()
            .filter(|(name, _)| policy.decide_look_up(name).is_ok())
            .flat_map(|(_, addresses)| addresses.iter().copied());
        let networks = self.rules.iter().flat_map(|rule| match &rule.allow {
            Allow::Cidrs { cidrs, .. } => cidrs.as_slice(),
            Allow::Hosts { .. } | Allow::Http { .. } => &[],
        });
        let single = networks.filter(|network| network.prefix_len() == network.max_prefix_len());
        by_name.chain(single.map(IpNet::addr)).collect()
    }
}

/// Where the gateway listens: on the node's side of the veth, or on loopback where there is none.
pub(super) fn gateway(
    slot: Slot,
    resolvers: Vec<NameServer>,
    permitted_answers: Vec<IpNet>,
    roots: String,
    on_loopback: bool,
) -> GatewayPlan {
    let defaults = GatewayConfig::default();
    GatewayPlan {
        v4: slot.gateway4().into(),
        v6: has_ipv6().then(|| slot.gateway6().into()),
        port: defaults.port,
        dns_port: defaults.dns_port,
        proxy_port: defaults.proxy_port,
        user: defaults.user,
        resolvers,
        resolver_roots: None,
        cache: defaults.cache.bounds(),
        answer_grace: defaults.answer_grace(),
        permitted_answers,
        limits: Limits {
            // More than any command has, and few enough that descriptors are not asked for.
            connections: 4_096,
            connections_per_endpoint: 4_096,
            connections_per_second: 0,
            ..Limits::default()
        },
        refused_answers: Vec::new(),
        roots,
        on_loopback,
    }
}

/// The plan: one endpoint, and what the node is.
pub(super) async fn plan(
    slot: Slot,
    name: &OsStr,
    cgroup: &Path,
    allowed: &Allowed,
    node: &Node,
) -> anyhow::Result<Plan> {
    let hosts = Hosts::read(Path::new(hosts::FILE));
    let named = allowed.named(&hosts.names());
    let link = match allowed.mode {
        Mode::Enforce => Some(link(slot, node).await?),
        Mode::Audit => None,
    };
    let mut flags = 0;
    if link.is_some() {
        flags |= HAS_LINK | PRIVATE_LOOPBACK;
        if allowed.loopback || named.iter().any(IpAddr::is_loopback) {
            flags |= RELAY_LOOPBACK;
        }
    }
    let own = link.iter().flat_map(|link| own_addresses(slot, link.mac));
    let state = EndpointState {
        id: ENDPOINT,
        policy: ENDPOINT,
        mode: match allowed.mode {
            Mode::Enforce => MODE_ENFORCE,
            Mode::Audit => MODE_AUDIT,
        },
        flags,
        generation: 1,
        addresses: own.collect(),
        cgroup: Some(cgroup::identify(cgroup)?),
        link,
    };
    let addresses = node.addresses().await?;
    let networks = node_networks(&addresses)
        .filter(|(network, class)| *class != Class::Node || !named.contains(&network.addr()));
    Ok(Plan {
        networks: networks.collect(),
        hosts,
        endpoints: vec![EndpointPlan {
            name: endpoint_name(name),
            cgroup: cgroup.to_owned(),
            interface: state.link.is_some().then(|| slot.link()),
            // With a link, loopback beyond it is the gateway's to relay.
            direct: match allowed.loopback && state.link.is_none() {
                true => loopback_entries(),
                false => Vec::new(),
            }
            .into(),
            replies: Default::default(),
            state,
            rules: allowed.rules.clone().into(),
        }],
    })
}

async fn link(slot: Slot, node: &Node) -> anyhow::Result<LinkState> {
    let veth = node.veth(&slot.link()).await?;
    let mac = veth.peer_mac;
    Ok(LinkState {
        interface: veth.interface,
        mac: mac.context("the command's MAC address cannot be read")?,
        next_hop_mac: veth.next_hop_mac,
        next_hops: veth.next_hops,
    })
}

fn own_addresses(slot: Slot, mac: [u8; 6]) -> [IpAddr; 3] {
    [
        slot.command4().into(),
        slot.command6().into(),
        link_local(mac).into(),
    ]
}

/// In the node's own network namespace, where loopback is the node's.
fn loopback_entries() -> Vec<DirectEntry> {
    let networks = LOOPBACK.iter().filter_map(|network| network.parse().ok());
    let entries = networks.flat_map(|network| {
        [Transport::Tcp, Transport::Udp].map(|transport| DirectEntry {
            network,
            protocol: transport.number(),
            port: 0,
        })
    });
    let mut entries: Vec<_> = entries.collect();
    entries.sort_unstable();
    entries
}

/// The program's name, of such letters as a pin's name may have.
fn endpoint_name(program: &OsStr) -> String {
    /// So that a pin's name has at most 255 bytes (NAME_MAX).
    const LENGTH: usize = 64;
    let base = Path::new(program).file_name().unwrap_or(program);
    let letters = base.to_string_lossy();
    let letters = letters.chars().take(LENGTH);
    let name: String = letters
        .map(|letter| match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' | '.' => letter,
            _ => '_',
        })
        .collect();
    // The gateway's pins have that name, and no name is none.
    match name.as_str() {
        "" | "gateway" => format!("{name}_"),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::flag::{allow_cidr, allow_host};

    #[test]
    fn what_the_operator_has_named() {
        let file = std::env::temp_dir().join(format!("exec-hosts-{}", std::process::id()));
        let text = "127.0.0.1 localhost repo.test\n10.0.0.9 www.repo.test\n10.0.0.8 other.test\n";
        std::fs::write(&file, text).unwrap();
        let rules = vec![
            allow_host("repo.test").unwrap(),
            allow_host("*.repo.test:8443").unwrap(),
            allow_cidr("192.168.7.7:5432").unwrap(),
            allow_cidr("172.16.0.0/12").unwrap(),
        ];
        let allowed = Allowed::new(rules, &[], false, false).unwrap();
        let named = allowed.named(&hosts::read(&file));
        std::fs::remove_file(&file).unwrap();
        let want = ["10.0.0.9", "127.0.0.1", "192.168.7.7"];
        let want: BTreeSet<IpAddr> = want.iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(named, want);
    }

    #[test]
    fn names_of_programs() {
        for (program, name) in [
            ("curl", "curl"),
            ("./a b.sh", "a_b.sh"),
            ("/usr/bin/gateway", "gateway_"),
            ("/", "_"),
        ] {
            assert_eq!(endpoint_name(program.as_ref()), name, "{program}");
        }
    }
}
