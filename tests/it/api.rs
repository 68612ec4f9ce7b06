//! The API as a whole.
//!
//! - `first_steps`: a value, a restart, a sign-in and a sign-out in a few lines
//! - `build`: the errors of `build()`, and the configured cookie
//! - `auto_traits`: the `Send`, `Sync` and `Unpin` of the public types
//! - `docs`: the width, length and promises of the docs
//! - `imports`: the arrows between the modules of the crate
//! - `references`: the entries of the guarantees that comments name, and the tests that the entries name

mod auto_traits;
mod build;
mod docs;
mod first_steps;
mod imports;
mod references;
