//! Random programs against plain models.
//!
//! - `one_node`: browsers, sockets and time at one node
//! - `users`: users on several nodes, and tokens that memory recognises

mod one_node;
mod users;
