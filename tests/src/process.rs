//! Running programs to their end, but not for ever; and waiting for things to become true.

use std::{
    env,
    io::Read,
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How long a program may take that is not told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Names by how many times longer everything may take, on a machine that is that much slower: an
/// emulated one.
const FACTOR: &str = "EGRESS_TESTS_PATIENCE";

/// What a program left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, as text.
    pub stdout: String,
    /// Its standard error, as text.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Finished {
    /// Standard output, where the program ended well.
    ///
    /// # Errors
    /// With its output where it did not.
    pub fn ok(self) -> Result<String> {
        if !self.status.success() {
            bail!("ended with {}: {}{}", self.status, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }

    /// Both outputs, for messages.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs to the end, or kills after `patience`.
///
/// # Errors
/// Where it cannot be started or takes too long.
pub fn finish(command: &mut Command, patience: Duration) -> Result<Finished> {
    let begun = Instant::now();
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start {name}: cargo xtask setup test"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = wait(&mut child, patience);
    if status.is_err() {
        child.kill().ok();
        child.wait().ok();
    }
    let text = |reader: thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    let status = status.with_context(|| format!("{name} printed: {stdout}{stderr}"))?;
    Ok(Finished {
        status,
        stdout,
        stderr,
        took: begun.elapsed(),
    })
}

/// Waits for the end of a child.
///
/// # Errors
/// Where it takes longer than `patience`; it is left running.
pub fn wait(child: &mut Child, patience: Duration) -> Result<ExitStatus> {
    let patience = here(patience);
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("could not wait")? {
            return Ok(status);
        }
        if begun.elapsed() > patience {
            bail!("process {} is still running after {patience:?}", child.id());
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Sends a signal to a child that was not waited for.
///
/// # Errors
/// Where the kernel refuses.
pub fn signal(child: &Child, signal: i32) -> Result<()> {
    let pid = i32::try_from(child.id()).context("a pid")?;
    // SAFETY: kill(2) with integers; the pid is the child's, which was not waited for.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).context("could not send a signal"),
    }
}

/// Asks until there is an answer, for as long as [`PATIENCE`].
///
/// # Errors
/// Where asking fails, or nothing comes.
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    within(PATIENCE, what, ask)
}

/// Asks until there is an answer, for as long as `patience`.
///
/// # Errors
/// Where asking fails, or nothing comes.
pub fn within<T>(
    patience: Duration,
    what: &str,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let patience = here(patience);
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if begun.elapsed() > patience {
            bail!("waited {patience:?} in vain for {what}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A time-out on this machine.
///
/// # Panics
/// Where the factor that the environment names is no whole number.
pub fn here(patience: Duration) -> Duration {
    static MEMORY: OnceLock<u32> = OnceLock::new();
    let factor = MEMORY.get_or_init(|| match env::var(FACTOR) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{FACTOR} is {text}: set a whole number")),
        Err(_unset) => 1,
    });
    patience * *factor
}

fn collect(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before an error is still worth showing.
            stream.read_to_end(&mut bytes).ok();
        }
        bytes
    })
}
