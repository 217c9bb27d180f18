//! What the compiler says of common mistakes. `TRYBUILD=overwrite cargo test -p queue-macros --test mistakes` writes the texts
//! anew, and a reader decides whether they still help.

#![allow(clippy::print_stderr)] // why nothing was compared

/// The toolchain whose texts are compared: the oldest that the workspace supports. Another words its errors in another way.
const TOOLCHAIN: &str = concat!("rustc ", env!("CARGO_PKG_RUST_VERSION"), ".");

#[test]
fn common_mistakes_do_not_compile_and_the_message_says_what_would_work() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = std::process::Command::new(rustc).arg("--version").output().unwrap().stdout;
    let version = String::from_utf8(version).unwrap();
    if !version.starts_with(TOOLCHAIN) {
        eprintln!("not compared: the texts are those of {TOOLCHAIN}*, and this is {version}");
        return;
    }
    trybuild::TestCases::new().compile_fail("tests/mistakes/*.rs");
}
