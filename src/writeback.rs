//! [`SessionWriteback`](service::SessionWriteback): the endpoint of pages for values, and their hook.

mod accept;
pub(crate) mod admission;
pub(crate) mod asset;
mod body;
mod events;
pub(crate) mod numbers;
pub(crate) mod reply;
mod request;
pub(crate) mod service;
pub(crate) mod stream;
