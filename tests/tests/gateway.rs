//! Connections through the gateway, with real clients.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::Config,
    internet::{self, addresses},
    process::{self, Finished, PATIENCE, finish},
    scene::Scene,
};

#[test]
fn curl_reaches_an_allowed_name_by_both_families() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    for family in ["-4", "-6"] {
        let page = scene.curl(&[family, "https://allowed.test/"])?.ok()?;
        ensure!(page.contains("name=allowed.test"), "{page}");
        for address in scene.pod.addresses() {
            ensure!(
                !page.contains(&format!("peer={address}")),
                "not by the gateway: {page}"
            );
        }
    }
    scene.capture.fence(&scene.world.node)?;
    for address in scene.pod.addresses() {
        let beside = scene.capture.from(address);
        ensure!(beside.is_empty(), "beside the gateway: {beside:?}");
    }
    let closed = agent
        .records
        .wait_for("a close record", |r| r.kind() == "connection.close")?;
    ensure!(closed.endpoint() == "shop/orders", "{closed:?}");
    ensure!(closed.text("/process/command") == "curl", "{closed:?}");
    ensure!(closed.text("/application") == "tls", "{closed:?}");
    ensure!(closed.text("/server_name") == "allowed.test", "{closed:?}");
    ensure!(closed.text("/ja4").starts_with("t13d"), "{closed:?}");
    ensure!(closed.text("/verdict") == "allow", "{closed:?}");
    ensure!(closed.text("/rule").contains("shop/orders"), "{closed:?}");
    ensure!(closed.number("/bytes_sent") > 0, "{closed:?}");
    ensure!(closed.number("/bytes_received") > 0, "{closed:?}");
    agent.records.expect_no_report()
}

#[test]
fn a_wildcard_stands_for_one_or_more_labels() -> Result<()> {
    let scene = Scene::new()?;
    let _agent = scene.enforce(&Config::default())?;
    scene.curl(&["https://www.cdn.test/"])?.ok()?;
    let to = format!("cdn.test:443:{}", internet::address4("www.cdn.test"));
    let apex = scene.curl(&["--resolve", &to, "https://cdn.test/"])?;
    ensure!(!apex.status.success(), "*.cdn.test let cdn.test pass");
    Ok(())
}

#[test]
fn a_denied_name_gets_an_alert_at_once() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    let denied = denied(&scene, "denied.test")?;
    // CURLE_SSL_CONNECT_ERROR
    ensure!(denied.status.code() == Some(35), "{}", denied.text());
    ensure!(denied.stderr.contains("alert"), "{}", denied.text());
    ensure!(
        denied.took < process::here(Duration::from_secs(2)),
        "it took {:?}",
        denied.took
    );
    for address in addresses("denied.test") {
        scene.expect_nothing(address)?;
    }
    let record = agent
        .records
        .wait_for("a record", |r| r.kind() == "connection.open")?;
    ensure!(record.verdict() == "deny", "{record:?}");
    ensure!(record.text("/server_name") == "denied.test", "{record:?}");
    Ok(())
}

#[test]
fn a_forged_name_leads_to_where_the_name_lives() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    let attacker = internet::address4("attacker.test");
    let to = format!("allowed.test:443:{attacker}");
    let page = scene
        .curl(&["--resolve", &to, "https://allowed.test/"])?
        .ok()?;
    let allowed = addresses("allowed.test");
    let server = allowed
        .iter()
        .any(|a| page.contains(&format!("server={a} ")));
    ensure!(server, "{page}");
    scene.expect_nothing(attacker.into())?;
    let record = agent
        .records
        .wait_for("a record", |r| r.kind() == "connection.open")?;
    ensure!(record.0["mismatch"] == true, "{record:?}");
    ensure!(record.is_to(attacker.into()), "{record:?}");
    Ok(())
}

