//! The virtual machine: QEMU without virtualisation, and virtiofsd, which shows it this machine's
//! files. Both end with us, however we end, and leave nothing.

use std::{
    env,
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{guest, left_by_the_dead, package::Kernel, told::Told};
use crate::paths;

/// Of the guest. What its programs write is in it, too.
const MEMORY: &str = "3G";

/// On the first serial line is the guest's console; `-1`: a panic ends the guest. A processor that is
/// stuck in the kernel for two minutes is a panic, with its trace. Mitigations cost time, and there is
/// nobody to be kept out.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 softlockup_panic=1 watchdog_thresh=60 panic=-1 mitigations=off nokaslr";

/// Where Debian puts virtiofsd: in QEMU's package, or in one of its own.
const VIRTIOFSD: [&str; 2] = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"];

/// Boots the kernel, has process 1 run the script, and returns the status that it tells at its
/// end. What it prints goes to our standard output.
///
/// # Errors
/// Where it cannot be booted, runs for longer than `limit`, or ends without a status.
pub(super) fn run(kernel: &Kernel, script: &str, limit: Duration) -> Result<i32> {
    let files = Files::new()?;
    guest::initrd(kernel, script, &files.0)?;
    let _virtiofsd = start_virtiofsd(kernel, &files)?;
    let mut qemu = Process::start("qemu", qemu(kernel, &files).stdin(Stdio::null()))?;
    let ended = qemu.wait(limit);
    let told = fs::read_to_string(files.status()).unwrap_or_default();
    let told = Told::of(&told.replace("\r\n", "\n"));
    let ended = ended.with_context(|| format!("Linux {}: {}", kernel.version, told.progress()))?;
    let status = told.status.with_context(|| {
        format!(
            "the guest ended before its tests did (qemu ended with {ended}): {}",
            told.progress()
        )
    })?;
    if guest::updated() && !told.budget.is_empty() {
        let file = guest::budget(kernel.version);
        fs::write(&file, told.budget)
            .with_context(|| format!("could not write {}", file.display()))?;
    }
    Ok(status)
}

fn qemu(kernel: &Kernel, files: &Files) -> Command {
    let mut command = dying_with_us("qemu-system-x86_64");
    command
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ])
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            MEMORY,
        ])
        // virtiofsd reads and writes the guest's memory.
        .args(["-numa", "node,memdev=memory", "-object"])
        .arg(format!(
            "memory-backend-memfd,id=memory,size={MEMORY},share=on"
        ))
        .arg("-chardev")
        .arg(format!("socket,id=files,path={}", files.socket().display()))
        .args(["-device", "vhost-user-fs-pci,chardev=files,tag=host"])
        .args(["-serial", "stdio", "-serial"])
        .arg(format!("file:{}", files.status().display()))
        .arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(files.0.join("initrd"))
        .args(["-append", COMMAND_LINE]);
    command
}

/// Shows the machine's files read-only: in a mount namespace of its own, where everything that the
/// tests need is bound so to one directory. What is mounted elsewhere is not seen.
fn start_virtiofsd(kernel: &Kernel, files: &Files) -> Result<Process> {
    let Some(program) = VIRTIOFSD.iter().find(|path| Path::new(path).exists()) else {
        bail!("no virtiofsd here: cargo xtask setup kernel");
    };
    let mut script = String::from("set -e\nshare=$1; shift\n");
    script.push_str(
        "show() { mount --bind \"$1\" \"$share$1\"; mount -o remount,bind,ro \"$share$1\"; }\n",
    );
    script.push_str(
        "show /\nfor directory; do [ -d \"$share$directory\" ]; show \"$directory\"; done\n",
    );
    script.push_str(&format!(
        "exec {program} -f --socket-path={} -o source=\"$share\" -o cache=always -o sandbox=chroot -o log_level=err",
        files.socket().display()
    ));
    let mut command = dying_with_us("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            &script,
            "virtiofsd",
        ])
        .arg(files.share())
        .args([paths::root(), paths::target(), kernel.directory.clone()])
        .stdin(Stdio::null())
        .stderr(File::create(files.log()).context("could not make virtiofsd's log")?);
    let mut process = Process::start("virtiofsd", &mut command)?;
    process.wait_for(&files.socket()).with_context(|| {
        let log = fs::read_to_string(files.log()).unwrap_or_default();
        format!("no guest without this machine's files: {}", log.trim())
    })?;
    Ok(process)
}

/// A program that is killed should we be (setpriv(1), PR_SET_PDEATHSIG): no guest runs on.
fn dying_with_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

/// The name of a run's directory, before the number of our process.
const NAME: &str = "egress-kernel-";

/// Where this machine's files are shown, in the directory of a run.
const SHARE: &str = "share";

/// A directory of one run, removed when dropped.
struct Files(PathBuf);

impl Files {
    /// In the temporary directory, since a socket's path must be short (unix(7)).
    fn new() -> Result<Self> {
        let path = env::temp_dir().join(format!("{NAME}{}", std::process::id()));
        for left in left_by_the_dead(&env::temp_dir(), NAME) {
            remove(&left)?;
        }
        let files = Self(path);
        fs::create_dir_all(files.share())
            .with_context(|| format!("could not make {}", files.0.display()))?;
        Ok(files)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("files.sock")
    }

    /// virtiofsd's: at its end it complains that QEMU has gone.
    fn log(&self) -> PathBuf {
        self.0.join("virtiofsd.log")
    }

    fn status(&self) -> PathBuf {
        self.0.join("status")
    }

    /// Empty but in virtiofsd's mount namespace.
    fn share(&self) -> PathBuf {
        self.0.join(SHARE)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            eprintln!("{error:#}");
        }
    }
}

/// Removes the directory of a run, but nothing that is mounted in it, whatever went wrong.
fn remove(path: &Path) -> Result<()> {
    let removed = match fs::remove_dir(path.join(SHARE)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => match fs::remove_dir_all(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        },
    };
    removed.with_context(|| format!("could not remove {}", path.display()))
}

/// A program of ours, ended when dropped.
struct Process {
    what: &'static str,
    child: Child,
}

impl Process {
    fn start(what: &'static str, command: &mut Command) -> Result<Self> {
        let child = command.spawn();
        let child = child.with_context(|| format!("could not start {what}: install util-linux"))?;
        Ok(Self { what, child })
    }

    fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("could not wait")? {
                return Ok(status);
            }
            if begun.elapsed() > patience {
                bail!(
                    "{} still runs after {} minutes: it was ended",
                    self.what,
                    patience.as_secs() / 60
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_for(&mut self, path: &Path) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(10);
        let begun = Instant::now();
        while !path.exists() {
            if let Some(status) = self.child.try_wait().context("could not wait")? {
                bail!("{} ended with {status}: run as root", self.what);
            }
            if begun.elapsed() > PATIENCE {
                bail!("{} did not make {}", self.what, path.display());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
