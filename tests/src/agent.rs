//! The agent under test: `egress-agent run` on the node, its configuration and its records.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    pod::Pod,
    process::{self, Finished},
    records::Records,
    scratch, tools,
    world::World,
};

mod config;

pub use config::{Config, Mode};

/// How long the agent may take to be ready: it loads, verifies and attaches some 20 programs.
const READY: Duration = Duration::from_secs(20);

/// How long it may take to leave.
const LEAVE: Duration = Duration::from_secs(10);

/// Where those print that take over, whatever becomes of them.
const SUCCESSORS_LOG: &str = "successor.log";

/// Where it writes its records.
const RECORDS: &str = "records.jsonl";

/// A running agent. When dropped it is killed and what it left attached is detached.
#[derive(Debug)]
pub struct Agent<'world> {
    /// What it reports.
    pub records: Records,
    world: &'world World,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// Those that were taken over from, and still have connections.
    before: Vec<Child>,
}

impl<'world> Agent<'world> {
    /// Starts it with these pods as endpoints and waits until it is ready.
    ///
    /// # Errors
    /// With its log, where it is not ready in time.
    pub fn start(world: &'world World, config: &Config, pods: &[&Pod]) -> Result<Self> {
        let scratch = world.scratch();
        let text = Self::configuration(world, config, pods)?;
        let mut agent = Self {
            records: Records::new(scratch.file(RECORDS)),
            world,
            config: scratch.write("config.yaml", text)?,
            log: scratch.file("agent.log"),
            child: None,
            before: Vec::new(),
        };
        agent.launch()?;
        Ok(agent)
    }

