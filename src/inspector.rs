//! [`SessionInspector`](service::SessionInspector): a live page of the visitor's own session, with each tier's answer.

mod events;
mod report;
pub(crate) mod service;