#[test]
fn a_connection_that_is_not_tls_is_denied() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    scene.capture.clear();
    let denied = scene.curl(&["http://allowed.test/"])?;
    ensure!(
        denied.stdout.contains("host_not_allowed"),
        "{}",
        denied.text()
    );
    ensure!(
        denied.took < process::here(Duration::from_secs(8)),
        "it took {:?}",
        denied.took
    );
    let record = agent
        .records
        .wait_for("a record", |r| r.kind() == "connection.open")?;
    ensure!(record.verdict() == "deny", "{record:?}");
    ensure!(record.text("/application") == "http1", "{record:?}");
    for address in addresses("allowed.test") {
        let arrived: Vec<_> = scene
            .arrived(address)?
            .into_iter()
            .filter(|packet| packet.port == 80)
            .collect();
        ensure!(arrived.is_empty(), "{arrived:?}");
    }
    Ok(())
}

#[test]
fn an_opaque_connection_by_cidr_goes_to_its_original_destination() -> Result<()> {
    let scene = Scene::new()?;
    let config =
        Config::default().and_policy("    - cidrs: [\"198.51.100.0/28\"]\n      ports: [8443]\n");
    let agent = scene.enforce(&config)?;
    scene.pod.attack(&["tcp", "198.51.100.7:8443"])?.ok()?;
    let beyond = scene.pod.attack(&["tcp", "198.51.100.99:8443"])?;
    ensure!(
        !beyond.status.success(),
        "198.51.100.99 is not of the network"
    );
    let record = agent.records.wait_for("a record", |r| {
        r.kind() == "connection.open" && r.verdict() == "allow"
    })?;
    ensure!(
        record.text("/upstream") == "198.51.100.7:8443",
        "{record:?}"
    );
    Ok(())
}

#[test]
fn a_megabyte_arrives_whole() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let page = scene.curl(&["https://allowed.test/bytes/8388608"])?.ok()?;
    ensure!(page.len() == 8_388_608, "{} bytes", page.len());
    let closed = agent
        .records
        .wait_for("a close record", |r| r.kind() == "connection.close")?;
    ensure!(closed.number("/bytes_received") > 8_388_608, "{closed:?}");
    Ok(())
}

#[test]
fn two_service_accounts_have_their_own_rules() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.world.pod("shop/reports")?;
    let agent =
        egress_tests::agent::Agent::start(&scene.world, &Config::default(), &[&scene.pod, &other])?;
    scene.curl(&["https://allowed.test/"])?.ok()?;
    let authority = scene.world.internet.authority().display().to_string();
    let to = format!("allowed.test:443:{}", internet::address4("allowed.test"));
    let line = [
        "curl",
        "-sS",
        "--cacert",
        &authority,
        "--resolve",
        &to,
        "https://allowed.test/",
    ];
    let denied = other.run(&line)?;
    ensure!(
        !denied.status.success(),
        "shop/reports used the rule of shop/orders"
    );
    let record = agent.records.wait_for("a denied connection", |r| {
        r.kind() == "connection.open" && r.verdict() == "deny"
    })?;
    ensure!(record.endpoint() == "shop/reports", "{record:?}");
    Ok(())
}

#[test]
fn openssl_python_node_and_git_reach_an_allowed_name() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let authority = scene.world.internet.authority().display().to_string();

    let openssl = client(
        &scene,
        &[
            "openssl",
            "s_client",
            "-connect",
            "allowed.test:443",
            "-servername",
            "allowed.test",
            "-CAfile",
            &authority,
            "-verify_return_error",
            "-brief",
        ],
    )?;
    ensure!(
        openssl.text().contains("Verification: OK"),
        "{}",
        openssl.text()
    );

    let script = format!(
        "import ssl, urllib.request as u\n\
         c = ssl.create_default_context(cafile='{authority}')\n\
         print(u.urlopen('https://allowed.test/', context=c, timeout=10).read().decode())"
    );
    let python = client(&scene, &["python3", "-c", &script])?;
    ensure!(
        python.stdout.contains("name=allowed.test"),
        "{}",
        python.text()
    );

    let script = "require('https').get('https://allowed.test/', r => r.pipe(process.stdout))";
    let node = client(&scene, &["node", "-e", script])?;
    ensure!(node.stdout.contains("name=allowed.test"), "{}", node.text());

    git_clones(&scene)?;
    agent.records.expect_no_report()
}

