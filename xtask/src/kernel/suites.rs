//! The test programs that run in another kernel, and which tests of them.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{agent, paths, progress};

/// The core set for each kernel of the matrix, in a few minutes: every program on every hook, what
/// they make of packets, and the life of what is attached. A program's name, and parts of its tests'
/// names; none for all of them.
const CORE: [(&str, &[&str]); 11] = [
    ("object", &[]),
    ("budget", &[]),
    ("doctor", &["root_has"]),
    ("clsact", &[]),
    ("packets", &["judges", "audit_lets", "an_endpoint_opens"]),
    ("life", &[]),
    (
        "tamper",
        &["a_cgroup_link", "an_interfaces_link", "map_entries"],
    ),
    (
        "bypass",
        &["tcp_by_ipv4", "udp_by_ipv6", "a_whole_frame", "in_audit"],
    ),
    (
        "hostnetwork",
        &["allowed_name", "udp_by_ipv4", "a_raw_socket"],
    ),
    ("legitimate", &["direct_entries", "neighbours_are_found"]),
    ("exec_escapes", &["raw_sockets", "families"]),
];

/// The directories of the packages whose tests have to do with the kernel.
const PACKAGES: [&str; 2] = ["egress-agent", "tests"];

/// A test program.
struct Suite {
    name: String,
    /// The package's directory, which cargo makes the current one.
    directory: PathBuf,
    program: PathBuf,
    /// Passed to it: parts of names, or flags of the test harness.
    arguments: Vec<String>,
}

/// Test programs in the order in which they run.
pub(super) struct Suites(Vec<Suite>);

impl Suites {
    /// Builds every test program that has to do with a kernel, and what they start.
    ///
    /// # Errors
    /// Where the build fails.
    pub(super) fn build() -> Result<Self> {
        let messages = build()?;
        let suites = PACKAGES.into_iter().flat_map(|package| {
            let directory = paths::root().join(package);
            let manifest = directory.join("Cargo.toml");
            let of_package = format!(r#""manifest_path":"{}""#, manifest.display());
            let found = messages
                .lines()
                .filter(move |line| line.contains(&of_package));
            found.filter_map(executable).map(move |program| Suite {
                name: name(Path::new(program)),
                directory: directory.clone(),
                program: PathBuf::from(program),
                arguments: Vec::new(),
            })
        });
        Ok(Self(suites.collect()))
    }

    /// Those that a filter takes: a program's name stands for all its tests, everything else is
    /// the test harness's.
    ///
    /// # Errors
    /// Where there is none.
    pub(super) fn filtered(mut self, filter: &[String]) -> Result<Self> {
        let is_flag = |word: &String| word.starts_with('-');
        let names: Vec<_> = self.0.iter().map(|suite| suite.name.clone()).collect();
        let (programs, others): (Vec<_>, Vec<_>) = filter
            .iter()
            .cloned()
            .partition(|word| names.contains(word));
        let whole = |suite: &Suite| programs.contains(&suite.name);
        let has_parts = programs.is_empty() || !others.iter().all(is_flag);
        for suite in &mut self.0 {
            suite.arguments = others.clone();
            if whole(suite) {
                suite.arguments.retain(is_flag);
            }
        }
        self.0
            .retain(|suite| whole(suite) || has_parts && suite.count() > 0);
        if self.0.is_empty() {
            bail!("no test's name has {} in it", filter.join(" or "));
        }
        Ok(self)
    }

    /// The core set.
    ///
    /// # Errors
    /// Where one of its tests is not there any more.
    pub(super) fn core(mut self) -> Result<Self> {
        let mut core = Vec::new();
        for (name, tests) in CORE {
            let found = self.0.iter().position(|suite| suite.name == name);
            let mut suite = self.0.swap_remove(found.with_context(|| missing(name))?);
            for test in tests {
                suite.arguments = vec![(*test).to_owned()];
                if suite.count() == 0 {
                    bail!(missing(test));
                }
            }
            suite.arguments = tests.iter().map(|test| (*test).to_owned()).collect();
            core.push(suite);
        }
        Ok(Self(core))
    }

    /// How much it is, for people.
    pub(super) fn summary(&self) -> String {
        let tests: usize = self.0.iter().map(Suite::count).sum();
        format!("{tests} tests of {} programs", self.0.len())
    }

    /// Shell lines that run them all; `failed` then holds the names of those that failed.
    pub(super) fn script(&self) -> String {
        let mut script = String::from("failed=\n");
        for suite in &self.0 {
            let arguments: Vec<_> = suite.arguments.iter().map(|text| quoted(text)).collect();
            // Writing to a string cannot fail.
            writeln!(
                script,
                "echo '     Running {name}'\n\
                 echo 'running {name}' > /dev/ttyS1\n\
                 (cd {directory} && exec {program} {arguments}) || failed=\"$failed {name}\"",
                name = suite.name,
                directory = quoted(&suite.directory.to_string_lossy()),
                program = quoted(&suite.program.to_string_lossy()),
                arguments = arguments.join(" "),
            )
            .ok();
        }
        script
    }
}

impl Suite {
    /// How many tests its arguments choose.
    fn count(&self) -> usize {
        let mut list = Command::new(&self.program);
        list.args(&self.arguments)
            .args(["--list", "--format", "terse"]);
        let listed = progress::output(&mut list).unwrap_or_default();
        listed
            .lines()
            .filter(|line| line.ends_with(": test"))
            .count()
    }
}

fn missing(what: &str) -> String {
    format!(
        "the core set names {what}, which no test is called: mend CORE in xtask/src/kernel/suites.rs"
    )
}

/// Builds as for the tests of this machine, so that nothing is built twice; returns what cargo says
/// in its messages.
fn build() -> Result<String> {
    const WHAT: &str = "Building the tests";
    progress::say(WHAT);
    let mut cargo = agent::cargo("test");
    cargo.args(["--workspace", "--no-run"]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    let output = cargo.stderr(Stdio::inherit()).output().context(WHAT)?;
    if !output.status.success() {
        bail!("{WHAT}: cargo ended with {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The executable that one of cargo's messages tells of. xtask has no JSON parser, to be built
/// fast; cargo's paths here have nothing that JSON escapes.
fn executable(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once(r#""executable":""#)?;
    let (path, _) = rest.split_once('"')?;
    Path::new(path).parent()?.ends_with("deps").then_some(path)
}

/// `bypass` of `…/deps/bypass-0123456789abcdef`.
fn name(program: &Path) -> String {
    let file = program.file_name().unwrap_or_default().to_string_lossy();
    file.rsplit_once('-')
        .map_or(&*file, |(name, _)| name)
        .to_owned()
}

/// For the shell: between single quotes.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_in_a_message() {
        let message =
            r#"{"reason":"compiler-artifact","executable":"/t/debug/deps/life-0af","fresh":true}"#;
        assert_eq!(executable(message), Some("/t/debug/deps/life-0af"));
        assert_eq!(executable(r#"{"executable":null}"#), None);
        assert_eq!(executable(r#"{"executable":"/t/debug/attack"}"#), None);
        assert_eq!(name(Path::new("/t/debug/deps/exec_life-0af")), "exec_life");
    }

    #[test]
    fn the_shell_gets_what_was_meant() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
