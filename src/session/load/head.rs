//! The head of a request: everything by which the request's session is found.

use std::sync::{Arc, atomic::Ordering};

use http::request::Parts;

use crate::{
    cookie::header::Fields,
    cross_site::CrossSite,
    id::Principal,
    node::Node,
    value::{Json, ValueIndex},
};

/// What the layer notes of a request's head.
#[derive(Clone)]
pub(crate) struct RequestHead {
    pub(crate) node: Arc<Node>,
    pub(crate) cookies: Option<Fields>,
    /// How another site caused the request, if another site did.
    pub(crate) cross_site: Option<CrossSite>,
    /// The request asks for another protocol, such as WebSocket.
    pub(crate) upgrade: bool,
    pub(crate) facts: Option<Box<HeadFacts>>,
}

/// The answers of the head, if the chain has a question to it.
#[derive(Clone, Default)]
pub(crate) struct HeadFacts {
    pub(crate) identified: Option<Principal>,
    pub(crate) defaults: Vec<(ValueIndex, Json)>,
    /// For sources. Shared, since a copy would run the application's code.
    pub(crate) parts: Option<Arc<Parts>>,
}

impl RequestHead {
    /// The cookies, unless the request is one whose cookies do not count.
    pub(super) fn counted_cookies(&self) -> Option<&Fields> {
        self.cookies.as_ref().filter(|_| self.cross_site != Some(CrossSite::Upgrade))
    }

    /// Whether the token alone decides the session.
    pub(in crate::session) fn is_plain(&self) -> bool {
        self.facts.is_none() && self.node.revocations.load(Ordering::Acquire) == 0
    }
}
