//! The beginning, the renewal and the end of a session.
//!
//! - `first_lifetime`: the lifetime with which a session begins
//! - `lifetimes`: idle and absolute lifetimes of sessions, values and cookies
//! - `expiry`: the use that extends a session, and the sweep of expired records
//! - `clock_skew`: nodes whose clocks differ
//! - `clock_steps`: a clock that is set back or forward
//! - `renewal`: sign-in and renewal, and the data that moves to the new id
//! - `predecessor`: the old id, named by a new cookie for a minute
//! - `sign_out`: sign-outs that meet a renewal
//! - `own_end`: a handle after the end of its own session
//! - `ended_elsewhere`: browsers with the cookie of a session that another browser or tab has ended
//! - `end_all`: the end of all sessions of a user
//! - `late_tokens`: older cookies, tokens and handles that revive nothing
//! - `late_loads`: sessions that load after the response head has left

mod clock_skew;
mod clock_steps;
mod end_all;
mod ended_elsewhere;
mod expiry;
mod first_lifetime;
mod late_loads;
mod late_tokens;
mod lifetimes;
mod own_end;
mod predecessor;
mod renewal;
mod sign_out;
