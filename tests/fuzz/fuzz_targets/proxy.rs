//! `moorline::fuzzing::proxy` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| moorline::fuzzing::proxy(bytes));
