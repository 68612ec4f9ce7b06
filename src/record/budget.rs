//! The bytes that a browser's cookie has for each owner's entries.

/// The bytes that the browser has for the entries of each owner. Each owner has its own bytes, so that principal values
/// accepted for one browser fit all other browsers of the principal, whatever their sessions hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) session: usize,
    pub(crate) principal: usize,
    /// The bytes of the session's budget that are reserved for the identity value.
    pub(crate) identity: usize,
}

/// Returns the bytes of an entry with a name and JSON of these lengths; a tombstone has no JSON.
pub(crate) const fn entry_len(name: usize, json: Option<usize>) -> usize {
    let json = match json {
        Some(len) => 2 + len,
        None => 0,
    };
    2 + name + 8 + json
}
