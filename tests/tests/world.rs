//! The world itself, without the agent: what it proves elsewhere it must be able to see here.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Result, ensure};
use egress_tests::{
    cgroup,
    internet::{self, RESOLVER4},
    world::{self, World},
};

#[test]
fn a_pod_reaches_a_tls_server_of_the_internet_by_name() -> Result<()> {
    let world = World::new()?;
    let pod = world.pod("shop/orders")?;
    let authority = world.internet.authority().display().to_string();
    for family in ["-4", "-6"] {
        let page = pod
            .run(&[
                "curl",
                "-sS",
                family,
                "--cacert",
                &authority,
                "https://allowed.test/",
            ])?
            .ok()?;
        ensure!(page.contains("name=allowed.test"), "{page}");
        let [address4, address6] = pod.addresses();
        let peer = if family == "-4" { address4 } else { address6 };
        ensure!(page.contains(&format!("peer={peer}")), "{page}");
    }
    ensure!(
        world
            .internet
            .dns
            .queries()?
            .contains(&"A allowed.test".to_owned())
    );
    Ok(())
}

#[test]
fn the_capture_sees_what_a_pod_sends_in_both_families() -> Result<()> {
    let world = World::new()?;
    let pod = world.pod("shop/orders")?;
    let capture = world.capture()?;
    for (host, to) in [(7, world::nowhere4(7)), (8, world::nowhere6(8))] {
        let to_text = std::net::SocketAddr::new(to, 4000).to_string();
        pod.attack(&["udp", &to_text, "canary"])?.ok()?;
        capture.fence(&world.node)?;
        let seen = capture.to(to);
        ensure!(seen.len() == 1, "host {host}: {seen:?}");
        ensure!(seen[0].source == Some(pod.address_like(to)) && seen[0].contains(b"canary"));
    }
    Ok(())
}

#[test]
fn a_pod_has_its_own_cgroup_and_resolver() -> Result<()> {
    let world = World::new()?;
    let pod = world.pod("shop/orders")?;
    let of_itself = pod
        .run(&["cat", "/proc/self/cgroup", "/etc/resolv.conf"])?
        .ok()?;
    ensure!(of_itself.contains("/kubepods/burstable/pod"), "{of_itself}");
    ensure!(of_itself.contains(&RESOLVER4.to_string()), "{of_itself}");
    pod.set_resolver(IpAddr::from([127, 0, 0, 53]))?;
    let resolver = pod.run(&["cat", "/etc/resolv.conf"])?.ok()?;
    ensure!(resolver.contains("127.0.0.53"), "{resolver}");
    Ok(())
}

#[test]
fn every_host_has_a_server_at_its_own_address() -> Result<()> {
    let world = World::new()?;
    let pod = world.pod("shop/orders")?;
    for (host, _) in internet::HOSTS {
        let page = pod
            .run(&["curl", "-sS", "-4", &format!("http://{host}/")])?
            .ok()?;
        let server = internet::address4(host);
        ensure!(page.contains(&format!("server={server} ")), "{page}");
    }
    Ok(())
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    let world = World::new()?;
    let name = world.name().to_owned();
    let pod = world.pod("shop/orders")?;
    let mut sleeper = pod.command("sleep")?.arg("60").spawn()?;
    let namespace = fs::read_link(format!("/proc/{}/ns/net", sleeper.id()))?;
    drop(pod);
    drop(world);
    sleeper.wait()?;
    ensure!(!cgroup::mount()?.join(&name).exists(), "the cgroup is left");
    ensure!(
        !std::env::temp_dir().join(&name).exists(),
        "the directory is left"
    );
    for process in fs::read_dir("/proc")?.flatten() {
        let holds = fs::read_link(process.path().join("ns/net")).is_ok_and(|ns| ns == namespace);
        ensure!(
            !holds,
            "{} is still in the namespace",
            process.path().display()
        );
    }
    Ok(())
}

#[test]
fn what_a_killed_run_left_is_cleared_by_the_next() -> Result<()> {
    // No process can have this pid: it is above the largest pid_max.
    let name = format!("{}fffffff-1-0", egress_tests::owner::PREFIX);
    let cgroup = cgroup::mount()?.join(&name);
    fs::create_dir_all(cgroup.join("kubepods/burstable/pod"))?;
    let directory = std::env::temp_dir().join(&name);
    fs::create_dir_all(&directory)?;
    let running = Path::new("/run/egress-agent");
    fs::create_dir_all(running)?;
    let socket = running.join(format!("{name}.sock"));
    fs::write(&socket, "")?;
    egress_tests::scratch::clear_stale()?;
    let left = [cgroup.as_path(), &directory, &socket];
    ensure!(
        left.iter().all(|path| !Path::exists(path)),
        "something of {name} is left"
    );
    Ok(())
}
