//! Pages in real Chromium: the page, the server and the browser's cookie together.
//!
//! Each test starts its own server and its own browser. What the page shows is awaited with a deadline and nothing sleeps
//! to be right. `tests/all.sh` installs what these tests need.

mod away;
mod browser;
mod cart;
mod faulty;
mod guide;
mod hook;
mod idle;
mod inspector;
mod lan;
mod login;
mod logins;
mod looks;
mod nodes;
mod origins;
mod pictures;
mod proxy;
mod requests;
mod server;
mod sites;
mod streams;
mod tab;
mod tabs;
mod users;
mod visits;

/// Errors are only ever shown to whoever reads the failed test.
type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;
