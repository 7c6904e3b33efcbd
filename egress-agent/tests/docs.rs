//! docs/reasons.md says what the code says, and SECURITY.md names tests that there are. `UPDATE_DOCS=1 cargo test -p egress-agent --test docs`
//! writes it anew.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use egress_common::verdict::{DropReason, Layer};

const FILE: &str = "../docs/reasons.md";

/// An enum whose variants have names in records: the source, and what to call the table.
struct Table {
    source: &'static str,
    name: &'static str,
}

/// Why the gateway denies.
const DENIALS: [Table; 7] = [
    Table {
        source: include_str!("../src/policy/evaluate.rs"),
        name: "DenyReason",
    },
    Table {
        source: include_str!("../src/gateway/reason.rs"),
        name: "Reason",
    },
    Table {
        source: include_str!("../src/policy/host.rs"),
        name: "HostNameError",
    },
    Table {
        source: include_str!("../src/gateway/detect/client_hello.rs"),
        name: "Malformed",
    },
    Table {
        source: include_str!("../src/gateway/http/bad.rs"),
        name: "Bad",
    },
    Table {
        source: include_str!("../src/policy/path.rs"),
        name: "PathError",
    },
    Table {
        source: include_str!("../src/gateway/refuse.rs"),
        name: "Refusal",
    },
];

/// Why a connection ended.
const ENDS: [Table; 3] = [
    Table {
        source: include_str!("../src/gateway/splice.rs"),
        name: "End",
    },
    Table {
        source: include_str!("../src/gateway/resolve.rs"),
        name: "ResolveError",
    },
    Table {
        source: include_str!("../src/gateway/dial.rs"),
        name: "DialError",
    },
];

/// Names that stand alone in the code.
const LITERALS: [(&str, &str, &str); 15] = [
    (
        include_str!("../src/gateway/dns/answer.rs"),
        "dns_class_not_allowed",
        "A query of another class than IN.",
    ),
    (
        include_str!("../src/gateway/dns/answer.rs"),
        "dns_type_not_allowed",
        "A record type other than A and AAAA, of an allowed name. HTTPS and SVCB get an empty answer.",
    ),
    (
        include_str!("../src/gateway/connection.rs"),
        "policy_changed",
        "A new policy does not allow the connection any more.",
    ),
    (
        include_str!("../src/gateway/connection.rs"),
        "replay_timeout",
        "The server did not take the hello in time.",
    ),
    (
        include_str!("../src/gateway/silence.rs"),
        "late_hello",
        "A TLS hello, or part of one, from a client that was let through as one that waits for the server to speak first.",
    ),
    (
        include_str!("../src/gateway/http/forward.rs"),
        "denied",
        "A request that is not allowed, or is refused; `reason` says why.",
    ),
    (
        include_str!("../src/gateway/http/serve.rs"),
        "opaque",
        "The connection goes on as opaque, under another number: only its address is allowed for what came next, by a network or a name that it was told for, or the endpoint is in Audit.",
    ),
    (
        include_str!("../src/gateway/http/tls.rs"),
        "tls_certificate",
        "The server's certificate is not one for the host, or of nobody who is trusted.",
    ),
    (
        include_str!("../src/gateway/http/tls.rs"),
        "tls_failed",
        "The server and the gateway did not agree on TLS.",
    ),
    (
        include_str!("../src/gateway/http/upstream.rs"),
        "tls_timeout",
        "The server did not finish the handshake in time.",
    ),
    (
        include_str!("../src/gateway/dial.rs"),
        "dial_refused",
        "The server refused the connection.",
    ),
    (
        include_str!("../src/gateway/dial.rs"),
        "dial_not_permitted",
        "The kernel did not permit the dial: a firewall, or a rule of the node.",
    ),
    (
        include_str!("../src/gateway/dial.rs"),
        "dial_unreachable",
        "The network or the host cannot be reached.",
    ),
    (
        include_str!("../src/gateway/dial.rs"),
        "dial_no_resources",
        "The gateway has no descriptor, port or memory left for a connection.",
    ),
    (
        include_str!("../src/gateway/splice.rs"),
        "lifetime_over",
        "It has lasted for `gateway.limits.lifetimeSeconds`.",
    ),
];

impl Table {
    /// Name and meaning of each variant that has a name of its own, in the code's order.
    fn rows(&self) -> Vec<(String, String)> {
        let meanings = self.meanings();
        let names = self.source.lines().filter_map(|line| {
            let (variant, name) = line.trim().strip_prefix("Self::")?.split_once(" => \"")?;
            // Where it depends, the names stand alone.
            if variant.contains(" if ") {
                return None;
            }
            let variant = variant.split(['(', ' ', '{']).next()?;
            Some((variant, name.strip_suffix("\",")?))
        });
        // Another enum of the file may map to text as well; only names in records have this form.
        let plain = |name: &str| {
            name.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        let names = names.filter(|(variant, name)| plain(name) && meanings.contains_key(variant));
        let rows: Vec<_> = names
            .map(|(variant, name)| (name.to_owned(), meanings[variant].clone()))
            .collect();
        assert!(!rows.is_empty(), "no names of {} were found", self.name);
        rows
    }

    /// The doc comments of the enum's variants.
    fn meanings(&self) -> BTreeMap<&'static str, String> {
        let head = format!("enum {} {{", self.name);
        let (_, body) = self
            .source
            .split_once(&head)
            .expect("the enum is in its file");
        let (body, _) = body.split_once("\n}").expect("it ends");
        let (mut meanings, mut doc) = (BTreeMap::new(), String::new());
        for line in body.lines().map(str::trim) {
            if let Some(more) = line.strip_prefix("///") {
                doc.push_str(more);
            } else if line.starts_with(|c: char| c.is_ascii_uppercase()) {
                let variant = line.split(['(', ',', ' ']).next().unwrap();
                meanings.insert(variant, std::mem::take(&mut doc).trim().to_owned());
            } else if !line.starts_with("#[") {
                doc.clear();
            }
        }
        meanings
    }
}

