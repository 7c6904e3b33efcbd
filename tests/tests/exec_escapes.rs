//! What a command tries to get out of `egress-agent exec`. Each is tried without it, too, where the
//! machine lets that be shown.

use std::{
    fs, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::PermissionsExt as _,
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    capture::Capture,
    exec::Exec,
    process::{Finished, PATIENCE, finish},
    tools,
    world::{World, nowhere4, nowhere6},
};

/// `call(number, …)` prints how a system call ended.
const PRELUDE: &str = "
import ctypes, errno, fcntl, os, socket, struct, sys, termios
libc = ctypes.CDLL(None, use_errno=True)
def say(work):
    try: work(); print('ok')
    except OSError as e: print(errno.errorcode.get(e.errno, e))
def call(*arguments):
    ctypes.set_errno(0)
    done = libc.syscall(*arguments)
    print('ok' if done >= 0 else errno.errorcode[ctypes.get_errno()])
";

/// A command on the node, with nobody enforcing.
fn outside(world: &World, line: &[&str]) -> Result<Finished> {
    finish(world.node.command(line[0]).args(&line[1..]), PATIENCE)
}

/// What a Python script prints inside, and outside.
fn both(world: &World, flags: &[&str], script: &str) -> Result<(String, String)> {
    let script = format!("{PRELUDE}{script}");
    let inside = Exec::new(world, flags).python(&script)?;
    ensure!(inside.status.success(), "{}", inside.text());
    let outside = outside(world, &["python3", "-c", &script])?;
    Ok((inside.stdout, outside.stdout))
}

/// That nothing came from a command to either of the addresses.
fn nothing_arrived(world: &World, capture: &Capture) -> Result<()> {
    capture.fence(&world.node)?;
    for to in [nowhere4(7), nowhere6(7)] {
        let arrived = capture.to(to);
        ensure!(arrived.is_empty(), "arrived at {to}: {arrived:?}");
    }
    Ok(())
}

#[test]
fn packets_of_every_kind() -> Result<()> {
    let world = World::new()?;
    let capture = world.capture()?;
    let attack = tools::attack()?.display().to_string();
    for (attempt, reported) in [
        (&["udp", "198.51.100.7:4000", "x"][..], "direct_udp"),
        (&["udp", "[2001:db8:100::7]:4000", "x"], "direct_udp"),
        (&["udp", "198.51.100.7:443", "x"], "quic"),
        (&["udp-connected", "198.51.100.7:4000", "x"], "direct_udp"),
        (&["tcp", "198.51.100.7:853"], "encrypted_dns"),
        (&["tcp", "169.254.169.254:80"], "metadata_service"),
        (&["tcp", "192.0.2.2:22"], "node"),
    ] {
        let exec = Exec::new(&world, &["--allow", "allowed.test"]);
        let line: Vec<&str> = [attack.as_str()].iter().chain(attempt).copied().collect();
        let done = exec.run(&line)?;
        ensure!(
            done.stdout.contains("EPERM"),
            "{attempt:?}: {}",
            done.text()
        );
        ensure!(
            done.stderr.contains("0 allowed, 0 denied, 1 dropped")
                && done.stderr.contains(reported),
            "{attempt:?}: {}",
            done.stderr
        );
    }
    nothing_arrived(&world, &capture)?;
    outside(&world, &[&attack, "udp", "198.51.100.7:4000", "x"])?.ok()?;
    capture.fence(&world.node)?;
    ensure!(!capture.to(nowhere4(7)).is_empty(), "the capture is blind");
    Ok(())
}

#[test]
fn connections_to_an_address() -> Result<()> {
    let world = World::new()?;
    let capture = world.capture()?;
    let attack = tools::attack()?.display().to_string();
    let exec = Exec::new(&world, &["--allow", "allowed.test"]);
    for attempt in ["tcp", "tcp-fastopen"] {
        for to in ["198.51.100.7:8443", "[2001:db8:100::7]:8443"] {
            let done = exec.run(&[&attack, attempt, to])?;
            ensure!(
                done.stderr.contains("1 denied"),
                "{attempt}: {}",
                done.text()
            );
        }
    }
    nothing_arrived(&world, &capture)
}

