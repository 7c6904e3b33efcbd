//! `egress-agent policy test`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::bail;
use clap::Args;

use super::{counted, print, print_json};
use crate::policy::expect::hold;

/// Holds a table of expectations against policies.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 where all is as expected, 1 otherwise.

The file:
  policies: [policy.yaml]         # or a folder; relative to this file's folder
  cases:
    - { from: shop/orders, to: \"api.payments.test:443\", expect: allow }
    - { from: shop/orders, to: cdn.test, expect: deny, reason: host_not_allowed }
    - { from: shop/orders, to: status.test, method: POST, path: /v1/a, expect: deny }")]
pub struct TestArgs {
    /// The table.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// One JSON array of all cases instead of lines of those that failed.
    #[arg(long)]
    pub json: bool,
}

/// Prints what is not as expected.
///
/// # Errors
/// Something is not as expected, or the files cannot be used.
pub fn run(args: &TestArgs) -> anyhow::Result<ExitCode> {
    let tried = hold(&args.file)?;
    let failed = tried.iter().filter(|it| it.failed.is_some()).count();
    if args.json {
        print_json(&tried)?;
    } else {
        let file = args.file.display();
        let lines = tried.iter().filter_map(|it| {
            let failed = it.failed.as_ref()?;
            Some(format!(
                "{file}:{}: {} to {}: {failed}\n",
                it.line, it.from, it.to
            ))
        });
        let mut text: String = lines.collect();
        text += &format!("{}, {failed} failed\n", counted(tried.len(), "case"));
        print(&text)?;
    }
    if failed > 0 {
        let cases = counted(failed, "case");
        bail!("policy test: {cases} not as expected; correct the policies or the table");
    }
    Ok(ExitCode::SUCCESS)
}
