//! A pod with `hostNetwork`: a cgroup of the kubelet's shape, and the node's own network namespace.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    pod::{Inside, bind},
    process::{self, Finished},
    tools,
    world::World,
};

/// A pod in the node's network namespace.
#[derive(Debug)]
pub struct HostPod<'world> {
    /// `namespace/name`.
    pub name: String,
    /// Its service account, which policies select by.
    pub account: String,
    /// The pod's cgroup, the one that an endpoint names.
    pub cgroup: PathBuf,
    container: PathBuf,
    resolv_conf: PathBuf,
    world: &'world World,
}

impl<'world> HostPod<'world> {
    pub(crate) fn new(world: &'world World, name: &str, account: &str, number: u8) -> Result<Self> {
        let relative =
            format!("kubepods/besteffort/pod0c0ffee0-0000-4000-9000-0000000000{number:02x}");
        Ok(Self {
            name: name.to_owned(),
            account: account.to_owned(),
            cgroup: world.cgroup().child(&relative)?,
            container: world.cgroup().child(&format!("{relative}/container"))?,
            resolv_conf: world.scratch().write(
                &format!("resolv-host-{number}.conf"),
                format!(
                    "nameserver {}\noptions timeout:2 attempts:1\n",
                    crate::internet::RESOLVER4
                ),
            )?,
            world,
        })
    }

    /// A command in the node's network namespace and the container's cgroup.
    ///
    /// # Errors
    /// Where the cgroup has gone.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = Command::new(program);
        let mounts = vec![bind(&self.resolv_conf, "/etc/resolv.conf")?];
        Inside::new(&self.container, mounts)?.confine(&mut command);
        self.world.node.confine(&mut command);
        Ok(command)
    }

    /// Runs a program to its end, for at most 20 seconds.
    ///
    /// # Errors
    /// Where it cannot be started or takes longer.
    pub fn run<S: AsRef<OsStr>>(&self, line: &[S]) -> Result<Finished> {
        let (program, arguments) = line.split_first().context("an empty command line")?;
        process::finish(self.command(program)?.args(arguments), process::PATIENCE)
    }

    /// Makes one of this crate's attacks.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn attack(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.command(tools::attack()?)?;
        process::finish(command.args(arguments), process::PATIENCE)
    }

    /// The cgroup that its processes are in.
    pub fn container(&self) -> &Path {
        &self.container
    }
}
