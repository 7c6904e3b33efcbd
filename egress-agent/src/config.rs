//! The configuration of `egress-agent run`.

use ipnet::IpNet;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::policy::{load::message, rule::Mode};

mod gateway;

pub use gateway::GatewayConfig;

/// The name of the gateway as an endpoint, which no other can have.
pub const GATEWAY_NAME: &str = "egress-agent/gateway";

/// A node's endpoints, and the gateway that they may reach.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Tells this installation's pins, cgroup and lock from others'.
    #[serde(default = "default_instance")]
    pub instance: String,
    /// The gateway.
    #[serde(default)]
    pub gateway: GatewayConfig,
    /// Policy files, relative to this one.
    #[serde(default)]
    pub policies: Vec<PathBuf>,
    /// The networks of pods and Services.
    #[serde(default)]
    pub cluster_networks: Vec<IpNet>,
    /// Where records go.
    #[serde(default)]
    pub records: RecordsConfig,
    /// How another agent takes over.
    #[serde(default)]
    pub hand_over: HandOverConfig,
    /// Who is enforced.
    pub endpoints: Vec<EndpointConfig>,
}

/// Where records go.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RecordsConfig {
    /// A file, relative to the configuration; standard output where it is left out.
    pub path: Option<PathBuf>,
}

/// How another agent takes over from this one.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HandOverConfig {
    /// How long the other may take; then it is ended, and this one goes on.
    pub deadline_seconds: u64,
    /// How long what is connected may go on afterwards.
    pub drain_seconds: u64,
}

impl Default for HandOverConfig {
    fn default() -> Self {
        Self {
            // All is attached in a few seconds, on a busy machine in some more.
            deadline_seconds: 60,
            drain_seconds: 60,
        }
    }
}

/// One endpoint.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointConfig {
    /// As records show it; one of its kind.
    pub name: String,
    /// For the policies' selectors.
    #[serde(default)]
    pub namespace: Option<String>,
    /// For the policies' selectors.
    #[serde(default)]
    pub service_account: Option<String>,
    /// For the policies' selectors.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its cgroup v2 directory.
    pub cgroup: PathBuf,
    /// The host side of its veth. Without one its loopback is the node's.
    #[serde(default)]
    pub interface: Option<String>,
    /// Its own addresses: the only sources that its frames may bear.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The MAC address of its side of the veth, `02:00:00:00:00:01`; read from the kernel where
    /// it is left out.
    #[serde(default, deserialize_with = "mac")]
    pub mac: Option<[u8; 6]>,
    /// What its ARP and NDP may ask for; the host side's addresses where it is left out.
    #[serde(default)]
    pub next_hops: Vec<IpAddr>,
    /// Over the policies' own.
    #[serde(default)]
    pub mode: Option<Mode>,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}: check the path and its permissions")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{path}:{place}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Line, column and what is wrong.
        place: String,
    },
    /// It contradicts itself.
    #[error("{path}: {what}")]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong, and the mend.
        what: String,
    },
}

fn default_instance() -> String {
    "default".to_owned()
}

fn mac<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<[u8; 6]>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok())
        .collect();
    let bytes: Option<[u8; 6]> = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.map(Some).ok_or_else(|| {
        serde::de::Error::custom(format!(
            "{text:?} is no MAC address; write it as 02:00:00:00:00:01"
        ))
    })
}

/// Reads a configuration. Its paths come out relative to the file's folder.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut config: Config =
        serde_saphyr::from_str(&text).map_err(|error| parse_error(path, &error))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    for policy in &mut config.policies {
        *policy = folder.join(&policy);
    }
    if let Some(records) = &mut config.records.path {
        *records = folder.join(&records);
    }
    let gateway = &mut config.gateway;
    for roots in [&mut gateway.resolver_roots, &mut gateway.roots]
        .into_iter()
        .flatten()
    {
        *roots = folder.join(&roots);
    }
    check(&config).map_err(|what| ConfigError::Invalid {
        path: path.to_owned(),
        what,
    })?;
    Ok(config)
}

