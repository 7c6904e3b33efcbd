//! Direct entries change one by one: what stays is never away, and nothing else opens.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use egress_common::direct::{GONE, HEAD};
use egress_tests::{
    agent::{Agent, Config},
    bpf, process,
    scene::Scene,
    scratch,
    world::nowhere4,
};

/// A policy of the namespaces that lets UDP pass to port 4000 of these networks.
fn direct(name: &str, namespaces: &[&str], networks: &[String]) -> String {
    format!(
        "---\n\
         apiVersion: egress-agent.dev/v1alpha1\n\
         kind: ClusterEgressPolicy\n\
         metadata: {{ name: {name} }}\n\
         spec:\n\
         \x20 selector: {{ namespaces: {namespaces:?} }}\n\
         \x20 direct:\n\
         \x20   - cidrs: {networks:?}\n\
         \x20     protocols: [UDP]\n\
         \x20     ports: [4000]\n"
    )
}

/// Addresses that nobody has, `first` and those after it.
fn addresses(first: u32, count: u32) -> impl Iterator<Item = String> {
    (first..first + count).map(|n| format!("{}/32", Ipv4Addr::from(0x0b00_0000 + n)))
}

/// Entries of the gateway's own set: its name server, by UDP and TCP.
const NAME_SERVER: usize = 2;

/// How many entries of IPv4 each set of the endpoints' has in the kernel.
fn sets(scene: &Scene) -> Result<BTreeMap<u32, usize>> {
    let pins = scratch::pins(|name| name == scene.world.name());
    let pins = pins.into_iter().next().context("nothing is pinned")?;
    let mut sets = BTreeMap::new();
    for pin in fs::read_dir(pins.join("maps"))? {
        let pin = pin?.path();
        let name = pin.file_name().unwrap_or_default().to_string_lossy();
        if let Some(place) = name.strip_prefix("DIRECT4-") {
            sets.insert(place.parse()?, entries(&bpf::Map::open(&pin)?)?);
        }
    }
    sets.retain(|_, count| *count != NAME_SERVER);
    Ok(sets)
}

fn entries(table: &bpf::Map) -> Result<usize> {
    let mut count = 0;
    for bucket in table.keys()?.into_iter().skip(HEAD as usize) {
        let bucket = table.get(&bucket)?.context("no bucket")?;
        let words = bucket
            .chunks_exact(8)
            .filter_map(|word| word.try_into().ok());
        let words = words.map(u64::from_ne_bytes);
        count += words.filter(|word| !matches!(*word, 0 | GONE)).count();
    }
    Ok(count)
}

fn reload(agent: &Agent<'_>, policy: &str) -> Result<()> {
    let before = agent.log()?.matches("reloaded").count();
    agent.reload(policy)?;
    process::eventually("the reload", || {
        let log = agent.log()?;
        ensure!(!log.contains("refused"), "{log}");
        Ok((log.matches("reloaded").count() > before).then_some(()))
    })
}

/// Sends to an address on and on, from the pod; says how many left.
fn send_until(scene: &Scene, to: IpAddr, end: &AtomicBool) -> Result<usize> {
    scene.pod.namespace.enter(|| -> Result<usize> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let mut sent = 0;
        while !end.load(Ordering::Relaxed) {
            sent += usize::from(socket.send_to(b"x", (to, 4000)).is_ok());
            thread::sleep(Duration::from_micros(500));
        }
        Ok(sent)
    })?
}

/// While entries come and go, in place and under new numbers, every packet to an entry that stays
/// passes, and none to an address that no plan has.
#[test]
fn what_stays_is_never_away_and_nothing_else_opens() -> Result<()> {
    let scene = Scene::new()?;
    let stays = nowhere4(7);
    let never = nowhere4(8);
    let policy = |round: u32| {
        let mut networks: Vec<_> = [format!("{stays}/32"), "198.18.0.0/24".into()].into();
        // A few thousand more or fewer, for which the set's map is too small or too large, or one.
        let count = if round < 4 { 5_000 } else { 200 * round };
        networks.extend(addresses(round, count));
        Config::policy(&["allowed.test"]) + &direct("base", &["shop"], &networks)
    };
    let config = Config {
        policy: policy(0),
        ..Config::default()
    };
    let agent = scene.enforce(&config)?;
    scene.capture.clear();
    let end = AtomicBool::new(false);
    let (allowed, denied) = thread::scope(|scope| {
        let allowed = scope.spawn(|| send_until(&scene, stays, &end));
        let denied = scope.spawn(|| send_until(&scene, never, &end));
        let reloaded = (1..7).try_for_each(|round| reload(&agent, &policy(round)));
        end.store(true, Ordering::Relaxed);
        let allowed = allowed.join().expect("the sender does not panic");
        let denied = denied.join().expect("the sender does not panic");
        reloaded.and(Ok((allowed?, denied?)))
    })?;
    ensure!(denied > 0, "nothing was sent that is denied");
    let arrived = scene.arrived(stays)?.len();
    ensure!(arrived == allowed, "{arrived} of {allowed} arrived");
    ensure!(scene.arrived(never)?.is_empty(), "what was denied arrived");
    let held = sets(&scene)?;
    ensure!(held.values().eq([&1_202]), "{held:?}");
    Ok(())
}

