//! Progress on the terminal: what is being done, and for how long.

use std::{
    io::{IsTerminal as _, Read as _, Write as _},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How long a quiet command may be quiet before a line says that it is still at it.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Prints one line of progress with the time since the start.
pub(crate) fn say(text: &str) {
    let elapsed = start().elapsed().as_secs();
    let (bold, plain) = if std::io::stderr().is_terminal() {
        ("\x1b[1m", "\x1b[0m")
    } else {
        ("", "")
    };
    let line = format!(
        "{bold}[{:>2}:{:02}] {text}{plain}\n",
        elapsed / 60,
        elapsed % 60
    );
    // Progress that cannot be shown is no reason to stop.
    std::io::stderr().write_all(line.as_bytes()).ok();
}

/// Runs a command that shows its own progress.
///
/// # Errors
/// Where it cannot be started or ends with another status than 0.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<()> {
    say(what);
    let status = command
        .status()
        .with_context(|| format!("{what}: could not start {}", shown(command)))?;
    if !status.success() {
        bail!("{what}: `{}` ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs a command whose output matters only if it fails; says every 15 seconds that it runs.
///
/// # Errors
/// Where it cannot be started or ends with another status than 0; then its output is printed.
pub(crate) fn run_quietly(what: &str, command: &mut Command) -> Result<()> {
    say(what);
    let begun = Instant::now();
    let (mut reader, writer) = std::io::pipe().context("could not make a pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("could not copy a pipe")?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("{what}: could not start {}", shown(command)))?;
    // The command holds the pipe's other end until it is dropped or given others.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, ended) = mpsc::channel();
    let output = thread::spawn(move || {
        let mut text = Vec::new();
        let result = reader.read_to_end(&mut text);
        // Nobody waiting any more means that the parent failed before.
        sender.send(()).ok();
        result.map(|_length| text)
    });
    while ended.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
        say(&format!(
            "  … still at it after {} s: {what}",
            begun.elapsed().as_secs()
        ));
    }
    let status = child
        .wait()
        .with_context(|| format!("{what}: could not wait"))?;
    if status.success() {
        return Ok(());
    }
    if let Ok(Ok(text)) = output.join() {
        std::io::stderr()
            .write_all(&text)
            .context("could not print the output")?;
    }
    bail!(
        "{what}: `{}` ended with {status}; its output is above",
        shown(command)
    );
}

/// A command's standard output, trimmed; `None` where it fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}
