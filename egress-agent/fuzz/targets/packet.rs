#![no_main]
#![doc = "See `egress_fuzz::packet`."]

use egress_fuzz::{packet, seeds};

libfuzzer_sys::fuzz_target!(
    init: seeds::write(seeds::packets),
    |data: &[u8]| packet::check(data)
);
