//! The `mainstay` program. Everything is in the library.

fn main() -> std::process::ExitCode {
    mainstay::cli::main()
}
