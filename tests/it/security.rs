//! Attacks, and the secrets that traces, `Debug` and stores hide.
//!
//! - `cross_site`: requests that another site caused
//! - `listed_origins`: pages of public origins that the application lists
//! - `socket_origin`: sockets that another site opens
//! - `forged_tokens`: tokens that are forged, swapped, replayed or late
//! - `untrusted_input`: arbitrary bytes in cookies, bodies and tokens
//! - `secrets`: traces, `Debug` and stores show no secret
//! - `traces`: traces of the same fault, at most one a minute

mod cross_site;
mod forged_tokens;
mod listed_origins;
mod secrets;
mod socket_origin;
mod traces;
mod untrusted_input;
