//! What a user can see, through the public API.

mod smoke;
mod world;
