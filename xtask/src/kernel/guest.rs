//! What runs in the guest before the tests, and after: two shell scripts for busybox. The first is
//! the initial RAM file system's `init`, which finds this machine's files; the second is process 1
//! on top of them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{
    Version,
    package::Kernel,
    suites::{Suites, quoted},
};
use crate::{paths, progress};

/// By how much the guest may be slower than this machine, for the time-outs of the tests.
const PATIENCE: u32 = 8;

/// Modules that the guest needs before it has this machine's files; where a kernel has one built
/// in, there is none to load. All others are loaded on demand from there.
const BOOT_MODULES: [&str; 3] = ["virtio_pci", "virtiofs", "overlay"];

/// The file systems that this machine's files are below, and what is written above. The second
/// script is kept where it is not in the way.
const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
fail() { $b echo "the guest could not $1"; $b poweroff -f; }
for module in $($b cat /modules/order); do $b insmod /modules/$module || fail "load $module"; done
$b mkdir -p /host /memory /system
$b mount -t virtiofs -o ro host /host || fail "mount the host's files"
$b mount -t tmpfs none /memory || fail "mount a tmpfs"
$b mkdir /memory/upper /memory/work
$b mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work none /system ||
  fail "mount an overlay"
$b mount -t tmpfs -o mode=755 run /system/run || fail "mount /run"
$b cp /guest.sh /system/run/guest.sh
exec $b switch_root /system $b sh /run/guest.sh
"#;

/// The guest's process 1: everything mounted, modules on demand, the loopback device up.
const BEFORE: &str = r#"
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
$b mkdir -p /dev/pts /dev/shm
$b mount -t devpts devpts /dev/pts
$b mount -t tmpfs shm /dev/shm
$b mount -t cgroup2 cgroup2 /sys/fs/cgroup
$b mount -t bpf bpf /sys/fs/bpf
$b stty -onlcr < /dev/ttyS0
$b mkdir -p "/lib/modules/$($b uname -r)"
$b mount --bind "$modules" "/lib/modules/$($b uname -r)"
printf '#!/bin/busybox sh\nexec /bin/busybox modprobe "$@"\n' > /run/modprobe
$b chmod 755 /run/modprobe
echo /run/modprobe > /proc/sys/kernel/modprobe
# A device file that other systems make at boot; iodine wants it.
$b modprobe tun
$b ip link set lo up
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root RUST_TEST_THREADS=2
"#;

/// Its last words: the status, where this machine reads it, and what was to be recorded.
const AFTER: &str = r#"
[ -z "$failed" ] || echo "failed:$failed"
[ -z "$failed" ]
echo "status $?" > /dev/ttyS1
[ -z "$UPDATE_BUDGET" ] || cat "$budget" > /dev/ttyS1
echo 0 > /proc/sys/kernel/printk
$b poweroff -f
"#;

/// The script of process 1, with the tests in the middle.
pub(super) fn script(kernel: &Kernel, agent: &Path, suites: &Suites) -> String {
    let path = |path: &Path| quoted(&path.to_string_lossy());
    let modules = path(&kernel.modules());
    let agent = path(agent);
    let tests = suites.script();
    let update = match updated() {
        true => format!(
            "export UPDATE_BUDGET=1\nbudget={}",
            path(&budget(kernel.version))
        ),
        false => String::new(),
    };
    format!(
        "modules={modules}\n{BEFORE}\n{update}\nexport EGRESS_AGENT={agent} EGRESS_TESTS_PATIENCE={PATIENCE}\n\
         {tests}\n{AFTER}"
    )
}

/// Whether the verifier's budget is to be recorded anew.
pub(super) fn updated() -> bool {
    env::var_os("UPDATE_BUDGET").is_some()
}

/// Where it is recorded: `egress-agent/tests/budget.rs` says how.
pub(super) fn budget(version: Version) -> PathBuf {
    paths::root().join(format!("egress-agent/tests/budget/{version}.txt"))
}