fn parse_error(path: &Path, error: &serde_saphyr::Error) -> ConfigError {
    let error = error.without_snippet();
    let what = message(error);
    let place = match error.location() {
        Some(at) => format!("{}:{}: {what}", at.line(), at.column()),
        None => format!(" {what}"),
    };
    ConfigError::Parse {
        path: path.to_owned(),
        // One line, whatever the parser wrote.
        place: place.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

fn check(config: &Config) -> Result<(), String> {
    let name = &config.instance;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || name.len() > 32 || !name.chars().all(plain) {
        return Err(format!(
            "instance {name:?}: use up to 32 letters, digits and dashes"
        ));
    }
    config.gateway.check()?;
    if config.hand_over.deadline_seconds == 0 {
        return Err(
            "handOver.deadlineSeconds is 0: nobody takes over in no time; 60 is the default".into(),
        );
    }
    if config.endpoints.is_empty() {
        return Err("endpoints is empty: name at least one, with its cgroup".into());
    }
    alone(&config.endpoints)?;
    let mut names = BTreeSet::new();
    for endpoint in &config.endpoints {
        if !names.insert(&endpoint.name) {
            return Err(format!(
                "two endpoints are called {:?}: give each a name of its own",
                endpoint.name
            ));
        }
        if endpoint.name.is_empty() || endpoint.name.len() > 128 {
            return Err("an endpoint's name must have 1 to 128 characters".into());
        }
        if endpoint.interface.is_some() && endpoint.addresses.is_empty() {
            return Err(format!(
                "endpoint {}: with an interface it needs `addresses`, the only sources that its frames may bear",
                endpoint.name
            ));
        }
    }
    Ok(())
}

/// What tells endpoints apart is each one's own: with one cgroup, interface or address for two, one
/// would have the other's policy.
fn alone(endpoints: &[EndpointConfig]) -> Result<(), String> {
    let mut owners = BTreeMap::new();
    for endpoint in endpoints {
        let cgroup = endpoint.cgroup.components().as_path();
        let cgroup = std::iter::once(format!("cgroup {}", cgroup.display()));
        let interface = endpoint
            .interface
            .iter()
            .map(|it| format!("interface {it}"));
        let addresses = endpoint.addresses.iter().collect::<BTreeSet<_>>();
        let addresses = addresses.into_iter().map(|it| format!("address {it}"));
        // Names are pinned with these two in place of `/` and `.`.
        let pinned = endpoint.name.replace('+', "/").replace(',', ".");
        let pin = std::iter::once(format!("name {pinned}"));
        for what in cgroup.chain(interface).chain(addresses).chain(pin) {
            if let Some(other) = owners.insert(what.clone(), &endpoint.name)
                && *other != endpoint.name
            {
                return Err(format!(
                    "endpoints {other} and {} have the same {what}: give each its own",
                    endpoint.name
                ));
            }
        }
        // The pins of the gateway's own programs are called that, and its records.
        if ["gateway", GATEWAY_NAME].contains(&endpoint.name.as_str()) {
            return Err(format!(
                "no endpoint can be called {}: give it another name",
                endpoint.name
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Result<Config, ConfigError> {
        // Tests run side by side in one process, each on a thread of its own.
        let name = format!(
            "egress-config-{}-{:?}.yaml",
            std::process::id(),
            std::thread::current().id()
        );
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        let result = load(&path);
        fs::remove_file(&path).unwrap();
        result
    }

    #[test]
    fn the_least_configuration_gets_the_defaults() {
        let config = load_text("endpoints:\n  - name: a\n    cgroup: /x\n").unwrap();
        assert_eq!(config.instance, "default");
        assert_eq!(config.gateway.port, 15001);
    }

    #[test]
    fn bad_input_is_one_line_with_its_place() {
        for (text, want) in [
            (
                "endpoints:\n  - name: a\n    cgroup: /x\n    colour: red\n",
                "colour",
            ),
            (
                "endpoints:\n  - name: a\n    cgroup: /x\n    addresses: [10.0.0.256]\n",
                "4:",
            ),
            (
                "endpoints:\n  - name: a\n    cgroup: /x\n    mac: zz\n",
                "MAC",
            ),
            ("endpoints: []\n", "endpoints is empty"),
            (
                "endpoints:\n  - {name: a, cgroup: /x}\n  - {name: a, cgroup: /y}\n",
                "two endpoints",
            ),
            (
                "endpoints:\n  - {name: a, cgroup: /x}\n  - {name: b, cgroup: /x/}\n",
                "same cgroup",
            ),
            (
                "endpoints:\n  - {name: a/b, cgroup: /x}\n  - {name: a+b, cgroup: /y}\n",
                "same name",
            ),
            (
                "endpoints:\n  - {name: a, cgroup: /x, addresses: [10.0.0.5]}\n  - {name: b, cgroup: /y, addresses: [10.0.0.5]}\n",
                "same address",
            ),
            (
                "endpoints:\n  - {name: gateway, cgroup: /x}\n",
                "called gateway",
            ),
            (
                "gateway: {user: 0}\nendpoints:\n  - {name: a, cgroup: /x}\n",
                "never runs as root",
            ),
            (
                "gateway: {silenceSeconds: 11}\nendpoints:\n  - {name: a, cgroup: /x}\n",
                "no more than gateway.helloSeconds",
            ),
            (
                "gateway: {silenceSeconds: 0}\nendpoints:\n  - {name: a, cgroup: /x}\n",
                "1 or more",
            ),
            (
                "gateway: {resolvers: [\"tls://192.0.2.53\"]}\nendpoints:\n  - {name: a, cgroup: /x}\n",
                "the name that the certificate is for",
            ),
            (
                "gateway: {resolvers: [\"tls://192.0.2.53#a.test\", 192.0.2.54]}\nendpoints:\n  - {name: a, cgroup: /x}\n",
                "in clear",
            ),
            (
                "gateway: {cache: {ttlMinSeconds: 60, ttlMaxSeconds: 10}}\nendpoints:\n  - {name: a, cgroup: /x}\n",
                "ttlMaxSeconds",
            ),
            (
                "gateway: {limits: {connections: 10, connectionsPerEndpoint: 11}}\nendpoints:\n  - {name: a, cgroup: /x}\n",
                "no more than gateway.limits.connections, which is 10",
            ),
            (
                "gateway: {limits: {idleSeconds: 0}}\nendpoints:\n  - {name: a, cgroup: /x}\n",
                "gateway.limits.idleSeconds",
            ),
            (
                "handOver: {deadlineSeconds: 0}\nendpoints:\n  - {name: a, cgroup: /x}\n",
                "in no time",
            ),
        ] {
            let message = load_text(text).unwrap_err().to_string();
            assert!(message.contains(want), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }
}
