//! A pod as the node sees it: a network namespace behind a veth, and a cgroup of the kubelet's
//! shape.

use std::{
    ffi::{CString, OsStr},
    fs::{File, OpenOptions},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{
        fd::AsRawFd as _,
        unix::{ffi::OsStrExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::Command,
    ptr,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    cgroup,
    namespace::{Namespace, with_prefix},
    process::{self, Finished},
    tools,
    world::World,
};

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// `namespace/name`.
    pub name: String,
    /// Its network namespace.
    pub namespace: Namespace,
    /// The pod's cgroup, the one that an endpoint names.
    pub cgroup: PathBuf,
    /// The node's side of its veth.
    pub interface: String,
    /// Its IPv4 address.
    pub address4: Ipv4Addr,
    /// Its IPv6 address.
    pub address6: Ipv6Addr,
    /// The node's IPv4 address on its veth: the next hop.
    pub gateway4: Ipv4Addr,
    /// The node's IPv6 address on its veth.
    pub gateway6: Ipv6Addr,
    /// Which of its world's.
    pub number: u8,
    container: PathBuf,
    resolv_conf: PathBuf,
    hosts: PathBuf,
}

impl Pod {
    pub(crate) fn new(world: &World, name: &str, number: u8) -> Result<Self> {
        let uid = format!("pod0c0ffee0-0000-4000-8000-0000000000{number:02x}");
        let relative = format!("kubepods/burstable/{uid}");
        let cgroup = world.cgroup().child(&relative)?;
        let container = world.cgroup().child(&format!("{relative}/container"))?;
        let scratch = world.scratch();
        let pod = Self {
            name: name.to_owned(),
            namespace: Namespace::new(name)?,
            cgroup,
            interface: format!("pod{number}"),
            address4: Ipv4Addr::new(10, 1, number, 5),
            address6: Ipv6Addr::new(0xfd00, 1, number.into(), 0, 0, 0, 0, 5),
            gateway4: Ipv4Addr::new(10, 1, number, 1),
            gateway6: Ipv6Addr::new(0xfd00, 1, number.into(), 0, 0, 0, 0, 1),
            number,
            container,
            resolv_conf: scratch.write(
                &format!("resolv-{number}.conf"),
                format!(
                    "nameserver {}\noptions timeout:2 attempts:1\n",
                    crate::internet::RESOLVER4
                ),
            )?,
            // With the host's name, as the kubelet writes it: programs look themselves up.
            hosts: scratch.write(
                &format!("hosts-{number}"),
                format!(
                    "127.0.0.1 localhost\n::1 localhost\n10.1.{number}.5 {}\n",
                    hostname()?
                ),
            )?,
        };
        pod.connect(&world.node)?;
        Ok(pod)
    }

    /// Ends it: its veth and its cgroups are gone.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn end(self, world: &World) -> Result<()> {
        world.node.ip(&format!("link del {}\n", self.interface))?;
        cgroup::remove(&self.cgroup)
    }

    /// Makes its veth.
    ///
    /// # Errors
    /// Where there is one.
    pub fn connect(&self, node: &Namespace) -> Result<()> {
        let Self {
            interface,
            address4,
            address6,
            gateway4,
            gateway6,
            ..
        } = self;
        node.ip(&format!(
            "link add {interface} type veth peer name eth0 netns {}\n\
             address add {gateway4}/24 dev {interface}\n\
             address add {gateway6}/64 dev {interface} nodad\n\
             link set {interface} up\n",
            self.namespace.path(),
        ))?;
        self.namespace.ip(&format!(
            "address add {} dev eth0\n\
             address add {} dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via {gateway4}\n\
             route add default via {gateway6}\n",
            with_prefix((*address4).into()),
            with_prefix((*address6).into()),
        ))?;
        // Whoever is in the pod may ping without a raw socket, as in a pod of today.
        self.namespace
            .sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
        node.wait_until_ready()?;
        self.namespace.wait_until_ready()
    }

    /// Both addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.address4.into(), self.address6.into()]
    }

    /// Its address of the family of `other`.
    pub fn address_like(&self, other: IpAddr) -> IpAddr {
        match other {
            IpAddr::V4(_) => self.address4.into(),
            IpAddr::V6(_) => self.address6.into(),
        }
    }

    /// A command in the pod: its network namespace, its container's cgroup, and a mount namespace
    /// in which /etc/resolv.conf and /etc/hosts are the pod's.
    ///
    /// # Errors
    /// Where the cgroup has gone.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = Command::new(program);
        self.confine(&mut command)?;
        Ok(command)
    }

    fn confine(&self, command: &mut Command) -> Result<()> {
        let mounts = vec![
            bind(&self.resolv_conf, "/etc/resolv.conf")?,
            bind(&self.hosts, "/etc/hosts")?,
        ];
        Inside::new(&self.container, mounts)?.confine(command);
        self.namespace.confine(command);
        Ok(())
    }

    /// Makes the pod's resolver another one.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn set_resolver(&self, resolver: IpAddr) -> Result<()> {
        std::fs::write(
            &self.resolv_conf,
            format!("nameserver {resolver}\noptions timeout:2 attempts:1\n"),
        )
        .context("could not write the pod's resolv.conf")
    }

    /// Runs a program in the pod to its end, for at most 20 seconds.
    ///
    /// # Errors
    /// Where it cannot be started or takes longer.
    pub fn run<S: AsRef<OsStr>>(&self, line: &[S]) -> Result<Finished> {
        self.run_for(process::PATIENCE, line)
    }

    /// Runs a program in the pod to its end, for at most `patience`.
    ///
    /// # Errors
    /// Where it cannot be started or takes longer.
    pub fn run_for<S: AsRef<OsStr>>(&self, patience: Duration, line: &[S]) -> Result<Finished> {
        let (program, arguments) = line.split_first().context("an empty command line")?;
        process::finish(self.command(program)?.args(arguments), patience)
    }

    /// Makes one of this crate's attacks in the pod.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn attack(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.command(tools::attack()?)?;
        process::finish(command.args(arguments), process::PATIENCE)
    }
}

