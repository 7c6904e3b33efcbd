#![no_main]
#![doc = "See `egress_fuzz::request_line`."]

use egress_fuzz::{request_line, seeds};

libfuzzer_sys::fuzz_target!(
    init: seeds::write(seeds::request_lines),
    |data: &[u8]| request_line::check(data)
);
