//! What a process and its children spend: processor time and memory, by their cgroup.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use egress_tests::cgroup;

/// A cgroup whose processes are measured together.
#[derive(Clone)]
pub(super) struct Spent {
    cgroup: PathBuf,
}

impl Spent {
    /// Of a cgroup.
    pub(super) fn of(cgroup: PathBuf) -> Self {
        Self { cgroup }
    }

    /// Of the cgroup that a process is in.
    ///
    /// # Errors
    /// It has gone.
    pub(super) fn of_process(pid: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .with_context(|| format!("process {pid} has gone"))?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
        let path = path.context("the process is in no cgroup v2")?;
        Ok(Self::of(cgroup::mount()?.join(path)))
    }

    /// Microseconds of processor time so far, user's and system's.
    ///
    /// # Errors
    /// It has gone.
    pub(super) fn processor(&self) -> Result<f64> {
        let path = self.cgroup.join("cpu.stat");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("could not read {}", path.display()))?;
        let line = text.lines().find_map(|it| it.strip_prefix("usage_usec "));
        let usage = line.with_context(|| format!("{}: no usage_usec", path.display()))?;
        Ok(usage.trim().parse()?)
    }

    /// Bytes of memory, what is shared counted by shares.
    ///
    /// # Errors
    /// It has gone.
    pub(super) fn memory(&self) -> Result<f64> {
        let mut bytes = 0.0;
        for pid in self.processes()? {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let line = text.lines().find_map(|it| it.strip_prefix("Pss:"));
            let kilobytes = line.and_then(|it| it.split_whitespace().next()?.parse::<f64>().ok());
            bytes += kilobytes.context("smaps_rollup: no Pss")? * 1024.0;
        }
        Ok(bytes)
    }

    fn processes(&self) -> Result<Vec<u32>> {
        let text = fs::read_to_string(self.cgroup.join("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }
}

/// Has `command` begin in a cgroup.
///
/// # Errors
/// There is no such cgroup.
pub(super) fn begin_in(cgroup: &Path, command: &mut Command) -> Result<()> {
    use std::os::{fd::AsRawFd as _, unix::process::CommandExt as _};
    let path = cgroup.join("cgroup.procs");
    let procs = fs::File::options()
        .write(true)
        .open(&path)
        .with_context(|| format!("could not open {}", path.display()))?;
    // SAFETY: write(2) alone, to a descriptor that was opened before the fork.
    unsafe {
        command.pre_exec(
            move || match libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) {
                1 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            },
        );
    }
    Ok(())
}