#[test]
fn raw_sockets_and_frames() -> Result<()> {
    let world = World::new()?;
    let capture = world.capture()?;
    let attack = tools::attack()?.display().to_string();
    for attempt in [
        &["ping", "198.51.100.7"][..],
        &["ping-raw", "198.51.100.7"],
        &["ping-raw", "2001:db8:100::7"],
        &["raw", "198.51.100.7", "47"],
        &["raw-header", "192.0.2.2", "198.51.100.7", "4000"],
        &[
            "frame",
            "eth0",
            "02:00:00:00:00:01",
            "192.0.2.2",
            "198.51.100.7",
            "4000",
        ],
    ] {
        let line: Vec<&str> = [attack.as_str()].iter().chain(attempt).copied().collect();
        let done = Exec::new(&world, &[]).run(&line)?;
        ensure!(!done.status.success(), "{attempt:?}: {}", done.text());
    }
    nothing_arrived(&world, &capture)
}

#[test]
fn socket_families_that_no_layer_sees() -> Result<()> {
    let world = World::new()?;
    // AF_PACKET, AF_VSOCK, AF_ALG, AF_KEY, AF_BLUETOOTH, AF_TIPC, AF_SMC, AF_XDP
    // (include/linux/socket.h); the upper half of the argument means nothing to the kernel.
    let (inside, outside) = both(
        &world,
        &[],
        "
for family in (17, 40, 38, 15, 31, 30, 43, 44):
    for kind in (1, 2, 3, 5): call(41, ctypes.c_long(family), kind, 0)
call(41, ctypes.c_long(1 << 32 | 40), 1, 0)
call(53, 40, 1, 0, ctypes.create_string_buffer(8))",
    )?;
    let answers: Vec<&str> = inside.lines().collect();
    ensure!(answers.len() == 34, "{inside}");
    ensure!(
        answers.iter().all(|answer| *answer == "EAFNOSUPPORT"),
        "{inside}"
    );
    ensure!(
        outside.contains("ok"),
        "nothing of it works outside: {outside}"
    );
    Ok(())
}

#[test]
fn system_calls_that_make_sockets_or_ask_helpers() -> Result<()> {
    let world = World::new()?;
    // io_uring_setup, _enter, _register, add_key, request_key, keyctl, bpf; socket(2) as of the
    // x32 ABI.
    let (inside, outside) = both(
        &world,
        &[],
        "
buffer = ctypes.create_string_buffer(256)
for number in (425, 426, 427, 248, 249, 250, 321): call(number, 1, buffer, buffer, 0, 0, 0)
call(0x40000000 + 41, 2, 2, 0)",
    )?;
    ensure!(inside.lines().all(|answer| answer == "ENOSYS"), "{inside}");
    ensure!(inside.lines().count() == 8, "{inside}");
    ensure!(
        outside.lines().any(|answer| answer != "ENOSYS"),
        "nothing of it is there outside: {outside}"
    );
    Ok(())
}

#[test]
fn the_nodes_loopback_and_abstract_sockets() -> Result<()> {
    let world = World::new()?;
    let (port, name) = (4711, format!("{}-abstract", world.name()));
    let _tcp = world
        .node
        .enter(|| std::net::TcpListener::bind(("127.0.0.1", port)))??;
    let _abstract = world.node.enter(|| -> io::Result<UnixListener> {
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)
    })??;
    let (inside, outside) = both(
        &world,
        &[],
        &format!(
            "
say(lambda: socket.create_connection(('127.0.0.1', {port}), 5))
say(lambda: socket.socket(socket.AF_UNIX).connect('\\0{name}'))"
        ),
    )?;
    ensure!(inside == "ECONNREFUSED\nECONNREFUSED\n", "{inside}");
    ensure!(outside == "ok\nok\n", "{outside}");
    Ok(())
}

/// A listening socket that is removed with its directory.
struct Service {
    _listener: UnixListener,
    directory: PathBuf,
}

impl Service {
    fn new(directory: &Path) -> Result<Self> {
        fs::create_dir(directory)?;
        let listener = UnixListener::bind(directory.join("socket"))?;
        fs::set_permissions(directory.join("socket"), fs::Permissions::from_mode(0o777))?;
        Ok(Self {
            _listener: listener,
            directory: directory.to_owned(),
        })
    }

