//! The middleware: layer, service, future, and the variant that loads before it calls.

mod caching;
pub(crate) mod layer;
pub(crate) mod preload;
pub(crate) mod service;
