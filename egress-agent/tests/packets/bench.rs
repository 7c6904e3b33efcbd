//! One hook under test, and what is checked of every packet: the kernel's verdict, the one counter
//! that went up, what was reported or published, and that user space says the same.

use egress_common::{
    attempt::{Attempt, UDP},
    endpoint::{Endpoint, HAS_LINK, MODE_AUDIT, PRIVATE_LOOPBACK},
    event::ReportKey,
    maps,
    origin::OriginQuery,
    verdict::{DropReason, Verdict},
};

use crate::{
    cgroup::Inside,
    kernel::{Counts, Kernel},
    scene::{self, ID},
    table::Case,
};

pub(crate) struct Bench {
    pub(crate) kernel: Kernel,
    mode: u8,
    /// The process's cgroup where the hook is the socket's, and none where it is the link's.
    inside: Option<Inside>,
}

impl Bench {
    /// The host side of the endpoint's veth.
    pub(crate) fn link(mode: u8) -> Self {
        let flags = HAS_LINK | PRIVATE_LOOPBACK;
        Self {
            kernel: Kernel::with(endpoint(mode, flags)),
            mode,
            inside: None,
        }
    }

    /// The egress of a socket in the endpoint's cgroup, where there is no link: what passes there
    /// is counted and published there.
    pub(crate) fn socket(mode: u8) -> Self {
        let inside = Inside::enter();
        let mut kernel = Kernel::with(endpoint(mode, 0));
        put_in_cgroup(&mut kernel, &inside);
        Self {
            kernel,
            mode,
            inside: Some(inside),
        }
    }

    pub(crate) fn is_link(&self) -> bool {
        self.inside.is_none()
    }

    /// Whether the kernel lets the frame pass.
    pub(crate) fn passes(&self, frame: &[u8]) -> bool {
        if self.is_link() {
            self.kernel.link_out(frame)
        } else {
            self.kernel.skb_egress(frame)
        }
    }

    /// What user space says of it.
    pub(crate) fn judge(&self, frame: &[u8]) -> (Verdict, Attempt) {
        if self.is_link() {
            scene::judge_frame(frame)
        } else {
            let (verdict, attempt) = scene::judge_packet(frame);
            (self.published(verdict, &attempt), attempt)
        }
    }

    /// The socket of a test run has no storage, so that nothing says that it is of the endpoint's
    /// network namespace: without a link it opens nothing with the gateway.
    fn published(&self, verdict: Verdict, attempt: &Attempt) -> Verdict {
        if !self.is_link() && verdict == Verdict::Allow && is_published(attempt) {
            return Verdict::Deny(DropReason::SpoofedAddress);
        }
        verdict
    }

    /// Whether the endpoint's mode lets a verdict pass.
    pub(crate) fn lets_pass(&self, verdict: Verdict) -> bool {
        verdict == Verdict::Allow || self.mode == MODE_AUDIT
    }

    pub(crate) fn check(&mut self, case: &Case) {
        let Case { name, frame, want } = case;
        let (verdict, attempt) = self.judge(frame);
        let want = self.published(*want, &attempt);
        assert_eq!(verdict, want, "{name}: user space");
        self.kernel.forget_origin(&source(&attempt));
        let before = self.kernel.counts();
        assert_eq!(self.passes(frame), self.lets_pass(want), "{name}: passes");
        let counted = plus_one(before, (ID, number(want)));
        assert_eq!(self.kernel.counts(), counted, "{name}: counted");
        self.check_trace(name, want, &attempt);
    }

    /// What the kernel keeps of a packet shows that it read the same as user space.
    fn check_trace(&self, name: &str, verdict: Verdict, attempt: &Attempt) {
        match verdict {
            Verdict::Deny(reason) => {
                let window = self.kernel.report(&report_key(attempt, reason));
                assert_eq!(window.is_some(), !reason.is_quiet(), "{name}: reported");
            }
            Verdict::Allow | Verdict::Redirect(_) => {
                let origin = self.kernel.origin(&source(attempt));
                assert_eq!(
                    origin.map(|origin| (origin.endpoint, origin.destination, origin.port)),
                    is_published(attempt).then_some((
                        ID,
                        attempt.destination,
                        attempt.destination_port
                    )),
                    "{name}: published"
                );
            }
        }
    }
}

/// Makes the process's cgroup the endpoint's.
pub(crate) fn put_in_cgroup(kernel: &mut Kernel, inside: &Inside) {
    let cgroup = inside.id();
    kernel.insert(maps::CGROUPS, cgroup.id, ID);
    kernel.set_config(1 << cgroup.level);
}

/// The scene's endpoint in a mode, with flags.
pub(crate) fn endpoint(mode: u8, flags: u8) -> Endpoint {
    Endpoint {
        mode,
        flags,
        ..scene::endpoint()
    }
}

/// Under which number of [`Counts`] a verdict on a packet is counted.
pub(crate) fn number(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Allow => 0,
        Verdict::Deny(reason) => reason as u8,
        Verdict::Redirect(_) => panic!("packets are not sent elsewhere"),
    }
}

pub(crate) fn plus_one(mut counts: Counts, slot: (u32, u8)) -> Counts {
    *counts.entry(slot).or_default() += 1;
    counts
}

/// Where the origin of an attempt is published.
pub(crate) fn source(attempt: &Attempt) -> OriginQuery {
    OriginQuery {
        address: attempt.source,
        port: attempt.source_port,
        protocol: attempt.protocol,
        reserved: 0,
    }
}

fn report_key(attempt: &Attempt, reason: DropReason) -> ReportKey {
    ReportKey {
        endpoint: ID,
        destination: attempt.destination,
        port: attempt.destination_port,
        protocol: attempt.protocol,
        reason: reason as u8,
    }
}

/// What opens something with the gateway.
fn is_published(attempt: &Attempt) -> bool {
    let opens = attempt.opens() || attempt.protocol == UDP;
    opens && scene::gateway().is_at(&attempt.destination)
}
