//! Filters of clsact, the way onto links before Linux 6.6, which newer kernels have too. In a
//! network namespace that ends with its thread. Needs root.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{os::fd::AsFd, process::Command, thread};

use aya::{Btf, Ebpf, EbpfLoader, programs::SchedClassifier};
use egress_agent::enforcer::{
    OBJECT,
    clsact::{self, Side},
};
use rustix::thread::UnshareFlags;

/// As `enforcer/attach.rs` calls them.
const NAME: &str = "egress-agent/v1/here/links/shop+a--egress_link_out";

/// The loopback device, the first of every namespace, has no queue and takes the qdisc like a veth.
const INTERFACE: u32 = 1;

/// The object's two programs for links, of which nothing is attached.
fn programs() -> Ebpf {
    let btf = Btf::from_sys_fs().unwrap();
    let mut ebpf = EbpfLoader::new().btf(Some(&btf)).load(OBJECT).unwrap();
    for name in ["egress_link_in", "egress_link_out"] {
        let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap();
    }
    ebpf
}

fn attach(ebpf: &Ebpf, program: &str, name: &str, side: Side) -> std::io::Result<()> {
    let fd = ebpf.program(program).unwrap().fd().unwrap();
    clsact::attach(name, fd.as_fd(), INTERFACE, side)
}

/// Runs with the programs in a namespace of its own.
fn alone(test: impl FnOnce(&Ebpf) + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: this thread alone leaves the namespace, and shares nothing that is of it.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("root");
            test(&programs());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn tc(arguments: &str) -> String {
    let output = Command::new("tc")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(output.status.success(), "tc {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The programs' ids on a side, in the order in which they run.
fn ids(side: &str) -> Vec<String> {
    let shown = tc(&format!("filter show dev lo {side}"));
    let mut words = shown.split_whitespace();
    let mut ids = Vec::new();
    while let Some(word) = words.next() {
        if word == "id" {
            ids.extend(words.next().map(str::to_owned));
        }
    }
    ids
}

fn ours(name: &str, _interface: u32) -> bool {
    clsact::link_of(name, "egress-agent/v1/here/links").is_some()
}

#[test]
fn a_filter_is_replaced_in_place_and_leaves_nothing() {
    alone(|ebpf| {
        attach(ebpf, "egress_link_out", NAME, Side::Ingress).unwrap();
        attach(
            ebpf,
            "egress_link_in",
            &NAME.replace("out", "in"),
            Side::Egress,
        )
        .unwrap();
        let first = ids("ingress");
        attach(&programs(), "egress_link_out", NAME, Side::Ingress).unwrap();
        let second = ids("ingress");
        assert_eq!((first.len(), second.len(), ids("egress").len()), (1, 1, 1));
        assert_ne!(first, second, "the old program stays");
        let shown = tc("filter show dev lo ingress");
        assert!(
            shown.contains("pref 1 ") && shown.contains("direct-action"),
            "{shown}"
        );
        assert_eq!(clsact::detach(ours).unwrap(), 2);
        assert!(!tc("qdisc show dev lo").contains("clsact"));
        assert_eq!(clsact::detach(ours).unwrap(), 0);
    });
}

#[test]
fn ours_is_ahead_and_what_is_anothers_stays() {
    alone(|ebpf| {
        let there = "egress-agent/v1/there/links/a--b";
        attach(&programs(), "egress_link_out", there, Side::Ingress).unwrap();
        let other = ids("ingress");
        attach(ebpf, "egress_link_out", NAME, Side::Ingress).unwrap();
        let both = ids("ingress");
        assert_eq!(both.last(), other.first(), "ours is not ahead");
        assert_eq!(clsact::detach(ours).unwrap(), 1);
        assert_eq!(ids("ingress"), other);
        assert!(tc("qdisc show dev lo").contains("clsact"), "it is in use");
    });
}

#[test]
fn a_qdisc_that_was_there_stays() {
    alone(|ebpf| {
        tc("qdisc add dev lo clsact");
        attach(ebpf, "egress_link_out", NAME, Side::Ingress).unwrap();
        assert_eq!(clsact::detach(ours).unwrap(), 1);
        assert!(tc("qdisc show dev lo").contains("clsact"));
    });
}

#[test]
fn a_filter_without_our_name_is_anothers() {
    alone(|ebpf| {
        tc("qdisc add dev lo clsact");
        // A classic program of one instruction, which matches nothing.
        let added = Command::new("tc")
            .args("filter add dev lo ingress pref 7 bpf bytecode".split(' '))
            .arg("1,6 0 0 0,")
            .status();
        assert!(added.unwrap().success());
        attach(ebpf, "egress_link_out", NAME, Side::Ingress).unwrap();
        assert_eq!(clsact::detach(|_name, _interface| true).unwrap(), 1);
        assert!(tc("filter show dev lo ingress").contains("bytecode"));
    });
}

#[test]
fn the_older_qdisc_is_no_way() {
    alone(|ebpf| {
        tc("qdisc add dev lo ingress");
        let error = attach(ebpf, "egress_link_in", NAME, Side::Egress).unwrap_err();
        assert!(error.to_string().contains("clsact"), "{error}");
        assert!(ids("ingress").is_empty());
    });
}
