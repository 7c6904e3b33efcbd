//! From what endpoints were seen to do, the least policies that allow it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::Deserialize;

use super::{
    ech,
    evaluate::TLS_ONLY,
    host::{HostName, HostPattern},
    http::Method,
    load::Place,
    path::PathPattern,
    schema::API_VERSION,
    select::Identity,
    selection::parse_identity,
};

/// Hosts right below one name from which on a wildcard stands for them.
const WILDCARD_FROM: usize = 3;
/// Paths of this length may have been cut off in records.
const PATH_CUT: usize = 1024;
/// Paths of a host up to which they are written one by one.
const PATHS_MAX: usize = 16;

/// What is suggested.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suggestion {
    /// A policy file.
    pub text: String,
    /// How many records say something.
    pub records: u64,
}

/// How it is suggested.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Write `*.` for several hosts below one name.
    pub wildcards: bool,
    /// Allow what was denied, too; else it is commented out.
    pub denied: bool,
    /// Endpoints whose identity does not follow from their name.
    pub endpoints: BTreeMap<String, Identity>,
}

/// A record, as far as it matters here; all else is passed over.
#[derive(Deserialize)]
struct Record {
    kind: String,
    #[serde(default)]
    endpoint: Whose,
    destination: Option<IpAddr>,
    #[serde(default)]
    port: u16,
    #[serde(default)]
    verdict: String,
    application: Option<String>,
    server_name: Option<HostName>,
    answered_name: Option<HostName>,
    tunnel: Option<String>,
    method: Option<String>,
    path: Option<String>,
    #[serde(default)]
    originated_tls: bool,
    #[serde(default)]
    websocket: bool,
}

#[derive(Default, Deserialize)]
struct Whose {
    #[serde(default)]
    name: String,
}

/// Requests of plain HTTP to one host and port.
#[derive(Clone, Debug, Default)]
struct Asked {
    count: u64,
    methods: BTreeSet<String>,
    paths: BTreeSet<String>,
    /// Whether some path cannot be written.
    any_path: bool,
    websocket: bool,
}

/// What was seen, and how often.
#[derive(Debug, Default)]
struct Traffic {
    hosts: BTreeMap<(HostName, u16), u64>,
    /// By host, port and whether by TLS from the gateway on.
    http: BTreeMap<(HostName, u16, bool), Asked>,
    addresses: BTreeMap<(IpAddr, u16), u64>,
}

/// Reads records, one JSON object a line, and writes the policies.
///
/// # Errors
/// A line is no record, or an endpoint's identity is not known: where, and what to do.
pub fn suggest(records: &str, options: &Options) -> Result<Suggestion, (Place, String)> {
    let mut endpoints: BTreeMap<String, Endpoint> = BTreeMap::new();
    let mut read = 0;
    for (number, line) in records.lines().enumerate() {
        let place = |column: usize| Place {
            line: number as u64 + 1,
            column: column.max(1) as u64,
        };
        if line.trim().is_empty() {
            continue;
        }
        let record: Record = serde_json::from_str(line)
            .map_err(|error| (place(error.column()), no_record(&error)))?;
        let name = &record.endpoint.name;
        if name.is_empty() {
            continue;
        }
        if !endpoints.contains_key(name) {
            let identity = identity(name, options).map_err(|what| (place(1), what))?;
            endpoints.insert(name.clone(), Endpoint::new(identity));
        }
        if let Some(endpoint) = endpoints.get_mut(name) {
            let is_denied = record.verdict == "deny" && !options.denied;
            read += u64::from(endpoint.side(is_denied).add(&record));
        }
    }
    Ok(Suggestion {
        text: text(&endpoints, options),
        records: read,
    })
}

/// Without the place, which is that in the line alone.
fn no_record(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text
        .rsplit_once(" at line ")
        .map_or(&*text, |(what, _)| what);
    format!("no record: {what}; give it records, a JSON object a line")
}

fn identity(name: &str, options: &Options) -> Result<Identity, String> {
    if let Some(identity) = options.endpoints.get(name) {
        return Ok(identity.clone());
    }
    match parse_identity(name) {
        Ok(identity) if identity.namespace.is_some() && identity.service_account.is_some() => {
            Ok(identity)
        }
        Ok(_) | Err(_) => Err(format!(
            "endpoint {name:?} is not named NAMESPACE/SERVICEACCOUNT; give the configuration that it is of (--config)"
        )),
    }
}