#[test]
fn openssl_python_node_and_git_say_at_once_that_a_name_is_denied() -> Result<()> {
    let scene = Scene::new()?;
    let _agent = scene.enforce(&Config::default())?;
    let address = internet::address4("denied.test");
    let connect = format!("{address}:443");
    let python = format!(
        "import socket, ssl\n\
         s = socket.create_connection(('{address}', 443), 10)\n\
         ssl.create_default_context().wrap_socket(s, server_hostname='denied.test')"
    );
    let node = format!(
        "require('tls').connect({{host: '{address}', port: 443, servername: 'denied.test'}})\n\
         .on('error', e => {{ console.error(e.message); process.exit(1) }})"
    );
    let clients: [&[&str]; 3] = [
        &[
            "openssl",
            "s_client",
            "-connect",
            &connect,
            "-servername",
            "denied.test",
        ],
        &["python3", "-c", &python],
        &["node", "-e", &node],
    ];
    for line in clients {
        let denied = client(&scene, line)?;
        ensure!(!denied.status.success(), "{line:?}: {}", denied.text());
        ensure!(
            denied.text().to_lowercase().contains("alert"),
            "{line:?}: {}",
            denied.text()
        );
        ensure!(
            denied.took < process::here(Duration::from_secs(5)),
            "{line:?} took {:?}",
            denied.took
        );
    }
    Ok(())
}

#[test]
fn the_gateway_runs_without_privilege() -> Result<()> {
    let scene = Scene::new()?;
    let agent = scene.enforce(&Config::default())?;
    let agent_pid = agent.pid()?;
    let mut found = false;
    for entry in fs::read_dir("/proc")?.flatten() {
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if !status.contains(&format!("\nPPid:\t{agent_pid}\n")) {
            continue;
        }
        found = true;
        for line in [
            "Uid:\t62951\t62951",
            "CapEff:\t0000000000000000",
            "CapPrm:\t0000000000000000",
            "NoNewPrivs:\t1",
        ] {
            ensure!(status.contains(line), "no {line} in\n{status}");
        }
    }
    ensure!(found, "the agent {agent_pid} has no child");
    Ok(())
}

/// A connection to a name's own address, whatever its look-up says.
fn denied(scene: &Scene, name: &str) -> Result<Finished> {
    let to = format!("{name}:443:{}", internet::address4(name));
    scene.curl(&["--resolve", &to, &format!("https://{name}/")])
}

/// Any program in the pod, trusting the internet's authority where it can be told by environment.
fn client(scene: &Scene, line: &[&str]) -> Result<Finished> {
    let mut command = scene.pod.command(line[0])?;
    command
        .args(&line[1..])
        .env("NODE_EXTRA_CA_CERTS", scene.world.internet.authority())
        .env("GIT_SSL_CAINFO", scene.world.internet.authority())
        .env("HOME", scene.world.scratch().file(""));
    finish(&mut command, PATIENCE)
}

/// git clones a repository that repo.test serves as files.
fn git_clones(scene: &Scene) -> Result<()> {
    let repository = scene.world.internet.files().join("repo.git");
    let work: PathBuf = scene.world.scratch().file("work");
    let script = format!(
        "set -e; git init -q -b main {work}; cd {work}; echo hello > file; git add file; \
         git -c user.name=t -c user.email=t@t.test commit -qm first; \
         git clone -q --bare . {repository}; cd {repository}; git update-server-info",
        work = work.display(),
        repository = repository.display(),
    );
    let mut made = std::process::Command::new("sh");
    made.args(["-c", &script])
        .env("HOME", scene.world.scratch().file(""));
    finish(&mut made, PATIENCE)?
        .ok()
        .context("making a repository")?;
    let clone = scene.world.scratch().file("clone");
    let cloned = client(
        scene,
        &[
            "git",
            "clone",
            "-q",
            "https://repo.test/repo.git",
            &clone.display().to_string(),
        ],
    )?;
    ensure!(cloned.status.success(), "{}", cloned.text());
    ensure!(clone.join("file").exists(), "the clone has no file");
    Ok(())
}
