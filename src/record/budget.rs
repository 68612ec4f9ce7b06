//! The bytes that a browser's cookie has for each owner's entries.

/// Bytes that the browser has for the entries of each owner. Apart, so that what one browser of a principal accepted
/// fits all the others, whatever their own sessions hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) session: usize,
    pub(crate) principal: usize,
    /// Bytes of the session's that are kept for the value which says who is signed in.
    pub(crate) identity: usize,
}

/// The bytes that an entry takes whose name and JSON have these lengths; a tombstone has no JSON.
pub(crate) const fn entry_len(name: usize, json: Option<usize>) -> usize {
    let json = match json {
        Some(len) => 2 + len,
        None => 0,
    };
    2 + name + 8 + json
}
