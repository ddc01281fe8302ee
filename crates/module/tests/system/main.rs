//! Modules that change packages, accounts and services, tested on a real system: a scratch root made by debootstrap, with
//! its own namespaces and its own systemd as process 1.
//!
//! The scratch root is made once and kept in the target directory; every run works on an overlay of it. The program puts
//! itself in there and runs the tests inside, one after another. What cannot be had on this machine is a test that says
//! why it was ignored.

#[path = "../../src/fidelity/comparison.rs"]
mod comparison;
mod observation;
mod outside;
mod scratch;
mod world;

mod accounts;
mod commands;
mod kernel;
mod packages;
mod services;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// A test and the world that it needs.
pub struct Test {
    pub name: &'static str,
    pub world: &'static str,
    pub run: fn(),
}

fn tests() -> Vec<Test> {
    let test = |world| move |(name, run): &(&'static str, fn())| Test { name, world, run: *run };
    let systemd =
        [commands::TESTS, accounts::TESTS, services::TESTS, packages::TESTS, kernel::TESTS].concat();
    let openrc = services::OPENRC.iter().map(test("openrc"));
    systemd.iter().map(test("systemd")).chain(openrc).chain(packages::DNF.iter().map(test("dnf"))).collect()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [inside, world, wanted @ ..] = &args[..]
        && inside == "--inside"
    {
        return inside_of(world, wanted);
    }
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted =
        |test: &Test| filters.is_empty() || filters.iter().any(|filter| test.name.contains(filter.as_str()));
    let tests: Vec<Test> = tests().into_iter().filter(is_wanted).collect();
    if args.iter().any(|arg| arg == "--list") {
        tests.iter().for_each(|test| println!("{}: test", test.name));
        return ExitCode::SUCCESS;
    }
    outside::run(&tests)
}

/// In the scratch root: runs the tests and says how each went.
fn inside_of(world: &str, wanted: &[String]) -> ExitCode {
    let is_wanted = |test: &Test| test.world == world && wanted.iter().any(|name| name == test.name);
    for test in tests().into_iter().filter(is_wanted) {
        let passed = catch_unwind(AssertUnwindSafe(test.run)).is_ok();
        println!("test {} ... {}", test.name, if passed { "ok" } else { "FAILED" });
    }
    println!("done");
    ExitCode::SUCCESS
}
