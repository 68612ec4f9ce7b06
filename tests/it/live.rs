//! Handles, watches and streams that outlive their request.
//!
//! - `changes`: watches, change streams and writes after the response
//! - `watch_races`: a watch while the session is renewed, expires or is revoked
//! - `equal_versions`: two writes at the same version
//! - `socket_use`: the use of a session on a socket
//! - `event_stream`: the event stream of the writeback
//! - `page_values`: values that pages can read, in the event stream and the inspector

mod changes;
mod equal_versions;
mod event_stream;
mod page_values;
mod socket_use;
mod watch_races;
