//! [`SessionWriteback`](service::SessionWriteback): the endpoint of pages for values, and their hook.

pub(crate) mod asset;
pub(crate) mod body;
mod events;
pub(crate) mod reply;
pub(crate) mod service;
pub(crate) mod stream;
