//! Extractors, responses and statuses of the frameworks that have a feature.

#[cfg(feature = "axum-0_8")]
pub(crate) mod axum;
#[cfg(feature = "tonic-0_14")]
mod tonic;
