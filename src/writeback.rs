//! [`SessionWriteback`](service::SessionWriteback): what pages may write and read, and the hook that they do it with.

mod asset;
mod body;
mod events;
pub(crate) mod origin;
mod request;
pub(crate) mod service;

pub(crate) mod reply;
