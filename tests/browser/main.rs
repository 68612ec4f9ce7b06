//! Pages in real Chromium: the page, the server and the browser's cookie together.
//!
//! Each test starts its own server and its own browser. A test waits for the content of a page with a deadline, and no
//! test is correct by a sleep. `tests/all.sh` installs the tools that these tests need.

mod away;
mod browser;
mod cart;
mod cluster;
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
mod port;
mod process;
mod proxy;
mod requests;
mod server;
mod sites;
mod streams;
mod tab;
mod tabs;
mod users;
mod visits;

use process::Result;
