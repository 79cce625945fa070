//! `moorline::fuzzing::management` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| moorline::fuzzing::management(bytes));