/// One endpoint: whom its policy selects, what passed and what did not.
struct Endpoint {
    identity: Identity,
    passed: Traffic,
    denied: Traffic,
}

impl Endpoint {
    fn new(identity: Identity) -> Self {
        Self {
            identity,
            passed: Traffic::default(),
            denied: Traffic::default(),
        }
    }

    fn side(&mut self, is_denied: bool) -> &mut Traffic {
        match is_denied {
            true => &mut self.denied,
            false => &mut self.passed,
        }
    }
}

impl Traffic {
    /// Whether the record says something that a policy can allow.
    fn add(&mut self, record: &Record) -> bool {
        match record.kind.as_str() {
            "connection.open" => self.add_connection(record),
            "http.request" => self.add_request(record),
            _ => false,
        }
    }

    fn add_connection(&mut self, record: &Record) -> bool {
        let told = record.answered_name.as_ref();
        let told = told.filter(|_| !TLS_ONLY.contains(record.port));
        match record.application.as_deref() {
            // Its requests have records of their own.
            Some("http1") => false,
            Some("tls") if record.server_name.is_some() => {
                let tunnel = record.tunnel.as_deref().and_then(|it| it.rsplit_once(':'));
                let port = tunnel.and_then(|(_, port)| port.parse().ok());
                self.add_host(record.server_name.as_ref(), port.unwrap_or(record.port))
            }
            Some("tls" | "opaque" | "silent" | "http2") if told.is_some() => {
                self.add_host(told, record.port)
            }
            Some("tls" | "opaque" | "silent" | "http2") => {
                let Some(address) = record.destination.filter(|_| record.port > 0) else {
                    return false;
                };
                *self
                    .addresses
                    .entry((address.to_canonical(), record.port))
                    .or_default() += 1;
                true
            }
            Some(_) | None => false,
        }
    }

    fn add_host(&mut self, host: Option<&HostName>, port: u16) -> bool {
        let Some(host) = host.filter(|_| port > 0) else {
            return false;
        };
        *self.hosts.entry((host.clone(), port)).or_default() += 1;
        true
    }

    fn add_request(&mut self, record: &Record) -> bool {
        let (Some(host), Some(method)) = (&record.server_name, &record.method) else {
            return false;
        };
        if method == "CONNECT" {
            return self.add_host(Some(host), record.port);
        }
        let Ok(method) = method.parse::<Method>() else {
            return false;
        };
        if record.port == 0 {
            return false;
        }
        let key = (host.clone(), record.port, record.originated_tls);
        let asked = self.http.entry(key).or_default();
        asked.count += 1;
        asked.methods.insert(method.to_string());
        asked.websocket |= record.websocket;
        let path = record.path.as_deref().filter(|it| it.len() < PATH_CUT);
        match path.filter(|it| !it.contains('*') && it.parse::<PathPattern>().is_ok()) {
            Some(path) => drop(asked.paths.insert(path.to_owned())),
            None => asked.any_path = true,
        }
        true
    }
}

fn text(endpoints: &BTreeMap<String, Endpoint>, options: &Options) -> String {
    let documents = endpoints.iter().filter_map(|(name, endpoint)| {
        let passed = rules(&endpoint.passed, options);
        let denied = rules(&endpoint.denied, options);
        let is_empty = passed.is_empty() && denied.is_empty();
        (!is_empty).then(|| document(name, &endpoint.identity, &passed, &denied))
    });
    documents.collect::<Vec<_>>().join("---\n")
}