/// Endpoints with the same entries share one set, and each has its own where they differ.
#[test]
fn endpoints_with_the_same_entries_share_them() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.world.pod("bank/ledger")?;
    let both = ["shop", "bank"];
    let common: Vec<_> = addresses(0, 1_000).collect();
    let base = Config::policy(&["allowed.test"]) + &direct("base", &both, &common);
    let config = Config {
        policy: base.clone(),
        ..Config::default()
    };
    let agent = Agent::start(&scene.world, &config, &[&scene.pod, &other])?;
    let shared = sets(&scene)?;
    ensure!(shared.values().eq([&1_000]), "{shared:?}");

    // One of them gets more: it alone moves to a set of its own.
    let more = base.clone() + &direct("more", &["bank"], &["198.51.100.7/32".into()]);
    reload(&agent, &more)?;
    let apart = sets(&scene)?;
    ensure!(apart.values().eq([&1_000, &1_001]), "{apart:?}");
    ensure!(apart.keys().next() == shared.keys().next(), "{apart:?}");
    let to = nowhere4(7);
    scene.capture.clear();
    scene.pod.attack(&["udp", "198.51.100.7:4000", "x"])?;
    scene.expect_nothing(to)?;
    other.attack(&["udp", "198.51.100.7:4000", "x"])?.ok()?;
    ensure!(scene.arrived(to)?.len() == 1, "it does not pass");

    // And comes back.
    reload(&agent, &base)?;
    ensure!(sets(&scene)? == shared, "not as before");
    Ok(())
}

/// An agent that follows another takes its entries over, and writes what has changed meanwhile.
#[test]
fn entries_are_taken_over() -> Result<()> {
    let scene = Scene::new()?;
    let policy = |first: u32| {
        let networks: Vec<_> = addresses(first, 3_000).collect();
        Config::policy(&["allowed.test"]) + &direct("base", &["shop"], &networks)
    };
    let config = Config {
        policy: policy(0),
        ..Config::default()
    };
    let mut agent = scene.enforce(&config)?;
    let before = sets(&scene)?;
    agent.kill()?;
    fs::write(scene.world.scratch().file("policy.yaml"), policy(1))?;
    agent.launch()?;
    ensure!(sets(&scene)? == before, "not as many");
    std::thread::sleep(Duration::from_millis(2_200));
    let said = agent.records.matching(|r| r.text("/state") == "tampered")?;
    ensure!(said.is_empty(), "{said:?}");
    Ok(())
}

#[test]
fn a_flow_that_was_allowed_is_not_once_its_entry_has_gone() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.world.pod("shop/other")?;
    let service = other
        .namespace
        .enter(|| std::net::UdpSocket::bind((other.address4, 4000)))??;
    service.set_read_timeout(Some(Duration::from_millis(300)))?;
    let entry = "---\n\
         apiVersion: egress-agent.dev/v1alpha1\n\
         kind: ClusterEgressPolicy\n\
         metadata: { name: cluster }\n\
         spec:\n\
         \x20 direct:\n\
         \x20   - { cidrs: [\"10.1.2.5\"], ports: [4000], protocols: [UDP] }\n";
    let agent = scene.enforce(&Config::default().and_policy(entry))?;
    // One socket, so that it remembers; as a process that no cgroup hook sees, and in the pod.
    let client = scene
        .pod
        .namespace
        .enter(|| std::net::UdpSocket::bind((scene.pod.address4, 0)))??;
    client.connect((other.address4, 4000))?;
    for _ in 0..5 {
        client.send(b"x")?;
        service.recv(&mut [0; 8]).context("an entry's datagram")?;
    }
    agent.reload(&Config::default().policy)?;
    process::eventually("the entry to be gone", || {
        client.send(b"x")?;
        Ok(service.recv(&mut [0; 8]).is_err().then_some(()))
    })?;
    for _ in 0..5 {
        client.send(b"x")?;
    }
    ensure!(service.recv(&mut [0; 8]).is_err(), "it passes again");
    Ok(())
}
