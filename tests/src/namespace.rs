//! A network namespace, held by a descriptor: gone when the last holder and the last process in
//! it are.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    net::IpAddr,
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::process::CommandExt as _,
    },
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};

/// A network namespace of our own.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    /// A new, empty one with its loopback up; `name` is for messages.
    ///
    /// # Errors
    /// Where the kernel refuses (not root) or `ip` fails.
    pub fn new(name: &str) -> Result<Self> {
        let handle = on_a_thread(|| {
            // SAFETY: unshare(2) takes no pointer, and changes this thread alone.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            File::open("/proc/thread-self/ns/net")
        })
        .with_context(|| format!("could not make the network namespace {name}: run as root"))?;
        let namespace = Self {
            name: name.to_owned(),
            handle,
        };
        namespace.ip("link set lo up")?;
        // The machine may default to BBR, whose pacing makes every test slower.
        namespace.sysctl("net/ipv4/tcp_congestion_control", "reno")?;
        // Nobody else has our addresses; to make sure takes two seconds a link.
        namespace.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        Ok(namespace)
    }

    /// Runs `work` on a thread inside the namespace; sockets that it makes stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let fd = self.handle.as_raw_fd();
        on_a_thread(move || set_namespace(fd).map(|()| work()))
            .with_context(|| format!("could not enter the network namespace {}", self.name))
    }

    /// A command inside; killed when the calling thread ends.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        self.confine(&mut command);
        command
    }

    /// Makes `command` run inside.
    pub fn confine(&self, command: &mut Command) {
        let fd = self.handle.as_raw_fd();
        // SAFETY: setns(2) and prctl(2) alone, both safe between fork and exec; the namespace
        // outlives every command that it made, since both belong to one world.
        unsafe {
            command.pre_exec(move || {
                die_with_parent()?;
                set_namespace(fd)
            });
        }
    }

    /// Runs `ip` inside, one command a line.
    ///
    /// # Errors
    /// With `ip`'s own message.
    pub fn ip(&self, batch: &str) -> Result<()> {
        let mut child = self
            .command("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("could not start ip: cargo xtask setup demo installs it")?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(batch.as_bytes()).context("ip went away")?;
        }
        let output = child.wait_with_output().context("could not wait for ip")?;
        if !output.status.success() {
            bail!(
                "ip in {} failed: {}\n{batch}",
                self.name,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    /// Sets `/proc/sys/<key>` as the namespace sees it.
    ///
    /// # Errors
    /// Where the kernel has no such key or refuses.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.enter(|| fs::write(format!("/proc/sys/{key}"), value))?
            .with_context(|| format!("could not set {key} to {value} in {}", self.name))
    }

    /// The same where the kernel has such a variable.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn sysctl_if_any(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{name}");
        match self.enter(|| std::path::Path::new(&path).exists())? {
            true => self.sysctl(name, value),
            false => Ok(()),
        }
    }

    /// A path by which `ip link … netns PATH` finds the namespace, for our own children.
    pub fn path(&self) -> String {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.handle.as_raw_fd()
        )
    }

    /// Waits until the namespace can send: no address is tentative, and every interface that was set
    /// up is in operation (the kernel sees a veth's carrier a while after both ends are up, and
    /// drops what is sent before).
    ///
    /// # Errors
    /// After [`PATIENCE`](crate::process::PATIENCE).
    pub fn wait_until_ready(&self) -> Result<()> {
        let list = |line: &[&str]| -> Result<Vec<serde_json::Value>> {
            let output = self.command("ip").arg("-json").args(line).output();
            let output = output.context("could not start ip")?;
            serde_json::from_slice(&output.stdout).context("ip printed no JSON")
        };
        // `ip` lists an empty object for each interface that has no such address.
        let is_tentative = |link: &serde_json::Value| link.get("ifname").is_some();
        let is_down = |link: &serde_json::Value| {
            let state = link["operstate"].as_str();
            !matches!(state, Some("UP" | "UNKNOWN"))
        };
        crate::process::eventually("interfaces and addresses that are ready", || {
            let ready = !list(&["-6", "address", "show", "tentative"])?
                .iter()
                .any(is_tentative)
                && !list(&["link", "show", "up"])?.iter().any(is_down);
            Ok(ready.then_some(()))
        })
    }

    /// The hardware address of an interface.
    ///
    /// # Errors
    /// Where there is no such interface.
    pub fn hardware_address(&self, interface: &str) -> Result<String> {
        let output = self
            .command("ip")
            .args(["-json", "link", "show", interface])
            .output()
            .context("could not start ip")?;
        let links: serde_json::Value =
            serde_json::from_slice(&output.stdout).context("ip printed no JSON")?;
        links[0]["address"]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("no interface {interface} in {}", self.name))
    }
}

/// `10.1.0.5/24`, or with a prefix for IPv6.
pub(crate) fn with_prefix(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}/24"),
        IpAddr::V6(address) => format!("{address}/64"),
    }
}

/// A child that outlives us would keep the namespace alive.
pub(crate) fn die_with_parent() -> io::Result<()> {
    // SAFETY: prctl(2) with integers alone.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Moves the calling thread into the network namespace.
pub(crate) fn set_namespace(fd: RawFd) -> io::Result<()> {
    // SAFETY: setns(2) takes a descriptor and a flag, and changes this thread alone.
    match unsafe { libc::setns(fd, libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs on a thread of its own, whose namespace is nobody else's concern.
fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .unwrap_or_else(|_panic| Err(io::Error::other("the thread inside panicked")))
    })
}
