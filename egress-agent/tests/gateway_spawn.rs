//! The gateway as the child that it is in production: its cgroup, its privileges, its end. Needs
//! root and cgroup v2.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use egress_agent::gateway::{
    protocol::{Configure, Endpoints, FromGateway, ToGateway},
    spawn::{GatewayProcess, SpawnError, SpawnOptions, spawn},
};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

const ID: u32 = 62_951;

/// A cgroup that is removed again.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let root = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields[2] == "cgroup2")
            .expect("cgroup v2 is mounted")[1]
            .to_owned();
        let path =
            Path::new(&root).join(format!("egress-agent-test-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("root, to make a cgroup");
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{}: left behind", self.0.display());
    }
}

fn options(cgroup: &Cgroup) -> SpawnOptions {
    SpawnOptions {
        executable: env!("CARGO_BIN_EXE_egress-agent").into(),
        cgroup: cgroup.0.clone(),
        uid: ID,
        gid: ID,
        descriptors: 0,
        inherited: Vec::new(),
    }
}

async fn next(gateway: &mut GatewayProcess) -> FromGateway {
    let next = timeout(Duration::from_secs(10), gateway.receiver.receive());
    next.await
        .expect("a message in time")
        .unwrap()
        .expect("a message")
}

async fn ready(cgroup: &Cgroup) -> (GatewayProcess, Vec<std::net::SocketAddr>) {
    let mut gateway = spawn(&options(cgroup)).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let configure = Configure::new(vec![any], vec![any]);
    gateway
        .sender
        .send(&ToGateway::Configure(configure))
        .await
        .unwrap();
    let FromGateway::Ready { listen, dns, .. } = next(&mut gateway).await else {
        panic!("not ready")
    };
    assert_eq!(dns.len(), 1);
    (gateway, listen)
}

#[tokio::test]
async fn it_has_no_privilege_and_is_in_its_cgroup() {
    let cgroup = Cgroup::new("confined");
    let (mut gateway, listen) = ready(&cgroup).await;
    let pid = gateway.process.id().unwrap();
    let procs = fs::read_to_string(cgroup.0.join("cgroup.procs")).unwrap();
    assert_eq!(procs.trim(), pid.to_string());
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(field("Uid:"), format!("{ID} {ID} {ID} {ID}"));
    assert_eq!(field("Gid:"), field("Uid:"));
    for name in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(name), "0000000000000000", "{name}");
    }
    assert_eq!(
        (field("NoNewPrivs:").as_str(), field("Groups:").as_str()),
        ("1", "")
    );
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let path = thread.unwrap().path().join("status");
        let status = fs::read_to_string(&path).unwrap();
        assert!(status.contains("\nSeccomp:\t2\n"), "{path:?}");
        assert!(status.contains("\nSeccomp_filters:\t2\n"), "{path:?}");
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        (words[0].clone(), words[1].clone())
    };
    assert_eq!(limit("Max core file size"), ("0".into(), "0".into()));
    let (soft, hard) = limit("Max open files");
    assert_eq!(soft, hard);
    let session = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = session.rsplit(") ").next().unwrap();
    assert_eq!(after_name.split(' ').nth(3), Some(pid.to_string().as_str()));
    // Nobody attached an origin here: closed, which may come before the connect returns.
    match TcpStream::connect(listen[0]).await {
        Ok(mut stream) => assert!(stream.read_u8().await.is_err()),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    let endpoints = Endpoints {
        generation: 1,
        ..Endpoints::default()
    };
    gateway
        .sender
        .send(&ToGateway::Endpoints(endpoints))
        .await
        .unwrap();
    assert_eq!(
        next(&mut gateway).await,
        FromGateway::Applied { generation: 1 }
    );
    gateway.sender.send(&ToGateway::Count).await.unwrap();
    let FromGateway::Counters(counts) = next(&mut gateway).await else {
        panic!("counters")
    };
    assert_eq!(counts.get("connections_without_origin"), Some(&1));
    gateway.process.kill().await.unwrap();
}

#[tokio::test]
async fn it_ends_with_its_control_stream() {
    let cgroup = Cgroup::new("ends");
    let (gateway, _) = ready(&cgroup).await;
    let GatewayProcess {
        sender,
        receiver,
        mut process,
    } = gateway;
    drop((sender, receiver));
    let status = timeout(Duration::from_secs(5), process.wait())
        .await
        .unwrap();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn what_cannot_be_started() {
    let cgroup = Cgroup::new("refused");
    let root = SpawnOptions {
        uid: 0,
        ..options(&cgroup)
    };
    assert!(matches!(spawn(&root), Err(SpawnError::Root)));
    let nowhere = SpawnOptions {
        cgroup: "/nonexistent".into(),
        ..options(&cgroup)
    };
    let error = spawn(&nowhere).unwrap_err().to_string();
    assert!(
        error.contains("/nonexistent/cgroup.procs: cannot put the gateway"),
        "{error}"
    );
    let nothing = SpawnOptions {
        executable: "/nonexistent/egress-agent".into(),
        ..options(&cgroup)
    };
    assert!(matches!(spawn(&nothing), Err(SpawnError::Process { .. })));
}

#[test]
fn by_hand_it_does_not_start() {
    let by_hand = std::process::Command::new(env!("CARGO_BIN_EXE_egress-agent"))
        .args(["gateway", "--control-fd", "3"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&by_hand.stderr);
    assert!(!by_hand.status.success());
    assert!(error.contains("started by the enforcer only"), "{error}");
}