/// Makes the initial RAM file system in `directory`, with the script of process 1 in it.
///
/// # Errors
/// Where a file of the kernel's package or busybox is not where it should be.
pub(super) fn initrd(kernel: &Kernel, script: &str, directory: &Path) -> Result<()> {
    let root = directory.join("initrd.d");
    for folder in ["bin", "modules"] {
        fs::create_dir_all(root.join(folder)).context("could not make the initial file system")?;
    }
    let Some(busybox) = paths::program("busybox") else {
        bail!("no busybox here: cargo xtask setup kernel");
    };
    let busybox = static_busybox(&busybox)?;
    write(&root.join("bin/busybox"), busybox)?;
    let modules = boot_modules(kernel)?;
    for module in &modules {
        copy(
            &kernel.modules().join(module),
            &root.join("modules").join(file(module)),
        )?;
    }
    let order: Vec<_> = modules.iter().map(|module| file(module)).collect();
    write(&root.join("modules/order"), order.join("\n"))?;
    write(&root.join("init"), INIT)?;
    write(&root.join("guest.sh"), script)?;
    let pack = "chmod 755 init bin/busybox && find . | busybox cpio -o -H newc > ../initrd";
    let mut shell = Command::new("sh");
    shell.args(["-c", pack]).current_dir(&root);
    progress::run_quietly("Packing the guest's first files", &mut shell)
}

/// Its content, if it needs no library, of which the guest's first file system has none.
fn static_busybox(path: &Path) -> Result<Vec<u8>> {
    /// Part of the interpreter's name in programs that are linked dynamically.
    const INTERPRETER: &[u8] = b"/ld-linux";
    let content = fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
    if content
        .windows(INTERPRETER.len())
        .any(|part| part == INTERPRETER)
    {
        bail!(
            "{} is linked dynamically: apt-get install busybox-static, in its place",
            path.display()
        );
    }
    Ok(content)
}

/// The modules' paths below the kernel's directory of modules, each after those that it needs.
fn boot_modules(kernel: &Kernel) -> Result<Vec<String>> {
    let table = kernel.modules().join("modules.dep");
    let table = fs::read_to_string(&table)
        .with_context(|| format!("could not read {}", table.display()))?;
    let mut order: Vec<String> = Vec::new();
    for name in BOOT_MODULES {
        for module in with_needs(&table, name) {
            if !order.contains(&module) {
                order.push(module);
            }
        }
    }
    Ok(order)
}

/// A module after its needs; a line of the table has the module first and its needs' needs last.
fn with_needs(table: &str, name: &str) -> Vec<String> {
    let suffix = format!("/{name}.ko");
    let lines = table.lines().filter_map(|line| line.split_once(':'));
    let Some((module, needs)) = lines
        .into_iter()
        .find(|(module, _)| module.ends_with(&suffix))
    else {
        return Vec::new();
    };
    let mut order: Vec<_> = needs.split_whitespace().rev().map(str::to_owned).collect();
    order.push(module.to_owned());
    order
}

fn file(module: &str) -> &str {
    module.rsplit_once('/').map_or(module, |(_, file)| file)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(|_length| ())
        .with_context(|| format!("could not copy {} to {}", from.display(), to.display()))
}

fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, content).with_context(|| format!("could not write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let table = "kernel/fs/fuse/cuse.ko: kernel/fs/fuse/fuse.ko\n\
            kernel/fs/fuse/virtiofs.ko: kernel/fs/fuse/fuse.ko kernel/v/virtio.ko kernel/v/ring.ko\n\
            kernel/fs/overlayfs/overlay.ko:\n";
        let order = with_needs(table, "virtiofs");
        let files: Vec<_> = order.iter().map(|module| file(module)).collect();
        assert_eq!(files, ["ring.ko", "virtio.ko", "fuse.ko", "virtiofs.ko"]);
        assert_eq!(with_needs(table, "overlay").len(), 1);
        assert!(with_needs(table, "virtio_pci").is_empty(), "it is built in");
    }
}
