//! [`SessionWriteback`](service::SessionWriteback): what pages may write, and the hook that they write with.

pub(crate) mod origin;
mod request;
pub(crate) mod service;

pub(crate) mod reply;
