//! The fixtures that the tests share.
//!
//! - `app`: the application with its keys, its clock and its nodes; `node`: one node; `browser`: a browser with its jar
//! - `visits`: the acts of a browser; `turns`: sign-ins and sign-outs that a page brings from its socket
//! - `values`: values and spans of time; `tokens`: the text of cookies and tokens; `forgery`: forged tokens
//! - `tiers`: scripted tiers; `trace`: the traces of a test; `waiting`: futures that may or may not wait
//! - `cluster`: random programs of three nodes; `history`: the acts that a node must not do any more

mod app;
mod browser;
mod cluster;
mod forgery;
mod history;
mod node;
mod tiers;
mod tokens;
mod trace;
mod turns;
mod values;
mod visits;
mod waiting;

pub(crate) use self::{
    app::{App, bare, builder, chain, cookie, declared, memory, memory_of, named, ring},
    browser::Browser,
    cluster::{Cluster, STEP, Tally},
    forgery::{PURPOSES, forge, parts},
    node::{Answer, BoxFuture, Node},
    tiers::{ScriptedSource, empty_source, nothing, source, store},
    tokens::{attributes, id_of, max_age, parsed, set_cookies},
    trace::{Trace, spellings},
    turns::{Mfa, assert_refused, bring_ok, id, is_ada, login, mfa_node, principal},
    values::{DAY, Division, HOUR, NumberedTheme, TICK, Theme, User, Visits, dark, theme, user},
    visits::{
        bring, carried, first_write, get, kind, post, seen, set, sign_in, signed_in, socket, under_way, upgrade,
        visit_as, visitor,
    },
    waiting::{BEAT, at_once, settled, soon, ticking, told, waiting_for},
};