    /// The text of its configuration file, whose policy file is written; nothing is started.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn configuration(world: &World, config: &Config, pods: &[&Pod]) -> Result<String> {
        let scratch = world.scratch();
        scratch.write("policy.yaml", &config.policy)?;
        Ok(config.text(world, pods, &scratch.file(RECORDS)))
    }

    /// Starts it again with the same configuration, after [`kill`](Self::kill) or
    /// [`stop`](Self::stop).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn launch(&mut self) -> Result<()> {
        self.child = Some(self.begin(&[])?);
        self.wait_until_ready()
    }

    /// Starts another one that takes over from this one, which is left to end by itself.
    ///
    /// # Errors
    /// Where it is not ready in time; then that which ran before is this one again.
    pub fn take_over(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        let (log, before) = (self.log.clone(), self.child.take());
        let before = before.context("the agent is not running")?;
        self.log = self
            .world
            .scratch()
            .file(&format!("agent-{}.log", before.id()));
        let begun = self.begin_with(&["--take-over"], environment);
        let ready = begun.and_then(|child| {
            self.child = Some(child);
            self.wait_until_ready()
        });
        match ready {
            Ok(()) => self.before.push(before),
            Err(_) => {
                if let Some(mut child) = self.child.replace(before) {
                    child.kill().ok();
                    child.wait().ok();
                }
                self.log = log;
            }
        }
        ready
    }

    /// Another one that takes over, whatever becomes of it.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn successor(&self) -> Result<Child> {
        let log = self.world.scratch().file(SUCCESSORS_LOG);
        self.begin_at(&log, &["--take-over"], &[])
    }

    /// What the last [`successor`](Self::successor) has printed.
    ///
    /// # Errors
    /// Where there was none.
    pub fn successors_log(&self) -> Result<String> {
        let log = self.world.scratch().file(SUCCESSORS_LOG);
        fs::read_to_string(log).context("could not read the successor's log")
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// Where it does not end, or not well.
    pub fn expect_end(&mut self) -> Result<()> {
        let child = self.child.take().context("the agent is not running")?;
        self.before.push(child);
        self.expect_left()
    }

    /// SIGTERM to those that were taken over from.
    ///
    /// # Errors
    /// Where one has ended already.
    pub fn end_those_before(&self) -> Result<()> {
        let mut before = self.before.iter();
        before.try_for_each(|child| process::signal(child, libc::SIGTERM))
    }

    /// Waits for the end of those that were taken over from.
    ///
    /// # Errors
    /// Where one does not end, or not well.
    pub fn expect_left(&mut self) -> Result<()> {
        for mut child in std::mem::take(&mut self.before) {
            let status = process::wait(&mut child, process::PATIENCE)?;
            ensure!(status.success(), "{status}");
        }
        Ok(())
    }

    fn begin(&self, arguments: &[&str]) -> Result<Child> {
        self.begin_with(arguments, &[])
    }

    fn begin_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Child> {
        self.begin_at(&self.log, arguments, environment)
    }

    fn begin_at(
        &self,
        log: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Child> {
        let log = File::create(log).context("could not make agent.log")?;
        let mut command = command(self.world)?;
        command
            .args(["run", "--config"])
            .arg(&self.config)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("could not copy a descriptor")?)
            .stderr(log);
        command.spawn().context("could not start the agent")
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let ready = process::within(READY, "the agent to be ready", || {
            if let Some(status) = self.ended()? {
                bail!("the agent ended with {status}");
            }
            Ok(self.log()?.contains("ready").then_some(()))
        });
        let log = self.log()?;
        ready.with_context(|| format!("the agent's log is:\n{log}"))
    }

    /// Writes another policy and has the agent read it: SIGHUP.
    ///
    /// # Errors
    /// Where it is not running.
    pub fn reload(&self, policy: &str) -> Result<()> {
        self.world.scratch().write("policy.yaml", policy)?;
        self.signal(libc::SIGHUP)
    }

    /// SIGHUP, for whatever its files say now.
    ///
    /// # Errors
    /// Where it is not running.
    pub fn hang_up(&self) -> Result<()> {
        self.signal(libc::SIGHUP)
    }

    /// The same as [`reload_config`](Self::reload_config), after a reload that was refused.
    ///
    /// # Errors
    /// Where it is not running, or refuses again.
    pub fn reload_config_again(&self, text: &str) -> Result<()> {
        let before = self.log()?.matches("refused").count();
        self.reload_unless(text, before)
    }

    /// Writes another configuration and has the agent read it, to the end: SIGHUP.
    ///
    /// # Errors
    /// Where it is not running, or refuses.
    pub fn reload_config(&self, text: &str) -> Result<()> {
        self.reload_unless(text, 0)
    }

    /// Unless more than `refusals` are in its log.
    fn reload_unless(&self, text: &str, refusals: usize) -> Result<()> {
        let before = self.log()?.matches("reloaded").count();
        fs::write(&self.config, text).context("could not write the configuration")?;
        self.signal(libc::SIGHUP)?;
        process::eventually("the new configuration", || {
            let log = self.log()?;
            ensure!(log.matches("refused").count() == refusals, "{log}");
            Ok((log.matches("reloaded").count() > before).then_some(()))
        })
    }

    /// SIGTERM.
    ///
    /// # Errors
    /// Where it is not running.
    pub fn tell_to_end(&self) -> Result<()> {
        self.signal(libc::SIGTERM)
    }

    /// SIGTERM, and waits for the end; what it pinned goes on enforcing.
    ///
    /// # Errors
    /// Where it does not end, or is not running.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.tell_to_end()?;
        let mut child = self.child.take().context("the agent is not running")?;
        let status = process::wait(&mut child, LEAVE);
        if status.is_err() {
            child.kill().ok();
            child.wait().ok();
        }
        status
    }

    /// SIGSTOP: it reads and does nothing until [`thaw`](Self::thaw).
    ///
    /// # Errors
    /// Where it is not running.
    pub fn freeze(&self) -> Result<()> {
        self.signal(libc::SIGSTOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// Where it is not running.
    pub fn thaw(&self) -> Result<()> {
        self.signal(libc::SIGCONT)
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// Where it is not running.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the agent is not running")?;
        child.kill().context("could not kill the agent")?;
        child.wait().context("could not wait for the agent")?;
        Ok(())
    }

    /// `egress-agent detach --yes`.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn detach(&self) -> Result<Finished> {
        run(
            self.world,
            &[
                "detach",
                "--yes",
                "--config",
                &self.config.display().to_string(),
            ],
        )
    }

    /// What it has printed since it was last launched.
    ///
    /// # Errors
    /// Where its log cannot be read.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).context("could not read agent.log")
    }

    /// Waits until it prints something.
    ///
    /// # Errors
    /// With its log, where it does not.
    pub fn wait_for_log(&self, text: &str) -> Result<()> {
        let printed = process::eventually(text, || Ok(self.log()?.contains(text).then_some(())));
        printed.with_context(|| self.log().unwrap_or_default())
    }

    /// Its configuration file.
    pub fn config(&self) -> &PathBuf {
        &self.config
    }

    /// Its process id.
    ///
    /// # Errors
    /// Where it is not running.
    pub fn pid(&self) -> Result<u32> {
        Ok(self
            .child
            .as_ref()
            .context("the agent is not running")?
            .id())
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let child = self.child.as_mut().context("the agent is not running")?;
        child.try_wait().context("could not ask for the agent")
    }

    fn signal(&self, signal: i32) -> Result<()> {
        let child = self.child.as_ref().context("the agent is not running")?;
        process::signal(child, signal)
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the agent's log is:\n{}", self.log().unwrap_or_default());
        }
        for mut child in self.before.drain(..).chain(self.child.take()) {
            // It may have ended already.
            child.kill().ok();
            child.wait().ok();
        }
        if let Err(error) = self.leave_nothing() {
            // Failing twice would abort, and hide why the test failed first.
            assert!(std::thread::panicking(), "{error:#}");
        }
    }
}

impl Agent<'_> {
    fn leave_nothing(&self) -> Result<()> {
        self.detach()?.ok().context("detach failed")?;
        let left = scratch::left_by(self.world.name())?;
        ensure!(left.is_empty(), "detach left {left:?}");
        Ok(())
    }
}

/// Runs the agent on the node with these arguments, to its end.
///
/// # Errors
/// Where it cannot be started or takes more than 20 seconds.
pub fn run(world: &World, arguments: &[&str]) -> Result<Finished> {
    process::finish(command(world)?.args(arguments), process::PATIENCE)
}

/// The agent's binary, on the node, in a cgroup of the world's.
pub fn command(world: &World) -> Result<Command> {
    let cgroup = world
        .cgroup()
        .child("system/egress-agent")?
        .join("cgroup.procs");
    let procs = File::options()
        .write(true)
        .open(&cgroup)
        .with_context(|| format!("could not open {}", cgroup.display()))?;
    let mut command = world.node.command(tools::agent()?);
    command.current_dir(world.scratch().file(""));
    // SAFETY: write(2) alone, to a descriptor that was opened before the fork.
    unsafe {
        command.pre_exec(move || {
            use std::os::fd::AsRawFd as _;
            match libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) {
                1 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    Ok(command)
}