fn hostname() -> Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("could not read the host's name")?;
    Ok(name.trim().to_owned())
}

/// What a container's process is in beside its network namespace: a cgroup, and mounts of its own.
pub(crate) struct Inside {
    join: File,
    mounts: Vec<(CString, CString)>,
}

impl Inside {
    pub(crate) fn new(cgroup: &Path, mounts: Vec<(CString, CString)>) -> Result<Self> {
        let procs = cgroup.join("cgroup.procs");
        let join = OpenOptions::new()
            .write(true)
            .open(&procs)
            .with_context(|| format!("could not open {}", procs.display()))?;
        Ok(Self { join, mounts })
    }

    pub(crate) fn confine(self, command: &mut Command) {
        // SAFETY: write(2), unshare(2) and mount(2) alone, on what was made before the fork.
        unsafe {
            command.pre_exec(move || {
                let written = libc::write(self.join.as_raw_fd(), c"0".as_ptr().cast(), 1);
                succeeded(written == 1)?;
                private_mounts(&self.mounts)
            });
        }
    }
}

/// A file and what it is mounted over.
pub(crate) fn bind(file: &Path, over: &str) -> Result<(CString, CString)> {
    let file = CString::new(file.as_os_str().as_bytes()).context("a path holds no NUL")?;
    Ok((file, CString::new(over).context("a path holds no NUL")?))
}

/// Gives the calling process mounts of its own, with the files bound over theirs.
fn private_mounts(binds: &[(CString, CString)]) -> io::Result<()> {
    // SAFETY: the pointers are of C strings that outlive the calls, or null where the kernel
    // reads nothing.
    unsafe {
        succeeded(libc::unshare(libc::CLONE_NEWNS) == 0)?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let root = c"/".as_ptr();
        succeeded(libc::mount(ptr::null(), root, ptr::null(), private, ptr::null()) == 0)?;
        for (file, over) in binds {
            let (file, over) = (file.as_ptr(), over.as_ptr());
            let done = libc::mount(file, over, ptr::null(), libc::MS_BIND, ptr::null()) == 0;
            succeeded(done)?;
        }
    }
    Ok(())
}

fn succeeded(done: bool) -> io::Result<()> {
    if done {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
