//! `egress-agent exec`: holds one command to a list of hosts.

use std::{ffi::OsString, io, path::PathBuf, process::ExitCode, thread};

use anyhow::Context;
use clap::Args;
use ipnet::IpNet;
use tokio::sync::mpsc;

use crate::{
    app::exec::{Request, exec},
    cli::{in_one_line, run::on_this_thread},
    exec::{
        protocol::AGENT_FAILED,
        signals::{Arrived, Signals},
    },
    gateway::resolve::server::{self, NameServer},
    policy::{
        flag::{allow_cidr, allow_host, parse_network},
        rule::Rule,
    },
};

/// Holds one command, and all that it starts, to a list of hosts.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: the command's own; 125 where the agent failed, 126 where the command cannot be
executed, 127 where there is none.

Examples:
  sudo egress-agent exec --allow '*.example.com' -- ./build.sh
  sudo egress-agent exec --allow repo.test:8443 --allow-cidr 192.0.2.7:5432 -- make test
  sudo egress-agent exec --audit --records seen.jsonl -- npm install")]
pub struct ExecArgs {
    /// A host that TLS may go to, by its server name: `repo.test`, `*.cdn.test`, `repo.test:8443`.
    /// Port 443 where none is written.
    #[arg(long, value_name = "HOST[:PORT]", num_args = 1..)]
    pub allow: Vec<String>,
    /// A network that any TCP may go to: `192.0.2.7:5432`, `198.51.100.0/24`, `[2001:db8::/32]:22`.
    /// Every port where none is written.
    #[arg(long, value_name = "NET[:PORT]", num_args = 1..)]
    pub allow_cidr: Vec<String>,
    /// A policy file, whose selectors do not matter here.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub policy: Vec<PathBuf>,
    /// Let everything pass, and record what would be denied. The command has the node's network.
    #[arg(long)]
    pub audit: bool,
    /// Let the command reach what listens on this machine's loopback.
    #[arg(long)]
    pub allow_loopback: bool,
    /// Run the command as this user instead of the one who called.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Where names are looked up, instead of the name servers of /etc/resolv.conf: 192.0.2.53,
    /// tcp://192.0.2.53:53, tls://192.0.2.53#dns.vendor.test.
    #[arg(long, value_name = "SERVER", num_args = 1..)]
    pub resolver: Vec<String>,
    /// A network that an allowed name may lead to although it is not public: `10.0.0.0/8`.
    #[arg(long, value_name = "NET", num_args = 1..)]
    pub permit_answer: Vec<String>,
    /// Add records to this file, a JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub records: Option<PathBuf>,
    /// Print no summary at the end.
    #[arg(long)]
    pub quiet: bool,
    /// The command and its arguments.
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Runs the command. What goes wrong before it is said here.
pub fn run(args: ExecArgs) -> ExitCode {
    let foreground = Foreground::of_terminal();
    let ended = start(args);
    foreground.take_back();
    ended.map_or_else(
        |error| {
            eprintln!("egress-agent: {}", in_one_line(&error));
            AGENT_FAILED.into()
        },
        ExitCode::from,
    )
}

fn start(args: ExecArgs) -> anyhow::Result<u8> {
    let request = request(args)?;
    // Before there is another thread, which would have them unblocked.
    let signals = Signals::block(&[]).context("cannot block signals")?;
    let (sender, arrived) = mpsc::unbounded_channel();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || forward(&signals, &sender))
        .context("cannot start a thread")?;
    on_this_thread(exec(request, arrived))
}

fn forward(signals: &Signals, to: &mpsc::UnboundedSender<Arrived>) {
    while let Ok(arrived) = signals.next() {
        if to.send(arrived).is_err() {
            return;
        }
    }
}

fn request(args: ExecArgs) -> anyhow::Result<Request> {
    let hosts = args.allow.iter().map(|value| allow_host(value));
    let networks = args.allow_cidr.iter().map(|value| allow_cidr(value));
    let rules: Result<Vec<Rule>, _> = hosts.chain(networks).collect();
    let answers: anyhow::Result<_> = args
        .permit_answer
        .iter()
        .map(|value| permitted(value))
        .collect();
    Ok(Request {
        rules: rules?,
        policies: args.policy,
        audit: args.audit,
        allow_loopback: args.allow_loopback,
        user: args.user,
        resolvers: resolvers(&args.resolver)?,
        permitted_answers: answers?,
        records: args.records,
        quiet: args.quiet,
        command: args.command,
    })
}

fn resolvers(values: &[String]) -> anyhow::Result<Vec<NameServer>> {
    let server = |value: &String| value.parse().with_context(|| format!("--resolver {value}"));
    let servers: Vec<NameServer> = values.iter().map(server).collect::<Result<_, _>>()?;
    server::check(&servers).context("--resolver")?;
    Ok(servers)
}

fn permitted(value: &str) -> anyhow::Result<IpNet> {
    parse_network(value)
        .with_context(|| format!("--permit-answer {value}: no network; write 10.0.0.0/8"))
}

/// Whether this process group is the terminal's foreground one. A shell that is the command makes
/// its own the foreground one, and cannot give it back from its namespace.
struct Foreground(bool);

impl Foreground {
    fn of_terminal() -> Self {
        let terminal = rustix::termios::tcgetpgrp(io::stdin());
        Self(terminal.is_ok_and(|group| group == rustix::process::getpgrp()))
    }

    fn take_back(&self) {
        if self.0 {
            // The terminal may have gone.
            rustix::termios::tcsetpgrp(io::stdin(), rustix::process::getpgrp()).ok();
        }
    }
}
