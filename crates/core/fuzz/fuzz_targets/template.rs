#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    mainstay_core_fuzz::template(bytes);
});
