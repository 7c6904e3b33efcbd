//! In Audit everything passes.

use crate::{ATTEMPTS, curl, host};
use anyhow::{Result, ensure};
use egress_tests::{
    agent::Config,
    scene::{Scene, expect_count},
    world::{nowhere4, nowhere6},
};

#[test]
fn in_audit_everything_passes_and_is_reported_once() -> Result<()> {
    for (attack, to, reason) in [
        (
            &["udp", "198.51.100.7:4000", "x"][..],
            nowhere4(7),
            "direct_udp",
        ),
        (&["udp", "[2001:db8:100::7]:443", "x"], nowhere6(7), "quic"),
        (
            &["udp-connected", "198.51.100.8:4000", "x"],
            nowhere4(8),
            "direct_udp",
        ),
        (&["tcp", "198.51.100.9:853"], nowhere4(9), "encrypted_dns"),
    ] {
        let scene = Scene::new()?;
        let host = host(&scene)?;
        let config = Config::default().audit().and_host_pod(&host);
        let mut agent = scene.enforce(&config)?;
        scene.capture.clear();
        for _ in 0..ATTEMPTS {
            let made = host.attack(attack)?;
            // Nobody listens on port 853, and says so.
            ensure!(
                made.status.success() || attack[0] == "tcp",
                "{}",
                made.text()
            );
        }
        ensure!(!scene.arrived(to)?.is_empty(), "{attack:?} did not pass");
        agent.stop()?;
        let reports = agent.records.matching(|r| r.kind() == "bypass")?;
        ensure!(reports.len() == 1, "{reports:#?}");
        ensure!(reports[0].verdict() == "audit", "{reports:#?}");
        ensure!(reports[0].reason() == reason, "{reports:#?}");
        ensure!(reports[0].endpoint() == "shop/node-agent", "{reports:#?}");
        expect_count(&agent, to, ATTEMPTS)?;
    }
    Ok(())
}

#[test]
fn in_audit_raw_sockets_connections_and_names_pass() -> Result<()> {
    let scene = Scene::new()?;
    let host = host(&scene)?;
    let agent = scene.enforce(&Config::default().audit().and_host_pod(&host))?;
    scene.capture.clear();
    host.attack(&["ping-raw", "198.51.100.7"])?.ok()?;
    ensure!(
        !scene.arrived(nowhere4(7))?.is_empty(),
        "the ping did not pass"
    );
    let page = curl(&scene, &host, &["https://denied.test/"])?.ok()?;
    ensure!(page.contains("name=denied.test"), "{page}");
    let record = agent.records.wait_for("a record", |r| {
        r.kind() == "connection.open" && r.text("/server_name") == "denied.test"
    })?;
    ensure!(record.verdict() == "audit", "{record:?}");
    ensure!(record.endpoint() == "shop/node-agent", "{record:?}");
    Ok(())
}
