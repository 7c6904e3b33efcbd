//! Somebody who has taken the gateway over: this very program, started again in a gateway's cgroup
//! as its user, sealed as a gateway seals itself, tries one thing. Needs root and cgroup v2.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    env, fs,
    io::Write as _,
    net::{TcpListener, TcpStream, UdpSocket},
    os::{
        fd::AsRawFd as _,
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    path::PathBuf,
    process::{Command, ExitStatus},
};

use egress_agent::gateway::{
    seal::{Landlock, calls, files},
    spawn::confine::Confinement,
};

/// Names the attempt, in the program that is started again.
const ATTEMPT: &str = "GATEWAY_SEAL_ATTEMPT";
const USER: u32 = 62_951;

/// What the attempt printed, and how the program ended.
struct Outcome {
    said: String,
    status: ExitStatus,
}

/// Makes an attempt as a gateway.
fn attempt(name: &str) -> Outcome {
    let procs = fs::OpenOptions::new().write(true).open(procs()).unwrap();
    let confinement = Confinement {
        parent: std::process::id(),
        procs: procs.as_raw_fd(),
        // It has none: the descriptor that is kept for one is the standard output.
        control: 1,
        uid: USER,
        gid: USER,
        descriptors: 0,
    };
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "inside", "--nocapture", "--test-threads=1"])
        .env(ATTEMPT, name);
    // SAFETY: between fork and exec `apply` makes only system calls, allocates nothing and takes
    // no lock.
    unsafe { command.pre_exec(move || confinement.apply(&[])) };
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let said = said.lines().find_map(|line| line.split_once("said: "));
    Outcome {
        said: said.map_or_else(String::new, |(_, said)| said.to_owned()),
        status: output.status,
    }
}

/// Of the cgroup that this test is in already.
fn procs() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut mounts = mounts.lines().map(|line| line.split(' '));
    let root = mounts.find_map(|mut fields| {
        let (place, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    });
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let root = root.expect("cgroup v2 is mounted");
    root.join(own.unwrap()).join("cgroup.procs")
}

/// What is tried inside; a test of nothing where nothing is to be tried.
#[test]
fn inside() {
    let Ok(name) = env::var(ATTEMPT) else {
        return;
    };
    let result = by_name(&name);
    let text = match result {
        Ok(()) => "done".to_owned(),
        Err(error) => format!("{error}"),
    };
    // By one call, and no more of the harness, which would want more than a gateway does.
    let line = format!("\nsaid: {text}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) }
}

fn by_name(name: &str) -> std::io::Result<()> {
    // What there is before, as a gateway's sockets are.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    let landlock = files::seal().unwrap();
    if name == "landlock" {
        return Err(std::io::Error::other(format!("{landlock:?}")));
    }
    if name != "files without seccomp" && name != "a port without seccomp" {
        calls::seal().unwrap();
    }
    match name {
        "a connection" => {
            let mut to = TcpStream::connect(at)?;
            to.set_nonblocking(true)?;
            to.set_nodelay(true)?;
            let (from, _) = listener.accept()?;
            to.write_all(b"x")?;
            from.peek(&mut [0])?;
            drop(from);
            UdpSocket::bind("127.0.0.1:0")?.send_to(b"x", at)?;
            Ok(())
        }
        "a file" | "files without seccomp" => {
            // Anybody may read it.
            fs::read("/etc/passwd").map(drop)
        }
        "a port without seccomp" => TcpListener::bind("127.0.0.1:0").map(drop),
        "execve" => Err(Command::new("/bin/true").exec()),
        "a process" => Command::new("/bin/true").status().map(drop),
        "a thread" => std::thread::Builder::new().spawn(|| {}).map(drop),
        "ptrace" => call(libc::SYS_ptrace, [libc::PTRACE_TRACEME as u64, 0, 0, 0]),
        "bpf" => call(libc::SYS_bpf, [0, 0, 0, 0]),
        "mount" => call(libc::SYS_mount, [0, 0, 0, 0]),
        "io_uring" => call(libc::SYS_io_uring_setup, [1, 0, 0, 0]),
        "unshare" => call(libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0, 0]),
        "packets" => socket(libc::AF_PACKET, libc::SOCK_RAW),
        "netlink" => socket(libc::AF_NETLINK, libc::SOCK_RAW),
        "a UNIX socket" => socket(libc::AF_UNIX, libc::SOCK_STREAM),
        "a raw socket" => socket(libc::AF_INET, libc::SOCK_RAW),
        "another's signal" => call(libc::SYS_kill, [1, 0, 0, 0]),
        "code" => {
            let size = 4096_u64;
            let kind = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
            let access = (libc::PROT_READ | libc::PROT_EXEC) as u64;
            call(libc::SYS_mmap, [0, size, access, kind])
        }
        other => panic!("no such attempt: {other}"),
    }
}

fn socket(family: libc::c_int, kind: libc::c_int) -> std::io::Result<()> {
    call(libc::SYS_socket, [family as u64, kind as u64, 0, 0])
}

fn call(number: libc::c_long, [a, b, c, d]: [u64; 4]) -> std::io::Result<()> {
    // SAFETY: pointers among the arguments are null, which the kernel answers with an error.
    match unsafe { libc::syscall(number, a, b, c, d, u64::MAX, 0_u64) } {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[test]
fn what_a_gateway_does_works() {
    let outcome = attempt("a connection");
    assert_eq!(outcome.said, "done", "{}", outcome.status);
}

#[test]
fn what_no_gateway_tries_ends_it() {
    for name in [
        "execve",
        "a process",
        "a thread",
        "ptrace",
        "bpf",
        "mount",
        "io_uring",
        "unshare",
        "packets",
        "netlink",
        "a UNIX socket",
    ] {
        let Outcome { said, status } = attempt(name);
        assert_eq!(said, "", "{name}");
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{name}: {status}");
    }
}

#[test]
fn whatever_else_is_refused() {
    for name in ["a file", "a raw socket", "another's signal", "code"] {
        let Outcome { said, status } = attempt(name);
        assert!(said.contains("not permitted"), "{name}: {said:?} {status}");
    }
}

/// Where the kernel has it, Landlock alone does, too.
#[test]
fn files_and_ports_are_refused_twice() {
    let said = attempt("landlock").said;
    let Landlock::Enforced { abi } = files::available() else {
        assert_eq!(said, format!("{:?}", files::available()));
        return;
    };
    assert!(said.starts_with("Enforced"), "{said}");
    let said = attempt("files without seccomp").said;
    assert!(said.contains("denied"), "{said}");
    let said = attempt("a port without seccomp").said;
    // From ABI 4 on.
    let expected = if abi >= 4 { "denied" } else { "done" };
    assert!(said.contains(expected), "{said}");
}
