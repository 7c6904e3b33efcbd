//! The agent's configuration file, for a world and its pods.

use std::{fmt::Write as _, path::Path};

use crate::{host_pod::HostPod, internet::RESOLVER4, pod::Pod, world::World};

/// What a verdict of deny does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Drop.
    Enforce,
    /// Report alone.
    Audit,
}

/// What a test wants of the agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// The policy file's text.
    pub policy: String,
    /// Of every endpoint.
    pub mode: Mode,
    /// The gateway's name server, as the file has it.
    pub resolver: String,
    /// More fields of `gateway`, as the file has them.
    pub gateway: String,
    /// Endpoints beside those with a link, as the file has them.
    pub others: String,
}

impl Default for Config {
    /// Enforce; shop/orders may reach allowed.test, repo.test and *.cdn.test.
    fn default() -> Self {
        Self {
            policy: Self::policy(&["allowed.test", "repo.test", "*.cdn.test"]),
            mode: Mode::Enforce,
            resolver: format!("\"{RESOLVER4}:53\""),
            gateway: String::new(),
            others: String::new(),
        }
    }
}

impl Config {
    /// A policy of the namespace `shop` that allows TLS to these hosts.
    pub fn policy(hosts: &[&str]) -> String {
        format!(
            "apiVersion: egress-agent.dev/v1alpha1\n\
             kind: EgressPolicy\n\
             metadata: {{ name: orders, namespace: shop }}\n\
             spec:\n\
             \x20 selector: {{ serviceAccounts: [orders] }}\n\
             \x20 egress:\n\
             \x20   - hosts: {hosts:?}\n"
        )
    }

    /// The same with more documents or rules after it.
    #[must_use]
    pub fn and_policy(mut self, more: &str) -> Self {
        self.policy.push_str(more);
        self
    }

    /// In Audit.
    #[must_use]
    pub fn audit(mut self) -> Self {
        self.mode = Mode::Audit;
        self
    }

    /// With one more endpoint, which has no link.
    #[must_use]
    pub fn and_host_pod(mut self, pod: &HostPod<'_>) -> Self {
        let (namespace, _) = pod.name.split_once('/').unwrap_or(("shop", &pod.name));
        write!(
            self.others,
            "\x20 - name: {}\n\
             \x20   namespace: {namespace}\n\
             \x20   serviceAccount: {}\n\
             \x20   cgroup: {}\n\
             \x20   mode: {:?}\n",
            pod.name,
            pod.account,
            pod.cgroup.display(),
            self.mode,
        )
        .expect("writing to a String cannot fail");
        self
    }

    pub(super) fn text(&self, world: &World, pods: &[&Pod], records: &Path) -> String {
        let mut text = format!(
            "instance: {}\n\
             gateway:\n\
             \x20 address4: 169.254.64.1\n\
             \x20 address6: \"fd65:6772:6573::1\"\n\
             \x20 port: 15001\n\
             \x20 dnsPort: 15053\n\
             \x20 proxyPort: 15002\n\
             \x20 user: 62951\n\
             \x20 drainSeconds: 1\n\
             \x20 resolvers: [{}]\n\
             \x20 permittedAnswers: []\n\
             \x20 roots: {}\n\
             {}\
             policies: [policy.yaml]\n\
             clusterNetworks: [\"10.0.0.0/8\", \"fd00::/16\"]\n\
             records: {{ path: {} }}\n\
             endpoints:\n",
            world.name(),
            self.resolver,
            world.internet.authority().display(),
            self.gateway,
            records.display(),
        );
        for pod in pods {
            self.endpoint(&mut text, pod);
        }
        text.push_str(&self.others);
        text
    }

    fn endpoint(&self, text: &mut String, pod: &Pod) {
        let name = &pod.name;
        let (namespace, account) = name.split_once('/').unwrap_or(("shop", name));
        let [address4, address6] = pod.addresses();
        write!(
            text,
            "\x20 - name: {name}\n\
             \x20   namespace: {namespace}\n\
             \x20   serviceAccount: {account}\n\
             \x20   labels: {{ app: {account} }}\n\
             \x20   cgroup: {}\n\
             \x20   interface: {}\n\
             \x20   addresses: [\"{address4}\", \"{address6}\"]\n\
             \x20   mode: {:?}\n",
            pod.cgroup.display(),
            pod.interface,
            self.mode,
        )
        .expect("writing to a String cannot fail");
    }
}
