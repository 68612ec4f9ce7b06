//! Pages in real Chromium: the page, the server and the browser's cookie together.
//!
//! Each test starts its own server and its own browser. A test waits for the content of a page with a deadline, and no
//! test is correct by a sleep. `tests/all.sh` installs the tools that these tests need.

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

/// The error of a test. Only the reader of a failed test sees the text.
type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;