    fn path(&self) -> String {
        self.directory.join("socket").display().to_string()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("could not remove {}: {error}", self.directory.display());
        }
    }
}

#[test]
fn sockets_of_processes_outside() -> Result<()> {
    let world = World::new()?;
    // Where runtimes, systemd and D-Bus have theirs; where databases and others do; where tmux does.
    let services = [
        Service::new(&PathBuf::from("/run").join(world.name()))?,
        Service::new(&world.scratch().file("service"))?,
        Service::new(&PathBuf::from("/tmp").join(format!("tmux-{}", world.name())))?,
    ];
    for service in &services {
        let (inside, outside) = both(
            &world,
            &[],
            &format!(
                "say(lambda: socket.socket(socket.AF_UNIX).connect('{}'))",
                service.path()
            ),
        )?;
        ensure!(
            ["ENOENT\n", "ECONNREFUSED\n"].contains(&inside.as_str()),
            "{}: {inside}",
            service.path()
        );
        ensure!(outside == "ok\n", "{}: {outside}", service.path());
    }
    Ok(())
}

#[test]
fn a_terminal_multiplexer_outside() -> Result<()> {
    let world = World::new()?;
    let (socket, marker) = (world.name(), world.scratch().file("outside"));
    let tmux = |arguments: &[&str]| {
        finish(
            Command::new("tmux")
                .args(["-f", "/dev/null", "-L", socket])
                .args(arguments),
            PATIENCE,
        )
    };
    tmux(&["new-session", "-d", "sleep 60"])?
        .ok()
        .context("tmux, outside")?;
    let run = ["run-shell", &format!("touch {}", marker.display())];
    let exec = Exec::new(&world, &[]);
    let inside: Vec<&str> = ["tmux", "-L", socket].into_iter().chain(run).collect();
    let done = exec.run(&inside)?;
    let seen = marker.exists();
    let control = tmux(&run);
    tmux(&["kill-server"])?.ok()?;
    control?.ok().context("the same, outside")?;
    ensure!(!done.status.success() && !seen, "{}", done.text());
    ensure!(marker.exists(), "tmux does not do it outside either");
    Ok(())
}

#[test]
fn what_the_kernel_lets_be_written() -> Result<()> {
    let world = World::new()?;
    let done = Exec::new(&world, &[]).shell(
        "for file in /proc/sys/kernel/core_pattern /proc/sys/net/ipv4/ip_forward \
         /proc/sysrq-trigger /sys/kernel/uevent_helper \
         $(find /sys/fs/cgroup -name cgroup.procs -o -name release_agent); do \
         test -e $file && (echo 0 > $file) 2>/dev/null && echo wrote $file; \
         done; mkdir /sys/fs/cgroup/x /sys/fs/cgroup/unified/x 2>/dev/null && echo made; \
         ls /sys/fs/bpf/* /sys/kernel/debug/* /proc/kcore/* 2>/dev/null; \
         cat /proc/keys /proc/timer_list; true",
    )?;
    ensure!(done.stdout.is_empty(), "{}", done.stdout);
    Ok(())
}

#[test]
fn privileges() -> Result<()> {
    let world = World::new()?;
    let done = Exec::new(&world, &["--quiet"])
        .run(&["cat", "/proc/self/status"])?
        .ok()?;
    let field = |name: &str| {
        let line = done.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_whitespace().nth(1));
        value
            .map(str::to_owned)
            .with_context(|| format!("no {name} in {done}"))
    };
    // SYS_ADMIN 21, SYS_PTRACE 19, NET_RAW 13, NET_ADMIN 12, MKNOD 27, SYS_MODULE 16,
    // SYS_RAWIO 17, DAC_READ_SEARCH 2, BPF 39, PERFMON 38 (include/uapi/linux/capability.h).
    for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapInh:", "CapAmb:"] {
        let bits = u64::from_str_radix(&field(set)?, 16)?;
        for capability in [21, 19, 13, 12, 27, 16, 17, 2, 39, 38] {
            ensure!(
                bits & 1 << capability == 0,
                "{set} has {capability}: {bits:x}"
            );
        }
    }
    ensure!(field("NoNewPrivs:")? == "1", "{done}");
    ensure!(field("Seccomp:")? == "2", "{done}");
    ensure!(field("NSpid:")? == "2", "{done}");
    Ok(())
}

