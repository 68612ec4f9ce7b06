//! The part of a web site that the examples share: the start of the server, the keys of the cookie, and the frame and the
//! styles of a page.

pub(crate) mod html;
pub(crate) mod keys;
pub(crate) mod serve;
