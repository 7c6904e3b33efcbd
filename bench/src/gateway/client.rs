//! The client as who measures sees it: a child in a pod, and what it answers.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use anyhow::{Context as _, Result, bail};
use egress_tests::pod::Pod;

use super::{
    load::{Order, Outcome},
    stage,
};

/// Killed when it is dropped.
pub(super) struct Client {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Client {
    /// In `pod`; it will connect to `target` and ask for some of so many allowed names.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(pod: &Pod, target: SocketAddr, names: usize) -> Result<Self> {
        let this = std::env::current_exe().context("where this program is")?;
        let mut child = pod
            .command(this)?
            .args(["load", &target.to_string(), stage::DENIED])
            .args(stage::asked(names))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start the client")?;
        Ok(Self {
            orders: child.stdin.take().context("its standard input")?,
            answers: BufReader::new(child.stdout.take().context("its standard output")?),
            child,
        })
    }

    /// Has it do something, to the end.
    ///
    /// # Errors
    /// It could not.
    pub(super) fn ask(&mut self, order: &Order) -> Result<Outcome> {
        let line = serde_json::to_string(order)?;
        writeln!(self.orders, "{line}").context("the client has gone")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let outcome: Outcome = serde_json::from_str(&line).context("the client did not answer")?;
        match &outcome.error {
            Some(error) => bail!("{order:?}: {error}"),
            None => Ok(outcome),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
