//! Looks whether sets are still what they should be.

use egress_common::maps;

use crate::enforcer::{
    Enforcer,
    direct::half::{self, BYTES_AT_ONCE, Looked},
    tamper::Fault,
};

/// Sets that one look is at.
const AT_ONCE: usize = 64;

impl Enforcer {
    /// Looks whether sets are where they should be and hold what they should, of some sets a call,
    /// and mends them.
    pub(in crate::enforcer) fn mend_direct(&mut self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut bytes = 0;
        for _ in 0..AT_ONCE.min(self.sets.by_number.len()) {
            let mut after = self.sets.by_number.range(self.sets.looked + 1..);
            let Some(number) = after.next().map(|(number, _)| *number) else {
                self.sets.looked = 0;
                continue;
            };
            let [v4, v6] = self.mend_set(number);
            bytes += v4.bytes + v6.bytes;
            // What is large is gone through in several looks.
            if !v4.is_more && !v6.is_more {
                self.sets.looked = number;
                if let Some(set) = self.sets.by_number.get_mut(&number) {
                    set.v4.rewind();
                    set.v6.rewind();
                }
            }
            faults.extend(v4.faults.into_iter().chain(v6.faults));
            if bytes >= BYTES_AT_ONCE {
                break;
            }
        }
        faults
    }

    fn mend_set(&mut self, number: u32) -> [Looked; 2] {
        let (Ok(outer4), Ok(outer6), Some(set)) = (
            self.written.map(maps::DIRECT4),
            self.written.map(maps::DIRECT6),
            self.sets.by_number.get_mut(&number),
        ) else {
            return Default::default();
        };
        let pin = |name| half::pin(&self.pins, name, set.place);
        [
            set.v4.mend(outer4, set.place, &pin(maps::DIRECT4)),
            set.v6.mend(outer6, set.place, &pin(maps::DIRECT6)),
        ]
    }
}