fn document(name: &str, identity: &Identity, passed: &str, denied: &str) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let dashed: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    let mut metadata = format!("name: {}", quoted(&dashed));
    if let Some(namespace) = &identity.namespace {
        metadata += &format!(", namespace: {}", quoted(namespace));
    }
    let account = identity.service_account.iter();
    let mut selector: Vec<_> = account
        .map(|it| format!("serviceAccounts: [{}]", quoted(it)))
        .collect();
    // Labels tell apart only what a service account does not.
    if selector.is_empty() && !identity.labels.is_empty() {
        let labels = identity.labels.iter();
        let labels: Vec<_> = labels
            .map(|(key, value)| format!("{}: {}", quoted(key), quoted(value)))
            .collect();
        selector.push(format!("matchLabels: {{ {} }}", labels.join(", ")));
    }
    let egress = match passed {
        "" => "  egress: []\n".to_owned(),
        rules => format!("  egress:\n{rules}"),
    };
    let denied = match denied {
        "" => String::new(),
        rules => {
            let rules: String = rules
                .lines()
                .map(|line| format!("    # {}\n", &line[4..]))
                .collect();
            format!("    # Denied; move up what shall be allowed:\n{rules}")
        }
    };
    format!(
        "# {}\napiVersion: {API_VERSION}\nkind: EgressPolicy\nmetadata: {{ {metadata} }}\nspec:\n  selector: {{ {} }}\n  mode: Enforce\n{egress}{denied}",
        name.escape_debug(),
        selector.join(", ")
    )
}

/// In YAML, four spaces deep.
fn rules(traffic: &Traffic, options: &Options) -> String {
    let mut text = String::new();
    let mut by_port: BTreeMap<u16, BTreeMap<HostName, u64>> = BTreeMap::new();
    for ((host, port), count) in &traffic.hosts {
        by_port
            .entry(*port)
            .or_default()
            .insert(host.clone(), *count);
    }
    for (port, hosts) in by_port {
        text += "    - hosts:\n";
        for (pattern, count) in patterns(&hosts, options) {
            text += &format!(
                "        - \"{pattern}\" # {}\n",
                counted(count, "connection")
            );
        }
        text += &format!("      ports: [{port}]\n");
    }
    for ((host, port, originates), asked) in &traffic.http {
        text += &request(host, *port, *originates, asked);
    }
    let mut by_port: BTreeMap<u16, BTreeMap<IpAddr, u64>> = BTreeMap::new();
    for ((address, port), count) in &traffic.addresses {
        by_port.entry(*port).or_default().insert(*address, *count);
    }
    for (port, addresses) in by_port {
        text += "    - cidrs:\n";
        for (address, count) in addresses {
            text += &format!(
                "        - \"{address}\" # {}\n",
                counted(count, "connection")
            );
        }
        text += &format!("      ports: [{port}]\n");
    }
    text
}

fn request(host: &HostName, port: u16, originates: bool, asked: &Asked) -> String {
    let list = |all: &BTreeSet<String>| {
        let quoted: Vec<_> = all
            .iter()
            .map(|it| serde_json::Value::from(it.as_str()).to_string())
            .collect();
        quoted.join(", ")
    };
    let mut text = format!(
        "    - http: # {}\n        hosts: [\"{host}\"]\n        methods: [{}]\n",
        counted(asked.count, "request"),
        list(&asked.methods)
    );
    if !asked.any_path && asked.paths.len() <= PATHS_MAX {
        text += &format!("        paths: [{}]\n", list(&asked.paths));
    } else {
        let count = counted(asked.paths.len() as u64, "path");
        text += &format!("        # every path: {count} and more were seen\n");
    }
    if asked.websocket {
        text += "        websocket: true\n";
    }
    if originates {
        text += "        originateTLS: true\n";
    }
    text + &format!("      ports: [{port}]\n")
}

/// Each host, or a wildcard in the place of several right below one name.
fn patterns(hosts: &BTreeMap<HostName, u64>, options: &Options) -> BTreeMap<String, u64> {
    let mut siblings: BTreeMap<&str, usize> = BTreeMap::new();
    for host in hosts.keys() {
        if let Some(parent) = host.parents().next() {
            *siblings.entry(parent).or_default() += 1;
        }
    }
    let wildcard = |host: &HostName| {
        let parent = host.parents().next().filter(|_| options.wildcards)?;
        let is_many = siblings.get(parent).is_some_and(|it| *it >= WILDCARD_FROM);
        let pattern: HostPattern = format!("*.{parent}").parse().ok()?;
        (is_many && !ech::is_public_name(host)).then_some(pattern)
    };
    let mut patterns = BTreeMap::new();
    for (host, count) in hosts {
        let pattern = wildcard(host).unwrap_or_else(|| HostPattern::Exact(host.clone()));
        *patterns.entry(pattern.to_string()).or_default() += count;
    }
    patterns
}

fn counted(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

#[cfg(test)]
#[path = "suggest/tests.rs"]
mod tests;
