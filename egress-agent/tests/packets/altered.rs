//! Packets of the table, cut at every length and with every bit turned: kernel and user space
//! agree on all of them, and nothing that is cut passes.

use std::collections::BTreeMap;

use egress_common::{
    endpoint::MODE_ENFORCE,
    frame::ETHERNET_HEADER,
    verdict::{DropReason, Verdict},
};

use crate::{
    bench::{Bench, number},
    frame::at,
    kernel::{Counts, is_refused},
    scene::ID,
    table::{self, Case},
};

/// A packet's own first byte, in a frame.
const PACKET: usize = ETHERNET_HEADER as usize;

/// Runs frames and keeps account of what must have been counted in all.
struct Account {
    bench: Bench,
    counted: Counts,
}

impl Account {
    fn new(bench: Bench) -> Self {
        Self {
            bench,
            counted: BTreeMap::new(),
        }
    }

    /// Kernel and user space say the same of the frame, and the counter of that went up by one.
    /// What the kernel does not run is user space's alone.
    fn check(&mut self, what: impl Fn() -> String, frame: &[u8]) -> Verdict {
        let (verdict, _) = self.bench.judge(frame);
        if self.bench.is_link() && is_refused(frame) {
            assert_eq!(verdict, Verdict::Deny(DropReason::Truncated), "{}", what());
            return verdict;
        }
        let passed = self.bench.passes(frame);
        let reason = number(verdict);
        let count = self.counted.entry((ID, reason)).or_default();
        *count += 1;
        let agree =
            passed == self.bench.lets_pass(verdict) && self.bench.kernel.count(reason) == *count;
        assert!(
            agree,
            "{}: user space says {verdict:?}: {frame:02x?}",
            what()
        );
        verdict
    }

    /// No other counter went up, of nobody and of no endpoint.
    fn close(self) {
        assert_eq!(self.bench.kernel.all_counts(), self.counted);
    }
}

fn cut(bench: Bench, cases: &[Case], from: usize) {
    let mut account = Account::new(bench);
    for case in cases.iter().filter(|case| case.want == Verdict::Allow) {
        for length in from..end(&case.frame) {
            let what = || format!("{} cut at {length}", case.name);
            let verdict = account.check(what, &case.frame[..length]);
            assert_ne!(verdict, Verdict::Allow, "{}", what());
        }
    }
    account.close();
}

/// Where the frame ends by its own account; what follows is padding, which may be missing.
fn end(frame: &[u8]) -> usize {
    let length = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    /// Of the ethertype (IEEE 802.3); ARP for IPv4 over Ethernet has 28 bytes (RFC 826).
    const ETHERTYPE: usize = 12;
    if frame[ETHERTYPE..PACKET] == [0x08, 0x06] {
        return PACKET + 28;
    }
    match frame[at::VERSION] >> 4 {
        4 => PACKET + length(at::TOTAL4),
        6 => at::TRANSPORT6 + length(at::PAYLOAD6),
        _ => frame.len(),
    }
}

#[test]
fn nothing_that_is_cut_passes_the_link() {
    let cases: Vec<_> = table::packets()
        .into_iter()
        .chain(table::frames())
        .collect();
    cut(Bench::link(MODE_ENFORCE), &cases, PACKET);
}

#[test]
fn nothing_that_is_cut_passes_a_sockets_egress() {
    cut(Bench::socket(MODE_ENFORCE), &table::packets(), PACKET + 1);
}

fn turn_bits(bench: Bench, cases: Vec<Case>, from: usize) {
    let mut account = Account::new(bench);
    for mut case in cases {
        for bit in from * 8..case.frame.len() * 8 {
            let turned = 1 << (bit % 8);
            case.frame[bit / 8] ^= turned;
            let what = || format!("{} with bit {} of byte {}", case.name, bit % 8, bit / 8);
            account.check(what, &case.frame);
            case.frame[bit / 8] ^= turned;
        }
    }
    account.close();
}

#[test]
fn kernel_and_user_space_agree_on_every_bit_at_the_link() {
    let cases = table::packets().into_iter().chain(table::frames());
    turn_bits(Bench::link(MODE_ENFORCE), cases.collect(), 0);
}

#[test]
fn kernel_and_user_space_agree_on_every_bit_at_a_sockets_egress() {
    turn_bits(Bench::socket(MODE_ENFORCE), table::packets(), PACKET);
}
