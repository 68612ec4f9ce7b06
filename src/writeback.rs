//! [`SessionWriteback`](service::SessionWriteback): the endpoint of pages for values, and their hook.

pub(crate) mod accept;
pub(crate) mod asset;
mod body;
mod events;
pub(crate) mod reply;
pub(crate) mod service;
pub(crate) mod stream;