fn table(to: &mut String, rows: &[(String, String)]) {
    to.push_str("| name | meaning |\n| --- | --- |\n");
    for (name, meaning) in rows {
        writeln!(to, "| `{name}` | {} |", meaning.replace('|', "\\|")).unwrap();
    }
}

fn expected() -> String {
    let mut text = String::from(
        "# Reasons\n\n\
         Every name that the field `reason` or `close_reason` of a record can have. This file is \
         made from the code: `UPDATE_DOCS=1 cargo test -p egress-agent --test docs` writes it \
         anew, and a test fails where the two differ.\n\n\
         ## In the kernel\n\n\
         `reason` of `bypass` and `bypass.repeated`, and of the kernel's counters. Numbers are \
         part of the interface between kernel and agent, and never used again.\n\n\
         | number | name | meaning |\n| ---: | --- | --- |\n",
    );
    for reason in DropReason::ALL {
        let quiet = match reason.is_quiet() {
            true => " (counted, not reported)",
            false => "",
        };
        let (number, name) = (*reason as u8, reason.name());
        writeln!(
            text,
            "| {number} | `{name}` | {}{quiet} |",
            reason.meaning()
        )
        .unwrap();
    }
    text.push_str("\nTheir `layer`, the hook that saw the attempt first:\n\n");
    for layer in Layer::ALL {
        writeln!(text, "- `{}`", layer.name()).unwrap();
    }
    text.push_str(
        "\n## In the gateway\n\n\
         `reason` of `connection.open`, `http.request` and `dns`. Names with `hello_` are about \
         the TLS ClientHello, with `http_` and `path_` about a request of plain HTTP, with \
         `name_` about a server name or a DNS question, with `answer_` about the addresses that \
         a name leads to.\n\n",
    );
    let mut rows: Vec<_> = DENIALS.iter().flat_map(Table::rows).collect();
    rows.extend(literals("dns_"));
    table(&mut text, &rows);
    text.push_str(
        "\n## Ends of connections\n\n\
         `close_reason` of `connection.close` and `http.request`. Those with `resolve_`, `dial_` \
         and `tls_` are of what was allowed but found no server. A connection that ends with a \
         request that is refused has that one's `reason`.\n\n",
    );
    let mut rows: Vec<_> = ENDS.iter().flat_map(Table::rows).collect();
    rows.extend(
        LITERALS
            .iter()
            .filter(|(_, name, _)| !name.starts_with("dns_"))
            .flat_map(|(_, name, _)| literals(name)),
    );
    table(&mut text, &rows);
    text
}

fn literals(prefix: &'static str) -> impl Iterator<Item = (String, String)> {
    let found = LITERALS
        .iter()
        .filter(move |(_, name, _)| name.starts_with(prefix));
    found.map(|(source, name, meaning)| {
        assert!(
            source.contains(&format!("\"{name}\"")),
            "{name} is gone from the code"
        );
        ((*name).to_owned(), (*meaning).to_owned())
    })
}

#[test]
fn the_reasons_are_those_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let expected = expected();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/reasons.md differs from the code; run: \
         UPDATE_DOCS=1 cargo test -p egress-agent --test docs"
    );
}

#[test]
fn every_name_stands_once() {
    let mut names: Vec<_> = DENIALS
        .iter()
        .flat_map(Table::rows)
        .map(|(name, _)| name)
        .collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(count > 40, "{names:?}");
}

/// Each claim of SECURITY.md is shown by tests that are there.
#[test]
fn the_tests_that_security_names_are_there() {
    let text = fs::read_to_string("../SECURITY.md").unwrap();
    let named = text.split('`').filter_map(|word| {
        let (target, test) = word.split_once("::")?;
        let plain = |it: &str| it.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        (plain(target) && plain(test)).then_some((target, test))
    });
    let named: Vec<_> = named.collect();
    assert!(named.len() > 50, "{named:?}");
    for (target, test) in named {
        let folders = ["../tests/tests", "tests", "../egress-common/tests"];
        let files = folders
            .iter()
            .flat_map(|folder| files_of(Path::new(folder), target));
        let definition = format!("fn {test}(");
        let found = files
            .into_iter()
            .any(|file| fs::read_to_string(file).unwrap().contains(&definition));
        assert!(found, "there is no {target}::{test}");
    }
}

/// The files of a target: one by its name, or those in a folder by its name.
fn files_of(tests: &Path, target: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(tests.join(target)).into_iter().flatten();
    let files = entries.map(|entry| entry.unwrap().path());
    let alone = tests.join(target).with_extension("rs");
    files.chain([alone]).filter(|file| file.is_file()).collect()
}