#[test]
fn programs_that_raise_privileges() -> Result<()> {
    let world = World::new()?;
    let copy = world.scratch().file("id");
    fs::copy("/usr/bin/id", &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755))?;
    let copy = copy.display().to_string();
    let done = Exec::new(&world, &["--quiet", "--user", "nobody"])
        .run(&[&copy, "-u"])?
        .ok()?;
    ensure!(done.trim() != "0", "{done}");
    let control = Command::new("setpriv")
        .args(["--reuid", "nobody", "--clear-groups", &copy, "-u"])
        .output()?;
    ensure!(
        control.stdout == b"0\n",
        "set-user-ID does nothing outside: {control:?}"
    );
    Ok(())
}

#[test]
fn mounting_and_devices() -> Result<()> {
    let world = World::new()?;
    let node = world.scratch().file("zero").display().to_string();
    outside(&world, &["mknod", &node, "c", "1", "5"])?.ok()?;
    let read = format!("head -c 1 {node} | wc -c");
    let control = outside(&world, &["sh", "-c", &read])?.ok()?;
    ensure!(control.trim() == "1", "the device is none: {control}");
    let inside = Exec::new(&world, &["--quiet"]).shell(&format!(
        "mknod {node}2 c 1 5 && echo made; mount -t tmpfs none /mnt && echo mounted; \
         umount -l /run && echo unmounted; mount -o remount,rw /sys && echo remounted; \
         {read}; ls /dev/mem /dev/kmsg /dev/sda /dev/vda /dev/net/tun /dev/fuse 2>/dev/null; true"
    ))?;
    ensure!(inside.stdout.trim() == "0", "{}", inside.text());
    Ok(())
}

#[test]
fn a_user_namespace_of_ones_own() -> Result<()> {
    let world = World::new()?;
    let capture = world.capture()?;
    let attack = tools::attack()?.display().to_string();
    // Root of a namespace may mount, make networks and cgroups: nothing of it leads out, or shows
    // what is covered.
    let script = format!(
        "umount -l /run && echo unmounted; umount -l /sys && echo unmounted; \
         mount -t proc proc /mnt && echo proc; \
         mount -o remount,rw /proc/sys && echo writable; \
         if mount -t cgroup2 none /mnt; then mkdir /mnt/own && echo cgroup; fi; \
         {attack} udp 198.51.100.7:4000 x; {attack} frame eth0 02:00:00:00:00:01 192.0.2.2 198.51.100.7 4000; \
         true"
    );
    let exec = Exec::new(&world, &[]);
    for flags in [
        "--user --map-root-user --mount --cgroup",
        "--user --map-root-user --mount --net --cgroup --pid --fork",
    ] {
        let line: Vec<&str> = ["unshare"]
            .into_iter()
            .chain(flags.split(' '))
            .chain(["sh", "-c", &script])
            .collect();
        let done = exec.run(&line)?;
        for word in ["unmounted", "writable", "cgroup", "ok after"] {
            ensure!(!done.stdout.contains(word), "{flags}: {}", done.text());
        }
    }
    nothing_arrived(&world, &capture)
}

#[test]
fn processes_outside() -> Result<()> {
    let world = World::new()?;
    let pid = std::process::id();
    let (inside, outside) = both(
        &world,
        &[],
        &format!(
            "
say(lambda: os.kill({pid}, 0))
say(lambda: os.stat('/proc/{pid}'))
call(434, {pid}, 0)
call(101, 0x4206, {pid}, 0, 0)"
        ),
    )?;
    ensure!(inside == "ESRCH\nENOENT\nESRCH\nESRCH\n", "{inside}");
    ensure!(outside.starts_with("ok\nok\nok\n"), "{outside}");
    Ok(())
}

#[test]
fn the_commands_own_pid_1() -> Result<()> {
    let world = World::new()?;
    for flags in [&["--quiet"][..], &["--quiet", "--user", "nobody"]] {
        let done = Exec::new(&world, flags).python(&format!(
            "{PRELUDE}
call(101, 16, 1, 0, 0)
say(lambda: os.readlink('/proc/1/fd/0'))
say(lambda: open('/proc/1/mem', 'r+b'))
try: os.kill(1, 9)
except OSError: pass
import time; time.sleep(0.2)
print('alive')"
        ))?;
        ensure!(
            done.stdout == "EPERM\nEACCES\nEACCES\nalive\n",
            "{flags:?}: {}",
            done.text()
        );
    }
    Ok(())
}

