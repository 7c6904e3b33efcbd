//! `egress-agent policy diff`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{load, print, print_json};
use crate::policy::{
    diff::{Change, Diff, SelectionDiff, diff},
    port::PortRange,
};

/// The exit status where something differs.
const DIFFERENT: u8 = 2;

/// How many exceptions of one line are shown.
const BUT_FOR_MAX: usize = 8;

/// Says what becomes allowed and denied from one set of policies to another.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 where the two allow the same, 2 where they do not, 1 on an error.

Examples:
  egress-agent policy diff old/ new/
  egress-agent policy diff policy.yaml policy.new.yaml")]
pub struct DiffArgs {
    /// The policies before: a file or a folder.
    #[arg(value_name = "BEFORE")]
    pub before: PathBuf,
    /// The policies after: a file or a folder.
    #[arg(value_name = "AFTER")]
    pub after: PathBuf,
    /// One JSON object instead of lines.
    #[arg(long)]
    pub json: bool,
}

/// Prints what differs.
///
/// # Errors
/// A file cannot be used.
pub fn run(args: &DiffArgs) -> anyhow::Result<ExitCode> {
    let [before, after] = [&args.before, &args.after].map(|path| load(std::slice::from_ref(path)));
    let diff = diff(&before?.policies, &after?.policies);
    match args.json {
        true => print_json(&diff)?,
        false => print(&text(&diff))?,
    }
    Ok(match diff.is_empty() {
        true => ExitCode::SUCCESS,
        false => DIFFERENT.into(),
    })
}

fn text(diff: &Diff) -> String {
    let mut text: String = diff.selections.iter().map(selection).collect();
    if diff.is_empty() {
        text += "the same is allowed\n";
    }
    text
}

fn selection(diff: &SelectionDiff) -> String {
    let mut text = format!("{}\n", diff.selection);
    if let Some((before, after)) = diff.mode {
        text += &format!("  mode {before:?} becomes {after:?}\n");
    }
    text.extend(diff.allowed.iter().map(|it| change("+ allowed", it)));
    text.extend(diff.denied.iter().map(|it| change("- denied", it)));
    for covered in &diff.covered {
        let by = covered.by.join(", ");
        text += &format!("  = still allowed {}, by {by}\n", covered.what);
    }
    text
}

fn change(sign: &str, change: &Change) -> String {
    let but_for = match change.but_for.as_slice() {
        [] => String::new(),
        few if few.len() <= BUT_FOR_MAX => format!(" (but for {})", few.join(", ")),
        many => {
            let (shown, more) = many.split_at(BUT_FOR_MAX);
            format!(" (but for {}, {} more)", shown.join(", "), more.len())
        }
    };
    format!(
        "  {sign} {} {}{but_for}\n",
        change.what,
        ports(&change.ports)
    )
}

fn ports(ports: &[PortRange]) -> String {
    let list: Vec<_> = ports.iter().map(ToString::to_string).collect();
    match ports {
        [PortRange::ALL] => "on every port".to_owned(),
        [_] => format!("on port {}", list.join(", ")),
        _ => format!("on ports {}", list.join(", ")),
    }
}
