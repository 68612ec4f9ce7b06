//! What a user can see, through the public API.

mod review;
mod smoke;
mod world;
