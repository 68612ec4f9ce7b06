//! The guide: one chapter for each question that an application meets, in the order in which the questions come.
//!
//! | chapter | answers |
//! |---|---|
//! | [`first_steps`] | How does a choice survive a restart of the server? |
//! | [`values_and_scopes`] | How is a value declared, read and written, and who owns the value? |
//! | [`tiers`] | Where does an answer come from, and how much fits the cookie? |
//! | [`lifetimes`] | When does a session end, and what does "remember me" do? |
//! | [`login`] | How does a user sign in, and in which order do the layers stand? |
//! | [`live_pages`] | How does an open page follow and change a session? |
//! | [`several_nodes`] | Which store do several nodes share, and what does a node do while the store is away? |
//! | [`without_axum`] | How do hyper, tonic and clients that are no browsers use a session? |
//! | [`testing`] | How does a test get a session? |
//! | [`guarantees`] | What does the crate promise, where does a promise end, and which test shows the promise? |
//! | [`glossary`] | What does a word of the docs mean? |
//!
//! Every program of the guide is compiled, and all but the servers run, with the tests of this crate.

#[doc = include_str!("guide/first_steps.md")]
pub mod first_steps {}

#[doc = include_str!("guide/values_and_scopes.md")]
pub mod values_and_scopes {}

#[doc = include_str!("guide/tiers.md")]
pub mod tiers {}

#[doc = include_str!("guide/lifetimes.md")]
pub mod lifetimes {}

#[doc = include_str!("guide/login.md")]
pub mod login {}

#[doc = include_str!("guide/live_pages.md")]
pub mod live_pages {}

#[doc = include_str!("guide/several_nodes.md")]
pub mod several_nodes {}

#[doc = include_str!("guide/without_axum.md")]
#[cfg_attr(feature = "tonic-0_14", doc = include_str!("guide/without_axum_tonic.md"))]
#[cfg_attr(not(feature = "tonic-0_14"), doc = "# tonic\n\nThis part comes with the feature `tonic-0_14`.\n")]
/// Next: [`testing`].
pub mod without_axum {}

#[cfg_attr(feature = "testing", doc = include_str!("guide/testing.md"))]
#[cfg_attr(not(feature = "testing"), doc = "Testing: a chapter of the feature `testing`.")]
pub mod testing {}

#[doc = include_str!("guide/guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("guide/glossary.md")]
pub mod glossary {}
