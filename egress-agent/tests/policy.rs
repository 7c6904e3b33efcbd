//! `egress-agent policy`: real files, real output, exit statuses. Needs no privilege.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;

const POLICY: &str = "\
apiVersion: egress-agent.dev/v1alpha1
kind: EgressPolicy
metadata: { name: orders, namespace: shop }
spec:
  selector: { serviceAccounts: [orders] }
  egress:
    - hosts: [\"api.payments.test\", \"*.cdn.test\", cdn.test]
    - http: { hosts: [status.test], methods: [GET], paths: [\"/v1/*\"] }
---
apiVersion: egress-agent.dev/v1alpha1
kind: ClusterEgressPolicy
metadata: { name: base }
spec:
  selector: { namespaces: [shop] }
  direct:
    - cidrs: [10.1.0.0/16]
      ports: [8080]
";

const CONFIG: &str = "\
policies: [policy.yaml]
clusterNetworks: [10.0.0.0/8]
endpoints:
  - name: orders-1
    namespace: shop
    serviceAccount: orders
    cgroup: /sys/fs/cgroup/orders
";

const BROKEN: &str = "\
apiVersion: egress-agent.dev/v1alpha1
kind: EgressPolicy
metadata: { name: a }
spec: { egress: [ { hosts: [\"*.com\"] } ] }
---
kind: Pod
---
apiVersion: egress-agent.dev/v1alpha1
kind: EgressPolicy
metadata: { name: b }
spec: { egres: [] }
";

/// A folder of a test's own, in which the command runs.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str, files: &[(&str, &str)]) -> Self {
        let name = format!("egress-agent-policy-{test}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        let folder = Self(path);
        for (name, text) in files {
            let file = folder.0.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        folder
    }

    fn run(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_egress-agent"));
        command.arg("policy").args(args).current_dir(&self.0);
        Ran::new(args, &command.output().unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

struct Ran {
    what: String,
    code: Option<i32>,
    out: String,
    error: String,
}

impl Ran {
    fn new(args: &[&str], output: &Output) -> Self {
        Self {
            what: args.join(" "),
            code: output.status.code(),
            out: String::from_utf8(output.stdout.clone()).unwrap(),
            error: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    #[track_caller]
    fn gives(self, code: i32, out: &str) -> Self {
        let said = format!("{}\n{}\n{}", self.what, self.out, self.error);
        assert_eq!(self.code, Some(code), "{said}");
        assert!(self.out.contains(out), "{said}wanted: {out}");
        self
    }

    /// One line of error with this in it.
    #[track_caller]
    fn fails(self, error: &str) {
        let said = format!("{}\n{}", self.what, self.error);
        assert_eq!(self.code, Some(1), "{said}");
        assert_eq!(self.error.lines().count(), 1, "{said}");
        assert!(self.error.starts_with("egress-agent: "), "{said}");
        assert!(self.error.contains(error), "{said}wanted: {error}");
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap()
    }
}

#[test]
fn check() {
    let folder = Folder::new(
        "check",
        &[
            ("policy.yaml", POLICY),
            ("config.yaml", CONFIG),
            ("broken.yaml", BROKEN),
            ("other.yaml", &POLICY.replace("shop", "shpo")),
        ],
    );
    let good = folder.run(&["check", "policy.yaml"]);
    assert_eq!(
        good.gives(0, "").out,
        "2 policies read, 0 errors, 0 warnings, 0 notes\n"
    );
    folder
        .run(&["check", "--strict", "--config", "config.yaml"])
        .gives(0, "0 warnings");

    let bad = folder.run(&["check", "broken.yaml", "policy.yaml", "missing.yaml"]);
    let bad = bad.gives(1, "2 policies read, 4 errors");
    for line in [
        "broken.yaml:4:29: error: \"*.com\": anyone can register",
        "broken.yaml:6:7: error: unknown kind \"Pod\"",
        "broken.yaml:11:9: error: unknown field \"egres\"",
        "missing.yaml:1:1: error: cannot be read",
    ] {
        assert!(
            bad.out.lines().any(|it| it.starts_with(line)),
            "{line}\n{}",
            bad.out
        );
    }
    bad.fails("policy check: 4 errors");

    let other = ["check", "--config", "config.yaml", "other.yaml"];
    folder.run(&other).gives(
        0,
        "other.yaml:3:11: warning: EgressPolicy shpo/orders selects",
    );
    let strict = ["check", "--strict", "--config", "config.yaml", "other.yaml"];
    folder.run(&strict).fails("policy check: 2 warnings");

    let json = folder
        .run(&["check", "--json", "broken.yaml"])
        .gives(1, "")
        .json();
    assert_eq!((&json["errors"], &json["policies"]), (&3.into(), &0.into()));
    let first = &json["findings"][0];
    assert_eq!(
        (&first["file"], &first["line"]),
        (&"broken.yaml".into(), &4.into())
    );
    assert_eq!(
        (&first["level"], &first["kind"]),
        (&"error".into(), &"content".into())
    );
}

#[test]
fn explain() {
    let folder = Folder::new(
        "explain",
        &[("policy.yaml", POLICY), ("config.yaml", CONFIG)],
    );
    let ask = |args: &[&str]| folder.run(&[&["explain"], args].concat());
    let api = [
        "--from",
        "shop/orders",
        "--to",
        "api.payments.test",
        "policy.yaml",
    ];
    ask(&api).gives(
        0,
        "rule: EgressPolicy shop/orders egress[0] at policy.yaml:7:7",
    );
    let json = ask(&[&api[..], &["--json"]].concat()).gives(0, "").json();
    assert_eq!(json["rule"]["site"]["line"], 7);
    assert_eq!(
        (&json["verdict"], &json["by"]),
        (&"allow".into(), &"name".into())
    );

    let port = [
        "--from",
        "shop/orders",
        "--to",
        "cdn.test:80",
        "policy.yaml",
    ];
    ask(&port).gives(3, "deny shop/orders to cdn.test:80: port_not_allowed\n");
    let post = [
        "--from",
        "shop/orders",
        "--to",
        "status.test",
        "--method",
        "POST",
    ];
    ask(&[&post[..], &["--path", "/v1/a", "policy.yaml"]].concat())
        .gives(3, "and allows methods GET (method_not_allowed)");
    let config = ["--config", "config.yaml", "--from", "orders-1"];
    ask(&[&config[..], &["--to", "10.1.0.9:8080"]].concat()).gives(
        0,
        "rule: ClusterEgressPolicy base direct[0] at policy.yaml:16:7",
    );
    ask(&[&config[..], &["--to", "10.1.0.9:80"]].concat()).gives(3, ": cluster\n");

    for (args, error) in [
        (
            &["--from", "shop", "--to", "a.test", "policy.yaml"][..],
            "write NAMESPACE/SERVICEACCOUNT",
        ),
        (
            &["--from", "a/b", "--to", "*.test", "policy.yaml"],
            "\"*.test\"",
        ),
        (&["--from", "a/b", "--to", "a.test"], "no policy files"),
        (
            &["--from", "a/b", "--to", "a.test:53", "policy.yaml"],
            "all DNS goes",
        ),
        (
            &["--from", "a/b", "--to", "a.test", "missing.yaml"],
            "missing.yaml: cannot be read",
        ),
        (
            &[
                "--from",
                "a/b",
                "--to",
                "a.test",
                "--labels",
                "x",
                "policy.yaml",
            ],
            "KEY=VALUE",
        ),
    ] {
        ask(args).fails(error);
    }
}

#[test]
fn diff() {
    let moved = POLICY
        .replace("\"api.payments.test\", ", "")
        .replace("    - http", "    - hosts: [api.payments.test]\n    - http");
    let other = POLICY
        .replace("api.payments.test", "*.payments.test")
        .replace("8080", "8081");
    let folder = Folder::new(
        "diff",
        &[
            ("a/1.yaml", POLICY),
            ("b/2.yml", &moved),
            ("c.yaml", &other),
            ("broken.yaml", BROKEN),
            ("empty/readme.txt", ""),
        ],
    );
    folder
        .run(&["diff", "a", "b"])
        .gives(0, "the same is allowed\n");
    let found = folder.run(&["diff", "a", "c.yaml"]).gives(2, "");
    assert_eq!(
        found.out,
        "shop/*
  + allowed direct TCP 10.1.0.0/16 on port 8081
  - denied direct TCP 10.1.0.0/16 on port 8080
shop/orders
  + allowed *.payments.test on port 443 (but for api.payments.test)
  = still allowed api.payments.test, by *.payments.test
"
    );
    let json = folder
        .run(&["diff", "--json", "a", "c.yaml"])
        .gives(2, "")
        .json();
    assert_eq!(json["selections"][0]["allowed"][0]["ports"][0], 8081);
    folder
        .run(&["diff", "a", "broken.yaml"])
        .fails("broken.yaml:4:29: ");
    folder
        .run(&["diff", "a", "empty"])
        .fails("empty: no .yaml or .yml file");
    // A mistake in the arguments is no difference.
    assert_eq!(folder.run(&["diff", "a"]).code, Some(1));
}

#[test]
fn expectations() {
    let table = "\
policies: [policy.yaml]
cases:
  - { from: shop/orders, to: \"a.cdn.test:443\", expect: allow, rule: \"EgressPolicy shop/orders egress[0]\" }
  - { from: shop/web, to: cdn.test, expect: deny, reason: host_not_allowed }
  - { from: shop/orders, to: status.test, path: /v1/a, expect: allow }
";
    let wrong = format!(
        "{table}  - {{ from: shop/orders, to: b.test, expect: allow }}\n  - {{ from: shop/orders, to: \"cdn.test:80\", expect: deny, reason: host_not_allowed }}\n"
    );
    let line = |text: &str| format!("{table}  - {text}\n");
    let folder = Folder::new(
        "expect",
        &[
            ("policy.yaml", POLICY),
            ("good.yaml", table),
            ("wrong.yaml", &wrong),
            (
                "field.yaml",
                &line("{ from: a/b, to: a.test, expects: deny }"),
            ),
            (
                "to.yaml",
                &line("{ from: a/b, to: \"*.test\", expect: deny }"),
            ),
            (
                "rule.yaml",
                &line("{ from: a/b, to: a.test, expect: deny, rule: x }"),
            ),
            ("empty.yaml", "policies: [policy.yaml]\ncases: []\n"),
        ],
    );
    let good = folder.run(&["test", "good.yaml"]).gives(0, "");
    assert_eq!(good.out, "3 cases, 0 failed\n");
    let wrong = folder.run(&["test", "wrong.yaml"]).gives(1, "");
    assert_eq!(
        wrong.out,
        "wrong.yaml:6: shop/orders to b.test:443: expected allow, found deny (host_not_allowed)
wrong.yaml:7: shop/orders to cdn.test:80: expected deny (host_not_allowed), found deny (port_not_allowed)
5 cases, 2 failed
"
    );
    wrong.fails("policy test: 2 cases not as expected");
    for (file, error) in [
        (
            "field.yaml",
            "field.yaml:6:30: unknown field \"expects\"; allowed here: ",
        ),
        ("to.yaml", "to.yaml:6:5: \"*.test\""),
        ("rule.yaml", "rule.yaml:6:5: what is denied has no \"rule\""),
        ("empty.yaml", "\"cases\" is empty"),
        ("missing.yaml", "missing.yaml: cannot be read"),
    ] {
        folder.run(&["test", file]).fails(error);
    }
}

#[test]
fn what_is_suggested_can_be_checked_and_tested() {
    let record = |kind: &str, name: &str, more: &str| {
        format!(
            "{{\"kind\":\"{kind}\",\"endpoint\":{{\"id\":1,\"name\":\"{name}\"}},\"destination\":\"203.0.113.7\",\"verdict\":\"audit\",{more}}}\n"
        )
    };
    let tls = "\"port\":443,\"application\":\"tls\",\"server_name\":\"api.payments.test\"";
    let asked = "\"port\":80,\"server_name\":\"status.test\",\"method\":\"GET\",\"path\":\"/v1/a\"";
    let records = record("connection.open", "shop/orders", tls)
        + &record("http.request", "shop/orders", asked);
    let table = "\
policies: [suggested.yaml]
cases:
  - { from: shop/orders, to: api.payments.test, expect: allow }
  - { from: shop/orders, to: status.test, path: /v1/a, expect: allow }
  - { from: shop/orders, to: status.test, path: /v1/b, expect: deny }
  - { from: shop/web, to: api.payments.test, expect: deny }
";
    let folder = Folder::new(
        "suggest",
        &[
            ("records.jsonl", &records),
            ("other.jsonl", &record("connection.open", "orders-1", tls)),
            ("broken.jsonl", "{}\n"),
            ("empty.jsonl", ""),
            ("config.yaml", CONFIG),
            ("expect.yaml", table),
        ],
    );
    let suggested = folder
        .run(&["suggest", "records.jsonl"])
        .gives(0, "api.payments.test");
    fs::write(folder.0.join("suggested.yaml"), &suggested.out).unwrap();
    folder
        .run(&["check", "--strict", "suggested.yaml"])
        .gives(0, "1 policy read, 0 errors");
    folder
        .run(&["test", "expect.yaml"])
        .gives(0, "4 cases, 0 failed");

    folder
        .run(&["suggest", "other.jsonl"])
        .fails("other.jsonl:1:1: endpoint \"orders-1\"");
    let config = ["suggest", "--config", "config.yaml", "other.jsonl"];
    folder
        .run(&config)
        .gives(0, "serviceAccounts: [\"orders\"]");
    folder
        .run(&["suggest", "broken.jsonl"])
        .fails("broken.jsonl:1:2: no record: missing field");
    folder
        .run(&["suggest", "empty.jsonl"])
        .fails("let it run in Audit");
}
