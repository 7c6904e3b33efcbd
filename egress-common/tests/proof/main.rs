//! The decision proven: against a second, naive one, and by what must hold whatever comes.
#![allow(clippy::unwrap_used, reason = "tests and their helpers")]

mod agreement;
mod choices;
mod generate;
mod invariants;
mod naive;
mod subject;
mod world;

use std::collections::BTreeSet;

use egress_common::verdict::DropReason;
use proptest::{
    collection::vec,
    prelude::any,
    strategy::{Strategy as _, ValueTree as _},
    test_runner::{Config, TestError, TestRunner},
};

use crate::{choices::Choices, subject::shown};

/// Cases of a property; `PROPTEST_CASES` may ask for more.
const CASES: u32 = 20_000;
/// Bytes of choices in a case.
const BYTES: usize = 400;

#[test]
fn the_naive_decision_agrees_on_frames() {
    check(|from| {
        let world = generate::world(from);
        agreement::on_frame(&generate::frame(from, &world), &world);
    });
}

#[test]
fn the_naive_decision_agrees_on_calls() {
    check(|from| {
        let world = generate::world(from);
        agreement::on_call(from, &world);
    });
}

#[test]
fn invariants_hold_for_frames() {
    check(|from| {
        let world = generate::world(from);
        invariants::on_frame(&generate::frame(from, &world), &world);
    });
}

#[test]
fn invariants_hold_for_calls() {
    check(|from| {
        let world = generate::world(from);
        invariants::on_call(from, &world);
    });
}

#[test]
fn any_bytes_at_all_are_judged() {
    check(|from| {
        let world = generate::world(from);
        let length = from.below(300);
        let bytes = from.bytes(length);
        agreement::on_frame(&bytes, &world);
        invariants::on_frame(&bytes, &world);
    });
}

/// Else agreement would say little: every outcome comes up.
#[test]
fn every_outcome_is_generated() {
    let mut runner = TestRunner::deterministic();
    let mut found = BTreeSet::new();
    for _ in 0..CASES {
        let tree = vec(any::<u8>(), 0..BYTES).new_tree(&mut runner).unwrap();
        let bytes = tree.current();
        let from = &mut Choices::new(&bytes);
        let world = generate::world(from);
        let frame = generate::frame(from, &world);
        found.insert(shown(subject::judge_frame(&frame, &world)));
        let (call, named) = generate::call(from, &world);
        found.insert(shown(subject::judge_call(&call, named, &world)));
    }
    let of_hooks = [
        DropReason::RawSocket,
        DropReason::UnknownEndpoint,
        DropReason::NoEndpoint,
        DropReason::Internal,
        // Of the gateway itself.
        DropReason::RefusedNetwork,
        DropReason::PortNotNamed,
    ];
    let decided = DropReason::ALL.iter().filter(|r| !of_hooks.contains(r));
    let reasons = decided.map(|reason| reason.name());
    let wanted = reasons.chain(["allow", "to the proxy", "to the resolver"]);
    assert_eq!(found, wanted.collect());
}

/// Holds the property to that many cases, and shrinks the first that fails.
fn check(property: impl Fn(&mut Choices<'_>)) {
    let config = Config {
        cases: CASES.max(Config::default().cases),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&vec(any::<u8>(), 0..BYTES), |bytes| {
        property(&mut Choices::new(&bytes));
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, choices)) => panic!("{why}\nfrom {choices:02x?}"),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}