#[test]
fn words_in_the_terminals_input() -> Result<()> {
    let world = World::new()?;
    // TIOCSTI, with and without a high half; TIOCLINUX (ioctl_tty(2), ioctl_console(2)).
    let attempt = format!(
        "{PRELUDE}
letter = ctypes.create_string_buffer(b'x')
for request in (0x5412, 1 << 32 | 0x5412, 0x541c): call(16, 0, ctypes.c_ulong(request), letter)"
    );
    let inner = Exec::new(&world, &["--quiet"]).command(&["python3", "-c", &attempt])?;
    let terminal = "import pty, sys; pty.spawn(sys.argv[1:])";
    let mut command = world.node.command("python3");
    command
        .args(["-c", terminal])
        .arg(inner.get_program())
        .args(inner.get_args());
    let done = finish(&mut command, PATIENCE)?;
    ensure!(
        done.stdout.replace('\r', "") == "EPERM\nEPERM\nEPERM\n",
        "{}",
        done.text()
    );
    Ok(())
}

#[test]
fn descriptors_that_the_caller_left_open() -> Result<()> {
    let world = World::new()?;
    let done = Exec::new(&world, &["--quiet"])
        .shell("ls /proc/self/fd")?
        .ok()?;
    let open: Vec<&str> = done.split_whitespace().collect();
    ensure!(open == ["0", "1", "2", "3"], "beside ls's own: {open:?}");
    Ok(())
}

#[test]
fn a_daemon_that_is_left_behind() -> Result<()> {
    let world = World::new()?;
    let capture = world.capture()?;
    let attack = tools::attack()?.display().to_string();
    let marker = world.scratch().file("daemon");
    let script = format!(
        "setsid sh -c 'trap \"\" HUP TERM INT; touch {marker}; sleep 0.5; touch {marker}-later; {attack} udp 198.51.100.7:4000 x' \
         > /dev/null 2>&1 < /dev/null & while ! test -e {marker}; do sleep 0.02; done",
        marker = marker.display()
    );
    Exec::new(&world, &[]).shell(&script)?.ok()?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    ensure!(marker.exists(), "there was no daemon");
    ensure!(
        !marker.with_file_name("daemon-later").exists(),
        "it lives on"
    );
    nothing_arrived(&world, &capture)
}

#[test]
fn other_mounts_of_kernel_file_systems() -> Result<()> {
    let world = World::new()?;
    let mounts = ["proc", "cgroup2", "bpf", "sysfs"].map(|kind| (kind, world.scratch().file(kind)));
    let mut script = "mount --make-rprivate /; ".to_owned();
    for (kind, path) in &mounts {
        fs::create_dir(path)?;
        script += &format!("mount -t {kind} none {}; ", path.display());
    }
    script += "exec \"$@\"";
    let list = mounts.iter().map(|(_, path)| path.display().to_string());
    let list: Vec<_> = list.collect();
    let line: Vec<&str> = ["ls", "-A"]
        .into_iter()
        .chain(list.iter().map(String::as_str))
        .collect();
    let inner = Exec::new(&world, &["--quiet"]).command(&line)?;
    let run = |program: &std::ffi::OsStr, arguments: Vec<&std::ffi::OsStr>| {
        let mut command = world.node.command("unshare");
        command
            .args(["--mount", "sh", "-c", &script, "sh"])
            .arg(program)
            .args(arguments);
        finish(&mut command, PATIENCE)
    };
    let done = run(inner.get_program(), inner.get_args().collect())?;
    for entry in ["cgroup.procs", "kernel", "self", "cmdline"] {
        ensure!(
            !done.stdout.lines().any(|line| line == entry),
            "{}",
            done.text()
        );
    }
    let control = run(
        "ls".as_ref(),
        line[1..].iter().map(|word| (*word).as_ref()).collect(),
    )?;
    ensure!(
        control.stdout.contains("cgroup.procs"),
        "{}",
        control.text()
    );
    Ok(())
}
