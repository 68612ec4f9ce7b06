//! Tokens that a page brings from its socket.
//!
//! - `tokens`: relay tokens, and the changes that a relay token carries to the cookie
//! - `birth_tokens`: tokens that give the cookie of a new session to one browser
//! - `orders`: sign-in orders and renewal orders that a node carries out
//! - `refused_orders`: sign-in orders that a node refuses, with the reasons
//! - `removal_tokens`: sign-outs on a socket, and the removal of the cookie

mod birth_tokens;
mod orders;
mod refused_orders;
mod removal_tokens;
mod tokens;
