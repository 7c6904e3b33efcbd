//! `egress-agent status`: what it says while the agent runs, and when it does not.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use egress_tests::{
    agent::{self, Config},
    bpf,
    process::Finished,
    scene::Scene,
    scratch,
};
use serde_json::Value;

fn status(scene: &Scene) -> Result<(Finished, Value)> {
    let name = scene.world.name();
    let told = agent::run(&scene.world, &["status", "--instance", name])?;
    let json = serde_json::from_str(&told.stdout).with_context(|| told.text())?;
    Ok((told, json))
}

fn text<'a>(json: &'a Value, pointer: &str) -> &'a str {
    json.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn count(json: &Value, pointer: &str) -> usize {
    let list = json.pointer(pointer).and_then(Value::as_array);
    list.map_or(0, Vec::len)
}

#[test]
fn a_running_agent_with_everything_attached() -> Result<()> {
    let scene = Scene::new()?;
    let host = scene.world.host_pod("shop/node-agent", "orders")?;
    let _agent = scene.enforce(&Config::default().and_host_pod(&host))?;
    scene.pod.attack(&["udp", "198.51.100.7:4000", "x"])?;
    scene.curl(&["https://allowed.test/"])?.ok()?;
    let (told, json) = status(&scene)?;
    ensure!(told.status.success(), "{}", told.text());
    ensure!(
        text(&json, "/schema") == "egress-agent.dev/status/v1",
        "{json:#}"
    );
    ensure!(json["agent"] == true && json["gateway"] == true, "{json:#}");
    ensure!(count(&json, "/gatewayAttached") == 10, "{json:#}");
    ensure!(
        text(&json, "/endpoints/0/name") == "shop/orders",
        "{json:#}"
    );
    ensure!(text(&json, "/endpoints/0/mode") == "Enforce", "{json:#}");
    ensure!(count(&json, "/endpoints/0/attached") == 12, "{json:#}");
    ensure!(count(&json, "/endpoints/1/attached") == 11, "{json:#}");
    let denied = json
        .pointer("/endpoints/0/denied")
        .and_then(Value::as_object);
    ensure!(denied.is_some_and(|denied| !denied.is_empty()), "{json:#}");
    ensure!(json.pointer("/endpoints/0/allowed").and_then(Value::as_u64) > Some(0));
    let since = json.pointer("/endpoints/0/attached/0/since");
    ensure!(since.and_then(Value::as_u64) > Some(0), "{json:#}");
    Ok(())
}

#[test]
fn something_is_not_attached_and_nobody_runs() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    agent.kill()?;
    let (told, json) = status(&scene)?;
    ensure!(told.status.success(), "{}", told.text());
    ensure!(json["agent"] == false, "{json:#}");

    let pins = scratch::pins(|name| name == scene.world.name());
    let links = pins.first().context("no pins")?.join("links");
    bpf::detach(&links.join("shop+orders--egress_connect4"))?;
    fs::remove_file(links.join("shop+orders--egress_link_out"))?;
    let names = format!("/run/egress-agent/{}.json", scene.world.name());
    fs::remove_file(names)?;
    let (told, json) = status(&scene)?;
    ensure!(!told.status.success(), "{}", told.text());
    ensure!(told.stderr.contains("egress_connect4"), "{}", told.stderr);
    ensure!(told.stderr.contains("egress_link_out"), "{}", told.stderr);
    ensure!(count(&json, "/endpoints/0/missing") == 2, "{json:#}");
    ensure!(json["endpoints"][0]["name"].is_null(), "{json:#}");
    Ok(())
}

#[test]
fn where_there_is_no_instance_it_says_so_and_detach_takes_the_names_along() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    let names = format!("/run/egress-agent/{}.json", scene.world.name());
    ensure!(fs::exists(&names)?, "no names are written");
    agent.stop()?;
    agent.detach()?.ok()?;
    ensure!(!fs::exists(&names)?, "the names are there still");
    let name = scene.world.name();
    let told = agent::run(&scene.world, &["status", "--instance", name])?;
    ensure!(!told.status.success(), "{}", told.text());
    ensure!(told.stderr.contains("nothing is pinned"), "{}", told.stderr);
    Ok(())
}
