//! `moorline::fuzzing::websocket_over_http` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| moorline::fuzzing::websocket_over_http(bytes));
