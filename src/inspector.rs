//! [`SessionInspector`](service::SessionInspector): a page that shows one's own session, live, and what each tier says.

mod events;
mod report;
pub(crate) mod service;
