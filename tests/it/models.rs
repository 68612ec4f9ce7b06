//! Random programs against plain models.
//!
//! - `one_node`: browsers, sockets and time at one node
//! - `two_nodes`: browsers, sockets and jobs on two nodes over a store that loses and delays calls
//! - `users`: users on several nodes, and tokens that memory recognises

mod one_node;
mod two_nodes;
mod users;
