//! (being built)

use std::process::ExitCode;

/// Entry of the re-executed binary.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
