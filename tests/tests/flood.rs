//! A flood from one pod hides nothing, and costs the others nothing but its share of the machine.

use std::thread;

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::{Agent, Config},
    pod::Pod,
    process::PATIENCE,
    scene::Scene,
    tools,
    world::nowhere4,
};

/// Longer than a window of 10 s, so that the kernel restarts one in the middle.
const TIME: &str = "12000";

/// Floods from two processes at once; returns how many datagrams they tried to send.
fn flood(pod: &Pod) -> Result<u64> {
    let attack = tools::attack()?.display().to_string();
    let line = [&attack, "udp-flood", "198.51.100.7:4000", TIME];
    thread::scope(|scope| {
        let floods = [(), ()].map(|()| scope.spawn(|| pod.run_for(PATIENCE * 2, &line)?.ok()));
        floods.into_iter().try_fold(0, |all, flood| {
            let text = flood
                .join()
                .unwrap_or_else(|_panic| anyhow::bail!("a flood panicked"))?;
            let sent = text.split_whitespace().nth(1);
            let sent: u64 = sent.context("no number of datagrams")?.parse()?;
            Ok(all + sent)
        })
    })
}

#[test]
fn every_attempt_is_counted_and_another_pods_only_one_is_reported() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.world.pod("shop/reports")?;
    let mut agent = Agent::start(&scene.world, &Config::default(), &[&scene.pod, &other])?;
    scene.capture.clear();
    let sent = thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&scene.pod));
        thread::sleep(std::time::Duration::from_secs(2));
        let single = other.attack(&["udp", "198.51.100.8:4000", "x"]);
        // Allowed connections go on, even the flooder's own.
        let connected = scene.curl(&["https://allowed.test/"]);
        let sent = flooding
            .join()
            .unwrap_or_else(|_panic| anyhow::bail!("the flood panicked"))?;
        single?;
        connected?.ok()?;
        anyhow::Ok(sent)
    })?;
    agent.stop()?;
    scene.expect_nothing(nowhere4(7))?;
    let of = |pod: &Pod, to| {
        let name = pod.name.clone();
        agent.records.matching(move |record| {
            record.kind().starts_with("bypass") && record.endpoint() == name && record.is_to(to)
        })
    };
    let flood = of(&scene.pod, nowhere4(7))?;
    let told: u64 = flood.iter().map(|record| record.count()).sum();
    let first = flood.iter().filter(|record| record.kind() == "bypass");
    ensure!(told == sent, "{sent} sent, {told} told: {flood:#?}");
    ensure!(first.count() == 2, "not a report a window: {flood:#?}");
    let single = of(&other, nowhere4(8))?;
    ensure!(single.len() == 1, "{single:#?}");
    ensure!(
        single[0].text("/process/command") == "attack",
        "{single:#?}"
    );
    eprintln!("{sent} datagrams tried in 12 s, all told");
    Ok(())
}
