#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    mainstay_core_fuzz::states_file(bytes);
});
