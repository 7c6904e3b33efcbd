//! What a pod fills is its own: another's attempts are told of, its connections go on, and so do
//! those that the pod itself already has.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::{Agent, Config},
    echo::{self, Echo},
    pod::Pod,
    process::{self, PATIENCE},
    records::Record,
    scene::Scene,
    tools,
    world::nowhere4,
};

/// Destinations of one pod, many times as many as there are windows for.
const DESTINATIONS: u16 = 60_000;

/// Connections that are begun and never finished, many times as many as there is room for.
const SYNS: &str = "20000";

/// Of the pod's reports, how many attempts they stand for.
fn told(agent: &Agent<'_>, pod: &Pod, wanted: impl Fn(&Record) -> bool) -> Result<u64> {
    let records = agent.records.matching(|record| {
        record.kind().starts_with("bypass") && record.endpoint() == pod.name && wanted(record)
    })?;
    Ok(records.iter().map(Record::count).sum())
}

#[test]
fn a_sweep_over_destinations_is_counted_to_the_last_and_hides_nobody() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.world.pod("shop/reports")?;
    let mut agent = Agent::start(&scene.world, &Config::default(), &[&scene.pod, &other])?;
    scene.capture.clear();
    let sweep = |count: u16| -> Result<u64> {
        let attack = tools::attack()?.display().to_string();
        let line = [&attack, "udp-sweep", "198.51.100.7", &count.to_string()];
        let text = scene.pod.run_for(PATIENCE * 2, &line)?.ok()?;
        let sent = text.split_whitespace().nth(1);
        Ok(sent.context("no number of datagrams")?.parse()?)
    };
    // The first has filled what there is when the other pod speaks.
    let sent = sweep(DESTINATIONS)?;
    other.attack(&["udp", "198.51.100.8:4000", "x"])?;
    other.attack(&["tcp", "198.51.100.8:853"])?;
    let sent = sent + sweep(DESTINATIONS / 10)?;
    agent.stop()?;
    scene.expect_nothing(nowhere4(7))?;

    let all = told(&agent, &scene.pod, |_| true)?;
    ensure!(all == sent, "{sent} tried, {all} told");
    let others = told(&agent, &scene.pod, |record| {
        record.0.pointer("/others").is_some()
    })?;
    ensure!(others > sent / 2, "{others} of {sent} told as others");
    for reason in ["direct_udp", "encrypted_dns"] {
        let found = agent
            .records
            .matching(|it| it.endpoint() == other.name && it.reason() == reason)?;
        ensure!(found.len() == 1, "{reason}: {found:#?}");
        ensure!(
            found[0].text("/process/command") == "attack",
            "{reason}: {found:#?}"
        );
    }
    let counts = agent.records.matching(|record| record.kind() == "lost")?;
    ensure!(counts.is_empty(), "{counts:#?}");
    Ok(())
}

#[test]
fn connections_to_the_gateway_that_are_never_finished() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.world.pod("shop/reports")?;
    let mut config = Config::default();
    config.policy = config.policy.replace("[orders]", "[orders, reports]");
    let _agent = Agent::start(&scene.world, &config, &[&scene.pod, &other])?;
    let own = scene.pod.address4.to_string();
    let line = ["syns", &own, "169.254.64.1:15001", SYNS];
    thread::scope(|scope| -> Result<()> {
        let flood = scope.spawn(|| scene.pod.attack(&line));
        while !flood.is_finished() {
            scene.curl_in(&other, &["https://allowed.test/"])?.ok()?;
        }
        let flooded = flood.join();
        flooded
            .unwrap_or_else(|_panic| anyhow::bail!("the flood panicked"))?
            .ok()?;
        Ok(())
    })?;
    // Its own go on as well, once it has stopped.
    scene.curl(&["https://allowed.test/"])?.ok()?;
    Ok(())
}

#[test]
fn a_flood_of_inbound_connections_ends_no_established_one() -> Result<()> {
    let scene = Scene::new()?;
    let _agent = scene.enforce(&Config::default())?;
    let _server = Echo::start(scene.pod.command("python3")?)?;
    let node = &scene.world.node;
    let to = IpAddr::from(scene.pod.address4);
    let mut established = node.enter(|| echo::connect(to))??;
    echo::speak(&mut established)?;
    // From the node to a port where nobody listens: each is remembered until it is refused.
    let from = scene.pod.gateway4.to_string();
    let closed = format!("{}:9", scene.pod.address4);
    let flood = || -> Result<()> {
        let attack = tools::attack()?;
        let mut flood = node.command(attack);
        flood.args(["syns", &from, &closed, SYNS]);
        process::finish(&mut flood, PATIENCE)?.ok()?;
        Ok(())
    };
    flood()?;
    echo::speak(&mut established)?;
    flood()?;
    echo::speak(&mut established)?;
    // And new ones are taken.
    let mut new = node.enter(|| echo::connect(to))??;
    echo::speak(&mut new)
}

#[test]
fn more_connections_than_have_a_place_of_their_own() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    let to = SocketAddr::new(IpAddr::from(scene.pod.address4), 8080);
    let listener = scene.pod.namespace.enter(|| TcpListener::bind(to))??;
    // More than `MAX_FLOWS`; both ends are this process's descriptors.
    const CONNECTIONS: usize = 8_300;
    let mut both = scene.world.node.enter(|| {
        let connect = |_| -> Result<_> {
            let client = TcpStream::connect_timeout(&to, PATIENCE)?;
            Ok((client, listener.accept()?.0))
        };
        (0..CONNECTIONS).map(connect).collect::<Result<Vec<_>>>()
    })??;
    for (client, server) in &mut both {
        server.set_read_timeout(Some(PATIENCE))?;
        client.write_all(b"x")?;
        server.read_exact(&mut [0])?;
        server.write_all(b"y")?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.read_exact(&mut [0])?;
    }
    agent.stop()?;
    agent.records.expect_no_report()
}
