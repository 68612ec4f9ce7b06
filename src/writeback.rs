//! [`SessionWriteback`](service::SessionWriteback): what pages may write and read, and the hook that they do it with.

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
