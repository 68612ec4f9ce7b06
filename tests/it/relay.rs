//! Tokens that a page brings from its socket.
//!
//! - `tokens`: relay tokens, and what they bring to the cookie
//! - `birth_tokens`: tokens that give the cookie of a new session to one browser
//! - `orders`: sign-ins and renewals that a page brings
//! - `refused_orders`: the reasons to refuse an order
//! - `removal_tokens`: sign-outs on a socket, and the removal of the cookie

mod birth_tokens;
mod orders;
mod refused_orders;
mod removal_tokens;
mod tokens;
