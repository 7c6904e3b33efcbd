//! The programs in this machine's kernel, by `BPF_PROG_TEST_RUN` over a table of packets. Nothing is
//! attached or sent. Needs root, BTF and cgroup v2.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod altered;
mod bench;
mod cgroup;
mod frame;
mod gateway;
mod kernel;
mod scene;
mod state;
mod table;

use std::collections::BTreeSet;

use egress_common::{
    endpoint::{MODE_AUDIT, MODE_ENFORCE},
    verdict::{DropReason, Verdict},
};

use crate::bench::Bench;

#[test]
fn the_link_judges_every_packet_and_frame() {
    let mut bench = Bench::link(MODE_ENFORCE);
    for case in table::packets().iter().chain(&table::frames()) {
        bench.check(case);
    }
}

#[test]
fn audit_lets_pass_at_the_link_and_counts() {
    let mut bench = Bench::link(MODE_AUDIT);
    for case in table::packets().iter().chain(&table::frames()) {
        bench.check(case);
    }
}

#[test]
fn a_sockets_egress_judges_every_packet() {
    let mut bench = Bench::socket(MODE_ENFORCE);
    for case in &table::packets() {
        bench.check(case);
    }
}

#[test]
fn audit_lets_pass_at_a_sockets_egress_and_counts() {
    let mut bench = Bench::socket(MODE_AUDIT);
    for case in &table::packets() {
        bench.check(case);
    }
}

/// Each reason that a packet can be denied for has one in the tables, or in a test beside them.
#[test]
fn every_reason_has_a_packet() {
    let beside = [
        // state.rs and gateway.rs.
        DropReason::UnknownEndpoint,
        DropReason::NoEndpoint,
        // The reason of a call, and that of an outcome that there is not.
        DropReason::RawSocket,
        DropReason::Internal,
        // Of the gateway itself: `egress_common::contain`, and tests/tests/contained.rs.
        DropReason::RefusedNetwork,
        DropReason::PortNotNamed,
    ];
    let mut found = BTreeSet::from(beside);
    for case in table::packets().iter().chain(&table::frames()) {
        if let Verdict::Deny(reason) = case.want {
            found.insert(reason);
        }
    }
    assert_eq!(found, DropReason::ALL.iter().copied().collect());
}
