//! Clients with network stacks of their own: Go's, and Chromium's with its own resolver, its own
//! address sorting, QUIC and ECH.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use egress_tests::{
    agent::Config,
    exec::Exec,
    process::{Finished, PATIENCE, finish},
    records::Records,
    scene::Scene,
    world::World,
};

/// A browser takes its time, above all beside other tests.
const BROWSER: Duration = Duration::from_secs(60);

/// No background services, and a profile of its own: what it does it was asked for.
const CHROMIUM: [&str; 12] = [
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-features=OptimizationHints,MediaRouter",
    "--ignore-certificate-errors",
    "--dump-dom",
];

const GO: &str = r#"
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
)

func main() {
	addresses, err := net.LookupHost("allowed.test")
	if err != nil {
		panic(err)
	}
	fmt.Println(addresses)
	page, err := http.Get("https://allowed.test/")
	if err != nil {
		panic(err)
	}
	io.Copy(consumer{}, page.Body)
}

type consumer struct{}

func (consumer) Write(bytes []byte) (int, error) { return fmt.Print(string(bytes)) }
"#;

/// A static program, as most of Go's are: it asks no C library for names.
fn go(world: &World) -> Result<PathBuf> {
    let source = world.scratch().write("get.go", GO)?;
    let program = world.scratch().file("get");
    let mut build = std::process::Command::new("go");
    build
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=mod")
        .env("GOCACHE", world.scratch().file("go-cache"))
        .env("HOME", world.scratch().file(""))
        .args(["build", "-o"])
        .arg(&program)
        .arg(&source);
    finish(&mut build, Duration::from_secs(120))?.ok()?;
    Ok(program)
}

fn chromium(world: &World, url: &str) -> Vec<String> {
    let profile = world.scratch().file("profile");
    let own = [format!("--user-data-dir={}", profile.display()), url.into()];
    CHROMIUM.map(str::to_owned).into_iter().chain(own).collect()
}

fn expect_page(done: &Finished) -> Result<()> {
    ensure!(done.stdout.contains("name=allowed.test"), "{}", done.text());
    Ok(())
}

/// A browser calls home, and is told that it may not; of the page that it was asked for, and of its
/// address sorting, nothing is reported.
fn expect_calls_home_alone(records: &Records) -> Result<()> {
    let others = records.matching(|record| {
        let refused_name = record.kind() == "dns" && record.text("/name") != "allowed.test.";
        record.kind().starts_with("bypass") || record.verdict() == "deny" && !refused_name
    })?;
    ensure!(others.is_empty(), "{others:#?}");
    Ok(())
}

#[test]
fn go_in_a_pod_and_in_exec() -> Result<()> {
    let scene = Scene::new()?;
    let program = go(&scene.world)?;
    let mut agent = scene.enforce(&Config::default())?;
    let mut command = scene.pod.command(&program)?;
    command.env("SSL_CERT_FILE", scene.world.internet.authority());
    expect_page(&finish(&mut command, PATIENCE)?)?;
    agent.stop()?;
    agent.records.expect_no_report()?;

    let exec = Exec::new(&scene.world, &["--allow", "allowed.test"]);
    expect_page(&exec.run(&[&program.display().to_string()])?)?;
    exec.records().expect_no_report()
}

#[test]
fn chromium_in_a_pod() -> Result<()> {
    let scene = Scene::new()?;
    let mut agent = scene.enforce(&Config::default())?;
    let line = chromium(&scene.world, "https://allowed.test/");
    expect_page(&scene.pod.run_for(BROWSER, &line)?)?;
    agent.stop()?;
    expect_calls_home_alone(&agent.records)
}

#[test]
fn chromium_in_exec() -> Result<()> {
    let world = World::new()?;
    let exec = Exec::new(&world, &["--allow", "allowed.test"]);
    let line = chromium(&world, "https://allowed.test/");
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    expect_page(&finish(&mut exec.command(&line)?, BROWSER)?)?;
    expect_calls_home_alone(&exec.records())
}

#[test]
fn chromium_says_that_a_name_is_denied() -> Result<()> {
    let world = World::new()?;
    let exec = Exec::new(&world, &["--allow", "allowed.test"]);
    let line = chromium(&world, "https://denied.test/");
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let done = finish(&mut exec.command(&line)?, BROWSER)?;
    ensure!(!done.stdout.contains("hello"), "{}", done.text());
    exec.records().wait_for("the refused name", |record| {
        record.kind() == "dns" && record.text("/name").starts_with("denied.test")
    })?;
    Ok(())
}
