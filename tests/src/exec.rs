//! `egress-agent exec` on the node of a world.

use std::{path::PathBuf, process::Command, thread, time::Duration};

use anyhow::Result;

use crate::{
    agent,
    internet::RESOLVER4,
    process::{self, Finished},
    records::Records,
    scratch, tools,
    world::World,
};

/// Whether an instance is a command's.
pub fn is_of_exec(name: &str) -> bool {
    name.starts_with("exec-")
}

/// Clears what commands left whose agents were killed: the start of another one does.
///
/// # Errors
/// Where the agent cannot be started.
pub fn clear_stale() -> Result<()> {
    // Commands of others may be running, and theirs stays.
    const TRIES: u32 = 10;
    for _ in 0..TRIES {
        let mut command = Command::new(tools::agent()?);
        command.args(["exec", "--quiet", "--", "true"]);
        process::finish(&mut command, process::PATIENCE)?.ok()?;
        if scratch::left_by_all(is_of_exec)?.is_empty() {
            break;
        }
        // An agent that is being killed holds on for a moment.
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// How commands are run: with these flags.
#[derive(Debug, Clone)]
pub struct Exec<'world> {
    world: &'world World,
    flags: Vec<String>,
    records: PathBuf,
}

impl<'world> Exec<'world> {
    /// With the internet's resolver, and records of its own.
    pub fn new(world: &'world World, flags: &[&str]) -> Self {
        let records = world.scratch().file("exec.jsonl");
        let own = ["--resolver", &RESOLVER4.to_string(), "--records"].map(str::to_owned);
        Self {
            world,
            flags: own
                .into_iter()
                .chain([records.display().to_string()])
                .chain(flags.iter().map(|flag| (*flag).to_owned()))
                .collect(),
            records,
        }
    }

    /// What it records.
    pub fn records(&self) -> Records {
        Records::new(self.records.clone())
    }

    /// The agent with a command, about to be started on the node. Clients find the internet's
    /// authority by their environment, where they look there.
    ///
    /// # Errors
    /// As [`agent::command`].
    pub fn command(&self, line: &[&str]) -> Result<Command> {
        let mut command = agent::command(self.world)?;
        command.arg("exec").args(&self.flags).arg("--").args(line);
        let authority = self.world.internet.authority();
        for name in [
            "CURL_CA_BUNDLE",
            "SSL_CERT_FILE",
            "NODE_EXTRA_CA_CERTS",
            "GIT_SSL_CAINFO",
        ] {
            command.env(name, authority);
        }
        command.env("HOME", self.world.scratch().file(""));
        Ok(command)
    }

    /// Runs it to its end, for at most 20 seconds.
    ///
    /// # Errors
    /// Where it cannot be started or takes longer.
    pub fn run(&self, line: &[&str]) -> Result<Finished> {
        process::finish(&mut self.command(line)?, process::PATIENCE)
    }

    /// The same for a Python script.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn python(&self, script: &str) -> Result<Finished> {
        self.run(&["python3", "-c", script])
    }

    /// The same for a shell script.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn shell(&self, script: &str) -> Result<Finished> {
        self.run(&["sh", "-c", script])
    }
}
