//! The agent's records, as tests ask about them.

use std::{fs, net::IpAddr, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::process;

/// One record: a line of JSON.
#[derive(Debug, Clone)]
pub struct Record(pub Value);

impl Record {
    /// Its kind, e.g. `bypass`.
    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// A text by its JSON pointer; empty where it is not there.
    pub fn text(&self, pointer: &str) -> &str {
        self.0
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// A number by its JSON pointer; 0 where it is not there.
    pub fn number(&self, pointer: &str) -> u64 {
        self.0
            .pointer(pointer)
            .and_then(Value::as_u64)
            .unwrap_or_default()
    }

    /// The name of the endpoint.
    pub fn endpoint(&self) -> &str {
        self.text("/endpoint/name")
    }

    /// Why.
    pub fn reason(&self) -> &str {
        self.text("/reason")
    }

    /// `allow`, `deny` or `audit`.
    pub fn verdict(&self) -> &str {
        self.text("/verdict")
    }

    /// Whether it is of an attempt to reach the address.
    pub fn is_to(&self, destination: IpAddr) -> bool {
        self.text("/destination").parse() == Ok(destination)
    }

    /// How many attempts it stands for.
    pub fn count(&self) -> u64 {
        match self.kind() {
            "bypass" => 1,
            "bypass.repeated" => self.number("/repeats"),
            _ => self.number("/count").max(1),
        }
    }
}

/// The file that the agent writes its records to.
#[derive(Debug, Clone)]
pub struct Records {
    path: PathBuf,
}

impl Records {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Every record so far.
    ///
    /// # Errors
    /// Where a whole line is no JSON.
    pub fn all(&self) -> Result<Vec<Record>> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        // A line without its end is still being written.
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| {
                serde_json::from_str(line)
                    .map(Record)
                    .with_context(|| format!("a record is no JSON: {line}"))
            })
            .collect()
    }

    /// Records for which `wanted` holds.
    ///
    /// # Errors
    /// As [`all`](Self::all).
    pub fn matching(&self, wanted: impl Fn(&Record) -> bool) -> Result<Vec<Record>> {
        Ok(self.all()?.into_iter().filter(wanted).collect())
    }

    /// Waits for the first record for which `wanted` holds.
    ///
    /// # Errors
    /// With every record there is, where none comes within [`process::PATIENCE`].
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Record) -> bool) -> Result<Record> {
        let found = process::eventually(what, || Ok(self.matching(&wanted)?.into_iter().next()));
        found.with_context(|| format!("the records are {:#?}", self.all()))
    }

    /// Reports of an attempt to go around the gateway.
    ///
    /// # Errors
    /// As [`all`](Self::all).
    pub fn bypasses(&self) -> Result<Vec<Record>> {
        self.matching(|record| record.kind() == "bypass")
    }

    /// That nothing was reported: no bypass, no refused name, no denied connection, no loss.
    ///
    /// # Errors
    /// With what was.
    pub fn expect_no_report(&self) -> Result<()> {
        let reports = self.matching(|record| {
            let kind = record.kind();
            kind.starts_with("bypass") || kind == "lost" || record.verdict() == "deny"
        })?;
        ensure!(
            reports.is_empty(),
            "legitimate use was reported: {reports:#?}"
        );
        Ok(())
    }
}
