//! `egress-agent policy check`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use super::{Setting, counted, node, print, print_json};
use crate::{
    app::plan::identity,
    policy::{
        lint::{Finding, Known, Level, lint},
        sources::Sources,
    },
};

/// Says what is wrong in policy files, and what is probably not meant.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 without errors, 1 with errors; with --strict also with warnings. Notes are no
warnings.

Examples:
  egress-agent policy check policies/
  egress-agent policy check --strict --config config.yaml")]
pub struct CheckArgs {
    /// Policy files, or folders of them.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A configuration of `run`: its endpoints must be selected, and its policies are checked
    /// where no files are named.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Fail with warnings, too.
    #[arg(long)]
    pub strict: bool,
    /// One JSON object instead of lines.
    #[arg(long)]
    pub json: bool,
}

/// What is printed with `--json`.
#[derive(Serialize)]
struct Report {
    policies: usize,
    errors: usize,
    warnings: usize,
    notes: usize,
    findings: Vec<Finding>,
}

/// Prints every finding.
///
/// # Errors
/// There is an error, or with `strict` a warning.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let report = report(args)?;
    match args.json {
        true => print_json(&report)?,
        false => print(&report.text())?,
    }
    let (errors, warnings) = (report.errors, report.warnings);
    if errors > 0 {
        let errors = counted(errors, "error");
        bail!("policy check: {errors}; `run` takes none of these policies until they are mended");
    }
    if args.strict && warnings > 0 {
        let warnings = counted(warnings, "warning");
        bail!("policy check: {warnings}; mend them, or leave --strict out");
    }
    Ok(ExitCode::SUCCESS)
}

fn report(args: &CheckArgs) -> anyhow::Result<Report> {
    let setting = Setting::new(&args.files, args.config.as_ref())?;
    let (sources, errors) = Sources::load(&setting.files);
    let known = setting.config.as_ref().map(|config| Known {
        endpoints: config.endpoints.iter().map(identity).collect(),
        node: node(config, false),
    });
    let mut findings: Vec<_> = errors.into_iter().map(Finding::from).collect();
    findings.extend(lint(&sources, known.as_ref()));
    findings.sort_by(|a, b| a.site.cmp(&b.site));
    let count = |level| findings.iter().filter(|it| it.level == level).count();
    Ok(Report {
        policies: sources.policies.iter().count(),
        errors: count(Level::Error),
        warnings: count(Level::Warning),
        notes: count(Level::Note),
        findings,
    })
}

impl Report {
    fn text(&self) -> String {
        let mut text: String = self.findings.iter().map(line).collect();
        text += &format!(
            "{} read, {}, {}, {}\n",
            match self.policies {
                1 => "1 policy".to_owned(),
                count => format!("{count} policies"),
            },
            counted(self.errors, "error"),
            counted(self.warnings, "warning"),
            counted(self.notes, "note"),
        );
        text
    }
}

fn line(finding: &Finding) -> String {
    let (level, kind) = (finding.level.as_str(), finding.kind.as_str());
    format!("{}: {level}: {} [{kind}]\n", finding.site, finding.message)
}
