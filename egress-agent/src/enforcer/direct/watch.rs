//! Looks whether sets are still what they should be.

use std::os::fd::AsFd as _;

use egress_common::maps;

use crate::enforcer::{
    Enforcer, attach::pin as pin_again, direct::pin_name, own::is_in_place, sys, tamper::Fault,
    written::MapCopy,
};

/// Sets that one look is at.
const AT_ONCE: usize = 64;

impl Enforcer {
    /// Looks whether sets are where they should be and hold what they should, of some sets a call,
    /// and mends them.
    pub(in crate::enforcer) fn mend_direct(&mut self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut looked = 0;
        for _ in 0..AT_ONCE.min(self.sets.by_number.len()) {
            let mut after = self.sets.by_number.range(self.sets.looked + 1..);
            let Some(number) = after.next().map(|(number, _)| *number) else {
                self.sets.looked = 0;
                continue;
            };
            faults.extend(self.mend_place(number));
            let place = self.sets.place(number);
            let Some(held) = self.held_mut(number) else {
                self.sets.looked = number;
                continue;
            };
            let (count, fault) = held.copy.mend(&pin_name(place));
            faults.extend(fault);
            looked += count;
            // What is large is gone through in several looks.
            if held.copy.is_gone_through() {
                self.sets.looked = number;
            }
            if looked >= MapCopy::AT_ONCE {
                break;
            }
        }
        faults
    }

    fn mend_place(&self, number: u32) -> Option<Fault> {
        let set = self.sets.by_number.get(&number)?;
        let held = set.held.as_ref()?;
        let outer = self.written.map(maps::DIRECT).ok()?;
        let pin = self.set_pin(set.place);
        let what = if !is_in_place(outer, set.place, held.id) {
            "it was gone or another"
        } else if !sys::get(&pin)
            .is_ok_and(|map| sys::id(map.as_fd()).is_ok_and(|id| id == held.id))
        {
            "its pin was gone or another's"
        } else {
            return None;
        };
        let mended = sys::put_map(outer, set.place, held.copy.fd())
            .and_then(|()| pin_again(held.copy.fd(), &pin));
        Some(Fault {
            endpoint: None,
            what: format!("map {}: {what}", pin_name(set.place)),
            failed: mended.err().map(|error| error.to_string()),
        })
    }
}
