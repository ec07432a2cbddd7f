#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| slim_fuzz::link(input));
