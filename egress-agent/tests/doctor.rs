//! `egress-agent doctor` as root and as nobody. Needs root.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use egress_agent::enforcer::clsact::Links;
use serde_json::Value;

/// The overflow user and group (kernel.overflowuid).
const NOBODY: u32 = 65_534;

fn doctor() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egress-agent"));
    command.arg("doctor");
    command
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The words at the head of a line.
fn has(text: &str, status: &str, name: &str) -> bool {
    text.lines().any(|line| {
        line.strip_prefix(status)
            .is_some_and(|rest| rest.trim_start().starts_with(name))
    })
}

#[test]
fn root_has_what_the_agent_needs() {
    let output = doctor().output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    for name in [
        "capabilities",
        "kernel ",
        "kernel types (BTF)",
        "bpf(2)",
        "new cgroups",
        "BPF programs",
        "BPF JIT",
        "perf events",
        "veth",
    ] {
        assert!(has(&text, "ok", name), "{name}\n{text}");
    }
    // Before 6.6 it says what the other way onto links means.
    let links = match Links::of_this_kernel() {
        Links::Tcx => "ok",
        Links::Clsact => "warning",
    };
    assert!(has(&text, links, "links"), "{text}");
    assert!(!text.contains('\x1b'), "colour without a terminal\n{text}");
}

#[test]
fn json_says_the_same() {
    let output = doctor().arg("--json").output().unwrap();
    let checks: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let line = |check: &Value| {
        let of = |field: &str| check[field].as_str().unwrap().to_owned();
        (of("status"), of("name"), of("found"))
    };
    let checks: Vec<_> = checks.iter().map(line).collect();
    assert!(
        checks
            .iter()
            .any(|(status, name, _)| status == "ok" && name == "veth")
    );
}

#[test]
fn nothing_is_left_behind() {
    let child = doctor().stdout(Stdio::piped()).spawn().unwrap();
    let cgroup = format!("egress-agent-doctor-{}", child.id());
    assert!(!child.wait_with_output().unwrap().stdout.is_empty());
    let root = egress_agent::enforcer::cgroup::root().unwrap();
    assert!(!root.join(cgroup).exists());
    let links = fs::read_to_string("/proc/net/dev").unwrap();
    assert!(!links.contains("egress-doctor"), "{links}");
}

#[test]
fn nobody_is_told_what_is_missing() {
    let binary = Binary::copy();
    let mut command = Command::new(&binary.0);
    command
        .arg("doctor")
        .current_dir("/")
        .gid(NOBODY)
        .uid(NOBODY);
    let output = command.output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for name in [
        "CAP_BPF",
        "CAP_NET_ADMIN",
        "CAP_PERFMON",
        "bpf(2)",
        "new cgroups",
        "BPF programs",
    ] {
        assert!(has(&text, "missing", name), "{name}\n{text}");
    }
    for name in ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "veth"] {
        assert!(has(&text, "warning", name), "{name}\n{text}");
    }
    assert!(text.contains("run as root"), "{text}");
}

/// Where others may execute it, whatever the build's folders allow.
struct Binary(PathBuf);

impl Binary {
    fn copy() -> Self {
        let name = format!("egress-agent-doctor-test-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::copy(env!("CARGO_BIN_EXE_egress-agent"), &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}
