#![no_main]
#![doc = "See `egress_fuzz::dns`."]

use egress_fuzz::{dns, seeds};

libfuzzer_sys::fuzz_target!(
    init: seeds::write(seeds::queries),
    |data: &[u8]| dns::check(data)
);
