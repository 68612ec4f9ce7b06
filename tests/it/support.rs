//! The fixtures that the tests share.
//!
//! - `app`: the application with its keys, its clock and its nodes; `node`: one node; `browser`: a browser with its jar
//! - `visits`: the acts of a browser; `turns`: sign-ins and sign-outs that a page brings from its socket
//! - `values`: values and spans of time; `tokens`: the text of cookies and tokens; `forgery`: forged tokens
//! - `tiers`: scripted tiers; `trace`: the traces of a test; `waiting`: futures that must or must not wait
//! - `cluster`: random programs of three nodes; `history`: the acts that no node may do any more

pub(crate) mod app;
pub(crate) mod browser;
pub(crate) mod cluster;
pub(crate) mod forgery;
pub(crate) mod history;
pub(crate) mod node;
pub(crate) mod tiers;
pub(crate) mod tokens;
pub(crate) mod trace;
pub(crate) mod turns;
pub(crate) mod values;
pub(crate) mod visits;
pub(crate) mod waiting;
