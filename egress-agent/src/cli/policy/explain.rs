//! `egress-agent policy explain`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};

use super::{Setting, load, node, print, print_json};
use crate::{
    app::plan::identity,
    config::Config,
    policy::{
        explain::{
            Explanation, Outcome, Subject, explain,
            node::NodeView,
            question::{Question, Spoken},
        },
        rule::Transport,
        selection::parse_identity,
    },
};

/// The exit status where no rule allows it.
const DENIED: u8 = 3;

/// Says whether somebody may reach something, by which rule, and if not what is nearest.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 where a rule allows it, 3 where none does (in Audit, too), 1 on an error.

Examples:
  egress-agent policy explain --from shop/orders --to api.payments.test policy.yaml
  egress-agent policy explain --config config.yaml --from shop/orders --to 10.1.0.9:5432
  egress-agent policy explain --from shop/orders --to status.test --path /v1/a policies/")]
pub struct ExplainArgs {
    /// Who: a namespace and a service account, either of which may be left out (`shop/`); with
    /// --config also an endpoint's name.
    #[arg(long, value_name = "NAMESPACE/SERVICEACCOUNT")]
    pub from: String,
    /// Its labels.
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Where to. Port 443 where none is written, 80 for plain HTTP.
    #[arg(long, value_name = "HOST[:PORT]|IP[:PORT]")]
    pub to: String,
    /// By what.
    #[arg(long, default_value = "tcp", value_name = "PROTOCOL")]
    pub protocol: Protocol,
    /// A request of plain HTTP with this method; GET where only a path or header is written.
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,
    /// A request of plain HTTP for this path; / where only a method or header is written.
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// A request of plain HTTP with this header.
    #[arg(long, value_name = "NAME=VALUE")]
    pub header: Vec<String>,
    /// A request of plain HTTP for a WebSocket.
    #[arg(long)]
    pub websocket: bool,
    /// A configuration of `run`, for its endpoints, its networks, and its policies where no files
    /// are named.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One JSON object instead of lines.
    #[arg(long)]
    pub json: bool,
    /// Policy files, or folders of them.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// What is dialled by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Prints the answer.
///
/// # Errors
/// The files cannot be used, or the question makes no sense.
pub fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let setting = Setting::new(&args.files, args.config.as_ref())?;
    let sources = load(&setting.files)?;
    let subject = subject(args, setting.config.as_ref())?;
    let said = |what: String| anyhow!(what);
    let transport = match args.protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
    };
    let question = Question::new(&args.to, transport, spoken(args)?).map_err(said)?;
    let explanation = explain(&sources, &subject, &question).map_err(said)?;
    match args.json {
        true => print_json(&explanation)?,
        false => print(&text(&explanation))?,
    }
    Ok(match explanation.verdict {
        Outcome::Allow => ExitCode::SUCCESS,
        Outcome::Deny | Outcome::Audit => DENIED.into(),
    })
}

fn subject(args: &ExplainArgs, config: Option<&Config>) -> anyhow::Result<Subject> {
    let labels = args.labels.iter().map(|label| {
        let (key, value) = label
            .split_once('=')
            .with_context(|| format!("--labels {label}: write KEY=VALUE"))?;
        Ok((key.to_owned(), value.to_owned()))
    });
    let labels: Vec<_> = labels.collect::<anyhow::Result<_>>()?;
    let endpoint = config.and_then(|config| {
        let mut endpoints = config.endpoints.iter();
        endpoints.find(|it| it.name == args.from)
    });
    let mut subject = match endpoint {
        Some(endpoint) => Subject {
            identity: identity(endpoint),
            mode: endpoint.mode,
            node: NodeView::default(),
        },
        None => Subject {
            identity: parse_identity(&args.from).map_err(|what| unknown(&what, config))?,
            ..Subject::default()
        },
    };
    if let Some(config) = config {
        let has_link = endpoint.is_some_and(|it| it.interface.is_some());
        subject.node = node(config, has_link);
    }
    subject.identity.labels.extend(labels);
    Ok(subject)
}

fn unknown(what: &str, config: Option<&Config>) -> anyhow::Error {
    match config {
        Some(_) => anyhow!("--from {what}; nor is it the name of an endpoint"),
        None => anyhow!("--from {what}"),
    }
}

fn spoken(args: &ExplainArgs) -> anyhow::Result<Option<Spoken>> {
    let (method, path) = (args.method.as_deref(), args.path.as_deref());
    let is_http = method.is_some() || path.is_some() || args.websocket || !args.header.is_empty();
    if !is_http {
        return Ok(None);
    }
    if args.protocol == Protocol::Udp {
        bail!("plain HTTP is by TCP; leave --protocol out");
    }
    let spoken = Spoken::new(method, path, &args.header, args.websocket);
    spoken.map(Some).map_err(|what| anyhow!(what))
}

fn text(explanation: &Explanation) -> String {
    let mut text = format!(
        "{} {} to {}",
        explanation.verdict.as_str(),
        explanation.from,
        explanation.to
    );
    if let Some(reason) = explanation.reason {
        text += &format!(": {reason}");
    }
    text.push('\n');
    if let Some(rule) = &explanation.rule {
        text += &format!("  rule: {} at {}\n", rule.name, rule.site);
    }
    if let Some(by) = explanation.by {
        text += &format!("  {}\n", by.words());
    }
    for note in &explanation.notes {
        text += &format!("  {note}\n");
    }
    if explanation.verdict == Outcome::Allow {
        return text;
    }
    if explanation.verdict == Outcome::Audit {
        text += "  in Audit: it passes, and is recorded\n";
    }
    if !explanation.policies.is_empty() {
        text += &format!("  selected by: {}\n", explanation.policies.join(", "));
    }
    for near in &explanation.nearest {
        text += &format!(
            "  near: {} at {}: {}\n",
            near.rule.name, near.rule.site, near.why
        );
    }
    text
}
