#![no_main]
#![doc = "See `egress_fuzz::client_hello`."]

use egress_fuzz::{client_hello, seeds};

libfuzzer_sys::fuzz_target!(
    init: seeds::write(seeds::client_hellos),
    |data: &[u8]| client_hello::check(data)
);
