#![no_main]
#![doc = "See `egress_fuzz::http`."]

use egress_fuzz::{http, seeds};

libfuzzer_sys::fuzz_target!(
    init: seeds::write(seeds::requests),
    |data: &[u8]| http::check(data)
);
