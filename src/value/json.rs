//! [`Json`]: the JSON bytes of one value. Most values are a number, a word or a flag.

use std::{fmt, ops::Deref, sync::Arc};

use serde::Serialize;
use smallvec::SmallVec;

/// JSON bytes: short bytes in place, long bytes shared.
///
/// A session with one integer takes 64 bytes less than with the bytes on the heap, and a read copies the integer out of
/// the record without a reference count that all readers change. The length alone decides the form, and the unused
/// bytes of the short form are zero, so the derived equality compares exactly the JSON bytes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Json {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Arc<[u8]>),
}

/// The maximum bytes of the short form: with the length, both forms take 24 bytes. An `i64` has 20 characters at most.
const SHORT: usize = 22;

impl Json {
    /// Encodes a value. A short text needs no heap allocation.
    pub(crate) fn encode(value: &impl Serialize) -> serde_json::Result<Self> {
        let mut text = SmallVec::<[u8; SHORT]>::new();
        serde_json::to_writer(&mut text, value)?;
        Ok(Self::from(&*text))
    }

    /// Returns the bytes on the heap, with the two reference counts.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::Short { .. } => 0,
            Self::Long(bytes) => bytes.len() + 2 * size_of::<usize>(),
        }
    }
}

impl From<&[u8]> for Json {
    fn from(json: &[u8]) -> Self {
        let mut bytes = [0; SHORT];
        match bytes.get_mut(..json.len()) {
            Some(place) => {
                place.copy_from_slice(json);
                Self::Short { len: json.len() as u8, bytes }
            }
            None => Self::Long(json.into()),
        }
    }
}

impl Deref for Json {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

/// Prints the length alone: the bytes are the application's, and may be secret.
impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_bytes_at_every_length() {
        for len in 2..3 * SHORT {
            let text = "x".repeat(len - 2);
            let (encoded, bytes) = (Json::encode(&text).unwrap(), format!("\"{text}\""));
            assert_eq!((&*encoded, &encoded), (bytes.as_bytes(), &Json::from(bytes.as_bytes())));
            assert_eq!(encoded.heap_bytes() == 0, len <= SHORT);
        }
        assert_eq!(size_of::<Option<Json>>(), 24);
    }
}
